"""What lies in a person's working folder, or is installed beside Bakeoff, does not reach the engine; or is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import quick

from flows import start

LOUD = "raise SystemExit('a file of the working folder was imported')\n"
NAMES = (
    "click.py",
    "tokenize.py",
    "types.py",
    "agents.py",
    "flows.py",
    "uvicorn.py",
    "numpy.py",
    "logging.py",
)


def bakeoff(*arguments: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """By the installed command's own way in: the script's folder is on the path, the working folder is not."""
    program = cwd.parent / "bin/bakeoff"
    program.parent.mkdir(exist_ok=True)
    program.write_text("from flows.start import main\nmain()\n")
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        env={**env, "PYTHONPATH": str(quick.ROOT)}, cwd=cwd, capture_output=True, text=True, timeout=280,
    )  # fmt: skip


@pytest.mark.slow  # 30 s: a campaign
def test_files_called_like_modules_in_the_working_folder_reach_nothing(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for name in NAMES:
        (work / name).write_text(LOUD)
    quick.make(tmp_path / "recipes")
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    for command in (
        ["prepare", quick.NAME],
        ["run", quick.NAME, "--trials", "1", "--run", "run"],
        ["show", "run"],
    ):
        done = bakeoff(*command, env=env, cwd=work)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "t0001" in done.stdout


def test_a_package_of_the_same_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "site/agents").mkdir(parents=True)
    (tmp_path / "site/agents/__init__.py").write_text('"""Another."""\n')
    path = os.pathsep.join([str(tmp_path / "site"), str(quick.ROOT)])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "flows.start", "--version"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 5 and done.stdout == ""
    assert f"agents comes from {tmp_path / 'site/agents'}, not from {quick.ROOT}" in done.stderr
    assert "pipx install" in done.stderr and "Traceback" not in done.stderr


def test_a_package_that_was_overwritten_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "agents_x").mkdir()
    (tmp_path / "agents_x/__init__.py").write_text('"""Ours."""\n\nfrom typing import Any\n')
    info = tmp_path / "other_agents-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-agents\nVersion: 1.0\n")
    (info / "RECORD").write_text("agents_x/__init__.py,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert start.foreign("agents_x", tmp_path) == (
        f"{tmp_path / 'agents_x/__init__.py'} was overwritten by other-agents"
    )
    assert start.foreign("agents_y", tmp_path) == "agents_y is not there"
    assert all(start.foreign(package, quick.ROOT) == "" for package in start.PACKAGES)
