"""Fixtures of the GPU tests: the device, homes, and the record that a run leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cuda_lab
import gpu_record
import pytest

RECORD = gpu_record.Record()


@pytest.fixture(scope="session")
def record() -> gpu_record.Record:
    return RECORD


@pytest.fixture(scope="session")
def device() -> Any:
    """The first GPU that may be used; skips where there is none, with the reason."""
    why = cuda_lab.why_not()
    if why:
        pytest.skip(why)
    found = cuda_lab.first_device()
    RECORD.device = cuda_lab.describe(found)
    return found


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cuda_lab.CudaLab]:
    """Homes and recipes that all tests of a run share, so that a server's database is made once."""
    yield cuda_lab.CudaLab(tmp_path_factory.mktemp("gpu"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report: pytest.TestReport = yield
    if item.get_closest_marker("gpu") is not None:
        why = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr or "")
        RECORD.outcome(item.name.removeprefix("test_"), report.outcome, report.duration, why[-400:])
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """In the summary, so that the line can be copied from where the file cannot be fetched."""
    if not RECORD.checks:
        return
    path: Path | None = RECORD.write()
    if path is None:
        terminalreporter.write_line("gpu: no check ran, so no record was written")
    else:
        terminalreporter.write_line(f"gpu: one line was appended to {path}:")
        terminalreporter.write_line(path.read_text("utf-8").splitlines()[-1])
