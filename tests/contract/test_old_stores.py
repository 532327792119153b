"""Stores that earlier revisions wrote: read, verified, shown, reported and resumed by this one.

`tests/fixtures/stores-9651ac0.tar.xz` was written by revision 9651ac0 from the quick environment (`tests/quick.py`):
`first` a campaign with confirmations, `forked` one that starts from a trial of it, `killed` one that a SIGKILL ended
between the verdict on a champion and its sealed score; `recipes` and `home/data` are the environment and its data.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import quick
import s3fs
from s3server import S3Server

ARCHIVE = Path(__file__).resolve().parents[1] / "fixtures" / "stores-9651ac0.tar.xz"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, old: Path) -> Callable[[str], str]:
    """Where an old run is: its folder, or a copy of its objects in a bucket."""
    if request.param == "folder":
        return lambda run: run
    root: str = request.getfixturevalue("s3_root")

    def copied(run: str) -> str:
        server: S3Server = request.getfixturevalue("s3_server")
        client = s3fs.S3FileSystem(endpoint_url=server.endpoint, skip_instance_cache=True)
        for path in sorted(file for file in (old / run).rglob("*") if file.is_file()):
            client.pipe_file(f"{root}/{run}/{path.relative_to(old / run).as_posix()}", path.read_bytes())
        return f"{root}/{run}"

    return copied


def environ(old: Path) -> dict[str, str]:
    bucket = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return {**quick.environ(old / "person", old / "recipes"), "BAKEOFF_HOME": str(old / "home"), **bucket}


@pytest.mark.parametrize("name", ["first", "forked"])
def test_an_old_store_is_verified_shown_and_reported(
    old: Path, place: Callable[[str], str], name: str
) -> None:
    env, run = environ(old), place(name)
    said = quick.call("verify", run, env=env, cwd=old)
    assert said.returncode == 0 and "every hash and chain holds; 0 notes" in said.stdout, said.stdout
    shown = quick.call("show", run, "--json", env=env, cwd=old)
    assert shown.returncode == 0 and json.loads(shown.stdout)
    for command in ("summary", "report", "audit"):
        done = quick.call(command, run, env=env, cwd=old)
        assert done.returncode == 0, done.stderr


def test_an_old_campaign_without_a_sealed_score_says_so(old: Path, place: Callable[[str], str]) -> None:
    said = quick.call("verify", place("killed"), env=environ(old), cwd=old)
    assert said.returncode == 0 and "has no sealed score yet: a resume measures it" in said.stdout


@pytest.mark.slow
def test_an_old_campaign_is_resumed_and_its_champion_sealed(old: Path, place: Callable[[str], str]) -> None:
    env, run = environ(old), place("killed")
    quick.bakeoff("resume", run, env=env, cwd=old)
    said = quick.call("verify", run, env=env, cwd=old)
    assert said.returncode == 0 and "every hash and chain holds; 0 notes" in said.stdout
