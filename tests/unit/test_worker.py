"""The worker under a scheduler: what its flow runs hear, in which order, and what it does without them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from flows.campaign import cluster_worker

# A flow run that listens `after` seconds after its start and takes 0.3 s to end itself.
RUN = """
import pathlib, signal, sys, time
time.sleep(float(sys.argv[2]))
def end(*_):
    time.sleep(0.3)
    pathlib.Path(sys.argv[1]).write_text("ended by itself")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
time.sleep(60)
"""
# A worker that would kill its runs on SIGTERM, as Prefect's does.
WORKER = """
import signal, subprocess, sys, time
runs = [subprocess.Popen([sys.executable, "-c", sys.argv[1], *given.split(":")], start_new_session=True) for given in sys.argv[2:]]
def end(*_):
    [run.kill() for run in runs]
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
time.sleep(60)
"""


@contextmanager
def started(*runs: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", WORKER, RUN, *runs], start_new_session=True)
    until = time.monotonic() + 20
    try:
        while (
            len(children := psutil.Process(process.pid).children()) < len(runs) and time.monotonic() < until
        ):
            time.sleep(0.05)
        yield process
    finally:
        for child in children:
            child.kill()
        process.kill()
        process.wait()


def test_every_run_ends_itself_before_the_worker_goes(tmp_path: Path) -> None:
    """One of them begins to listen a second later: until then SIGTERM would end it without a word."""
    early, late = tmp_path / "early", tmp_path / "late"
    with started(f"{early}:0", f"{late}:1") as process:
        assert cluster_worker.hand_over(process.pid, grace_s=30) == 2
        assert psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, (
            "it takes nothing more meanwhile"
        )
    assert early.read_text() == late.read_text() == "ended by itself"


def test_a_run_that_does_not_listen_is_waited_for_no_longer_than_the_grace(tmp_path: Path) -> None:
    with started(f"{tmp_path / 'never'}:50") as process:
        began = time.monotonic()
        assert cluster_worker.hand_over(process.pid, grace_s=1.0) == 0
        assert 1.0 <= time.monotonic() - began < 10


def test_without_a_signal_its_end_is_the_worker_s(tmp_path: Path) -> None:
    """And the worker's own session keeps a signal to the whole group from reaching it."""
    stand_in = tmp_path / "prefect"
    stand_in.mkdir()
    (stand_in / "__init__.py").write_text("")
    (stand_in / "__main__.py").write_text(
        "import os, pathlib, sys, time\n"
        "pathlib.Path(sys.argv[-1]).write_text(f'{os.getsid(0)} {sys.argv[1:-1]}')\n"
        "time.sleep(float(sys.argv[-2])); sys.exit(7)\n"
    )
    code = "import sys; from flows.campaign.cluster_worker import run; sys.exit(run(sys.argv[1:]))"
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(cluster_worker.__file__).parents[1]}"}

    def start(seconds: str) -> subprocess.Popen[bytes]:
        told = tmp_path / f"told-{seconds}"
        command = [sys.executable, "-c", code, "--pool", "p", seconds, str(told)]
        process = subprocess.Popen(command, env=environ, start_new_session=True)
        until = time.monotonic() + 30
        while not told.is_file() and time.monotonic() < until:
            time.sleep(0.05)
        session, said = told.read_text().split(" ", 1)
        assert int(session) != process.pid and said == f"['worker', 'start', '--pool', 'p', '{seconds}']"
        return process

    assert start("0.1").wait(30) == 7
    long = start("60")
    os.killpg(long.pid, signal.SIGTERM)
    assert long.wait(30) == 0
