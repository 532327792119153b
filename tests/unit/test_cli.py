"""What the root command says of itself."""

from __future__ import annotations

import subprocess

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.machine.folders import REPO


def test_version_names_the_release_and_the_revision() -> None:
    head = subprocess.run(["git", "-C", str(REPO), "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        pytest.skip("this copy of the sources has no git history to name a revision of")
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0
    said = done.output.strip().removesuffix("-dirty")
    release, _, revision = said.partition("+")
    assert release.startswith("bakeoff ")
    assert len(revision) >= 7
    assert head.stdout.startswith(revision)
