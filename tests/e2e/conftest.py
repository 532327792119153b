"""A finished campaign of five trials that several test files read; who changes it works on a copy."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import quick


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, str], subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("campaign")
    quick.make(folder / "recipes")
    env = quick.environ(folder / "home", folder / "recipes")
    quick.bakeoff("prepare", "quick", env=env, cwd=folder)
    done = quick.bakeoff("run", "quick", "--run", "r", "--trials", "5", "--plain", env=env, cwd=folder)
    return folder, env, done
