"""Two machines, one store on S3: exactly one runs the campaign, whatever the other believes.

A machine is a BAKEOFF_HOME of its own. The take-over wait is two seconds here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import quick

from flows.campaign.run_on_this_machine import only_campaign
from lineage.log.epochs import owners_after
from lineage.log.log_reader import Lineage
from lineage.queries import View
from lineage.store.objects import open_store

WAIT_S = 2.0
AWS = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION")


class Machine:
    def __init__(self, folder: Path, name: str) -> None:
        self.place = folder / name
        self.place.mkdir()
        self.log = self.place / "log"
        self.env = {
            **quick.environ(self.place, folder / "recipes"),
            **{key: os.environ[key] for key in AWS if key in os.environ},
            "BAKEOFF_TAKE_OVER_S": str(WAIT_S),
            "PYTHONPATH": str(quick.ROOT),
        }
        quick.bakeoff("prepare", "quick", env=self.env, cwd=self.place)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *arguments, "--plain"],
                env=self.env, cwd=self.place, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, text: str, process: subprocess.Popen[bytes], seconds: float = 400) -> None:
        until = time.monotonic() + seconds
        while text not in self.said():
            assert process.poll() is None and time.monotonic() < until, self.said()
            time.sleep(0.1)


@pytest.fixture
def machines(
    tmp_path: Path, s3_root: str
) -> Iterator[tuple[Machine, Machine, str, list[subprocess.Popen[bytes]]]]:
    quick.make(tmp_path / "recipes")
    running: list[subprocess.Popen[bytes]] = []
    yield Machine(tmp_path, "a"), Machine(tmp_path, "b"), s3_root, running
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


def view_of(root: str) -> View:
    config = only_campaign(root)
    return Lineage(open_store(root), config.id, config.spec.score.direction).refresh()


def check_record(root: str, machine: Machine, trials: int) -> None:
    view = view_of(root)
    expected = [f"t{number:04d}" for number in range(trials + 1)]
    assert sorted(row.trial or "" for row in view.events("trial")) == expected
    assert sorted(row.trial or "" for row in view.events("submitted")) == expected
    verified = quick.bakeoff("verify", root, env=machine.env, cwd=machine.place, check=False)
    assert verified.returncode == 0, verified.stdout


@pytest.mark.timeout(600)
def test_a_second_machine_is_refused_while_the_owner_lives(
    machines: tuple[Machine, Machine, str, list[subprocess.Popen[bytes]]],
) -> None:
    a, b, root, running = machines
    first = a.start("run", "quick", "--run", root, "--trials", "3", "--no-confirm", "--seed", "7")
    running.append(first)
    a.wait_for("Prefect UI", first)
    second = b.start("resume", root)
    running.append(second)
    assert second.wait(120) == 2, b.said()
    assert f"is already running as process {first.pid} on" in b.said(), b.said()
    assert first.wait(240) == 0, a.said()
    campaign = only_campaign(root).id
    assert owners_after(open_store(root), campaign, 0) == [1]
    check_record(root, b, 3)
    # it left in order, so another machine need not wait
    third = quick.bakeoff("resume", root, "--plain", env=b.env, cwd=b.place)
    assert "waiting" not in third.stderr, third.stderr
    assert owners_after(open_store(root), campaign, 0) == [1, 2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_owner_that_was_stopped_for_longer_than_the_wait_ends_with_the_new_owners_name(
    machines: tuple[Machine, Machine, str, list[subprocess.Popen[bytes]]],
) -> None:
    a, b, root, running = machines
    first = a.start("run", "quick", "--run", root, "--trials", "4", "--no-confirm", "--seed", "7")
    running.append(first)
    a.wait_for("t0000: baseline", first)
    first.send_signal(signal.SIGSTOP)
    second = b.start("resume", root)
    running.append(second)
    b.wait_for("taking it over", second)
    b.wait_for("Prefect UI", second)
    first.send_signal(signal.SIGCONT)
    assert first.wait(120) == 4, a.said()
    assert f"belongs to process {second.pid} on" in a.said(), a.said()
    assert second.wait(400) == 0, b.said()
    check_record(root, b, 4)
    rows = view_of(root).rows()
    assert {row.epoch for row in rows if row.epoch} == {1, 2}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_take_over_skips_the_wait(
    machines: tuple[Machine, Machine, str, list[subprocess.Popen[bytes]]],
) -> None:
    """The owner was killed, so its sign of life is still fresh: `--take-over` continues at once, without it a wait."""
    a, b, root, running = machines
    first = a.start("run", "quick", "--run", root, "--trials", "2", "--no-confirm", "--seed", "7")
    running.append(first)
    a.wait_for("t0000: baseline", first)
    first.kill()
    first.wait()
    b.env["BAKEOFF_TAKE_OVER_S"] = "600"
    done = quick.bakeoff("resume", root, "--plain", "--take-over", env=b.env, cwd=b.place)
    assert "waiting" not in done.stdout + done.stderr, done.stderr
    assert owners_after(open_store(root), only_campaign(root).id, 0) == [1, 2]
    check_record(root, b, 2)
