"""Stores that earlier revisions wrote: read, verified, shown, reported and resumed by this one.

`tests/fixtures/stores-9651ac0.tar.xz` was written by revision 9651ac0 from the quick environment (`tests/quick.py`):
`first` a campaign with confirmations, `forked` one that starts from a trial of it, `killed` one that a SIGKILL ended
between the verdict on a champion and its sealed score; `recipes` and `home/data` are the environment and its data.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import quick

ARCHIVE = Path(__file__).resolve().parents[1] / "fixtures" / "stores-9651ac0.tar.xz"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def environ(old: Path) -> dict[str, str]:
    return {**quick.environ(old / "person", old / "recipes"), "BAKEOFF_HOME": str(old / "home")}


@pytest.mark.parametrize("run", ["first", "forked"])
def test_an_old_store_is_verified_shown_and_reported(old: Path, run: str) -> None:
    env = environ(old)
    said = quick.call("verify", run, env=env, cwd=old)
    assert said.returncode == 0 and "every hash and chain holds; 0 notes" in said.stdout
    shown = quick.call("show", run, "--json", env=env, cwd=old)
    assert shown.returncode == 0 and json.loads(shown.stdout)
    for command in ("summary", "report", "audit"):
        done = quick.call(command, run, env=env, cwd=old)
        assert done.returncode == 0, done.stderr


def test_an_old_campaign_without_a_sealed_score_says_so(old: Path) -> None:
    said = quick.call("verify", "killed", env=environ(old), cwd=old)
    assert said.returncode == 0 and "has no sealed score yet: a resume measures it" in said.stdout


@pytest.mark.slow
def test_an_old_campaign_is_resumed_and_its_champion_sealed(old: Path) -> None:
    env = environ(old)
    quick.bakeoff("resume", "killed", env=env, cwd=old)
    said = quick.call("verify", "killed", env=env, cwd=old)
    assert said.returncode == 0 and "every hash and chain holds; 0 notes" in said.stdout
