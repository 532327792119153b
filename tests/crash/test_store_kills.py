"""SIGKILL at random moments: no acknowledged row is lost, none is torn or doubled, nothing needs repair."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lineage.errors import ObjectExists
from lineage.log.log_reader import Lineage
from lineage.store.objects import LocalStore, Store, open_store
from lineage.store.results import get_result
from lineage.verify.store_checks import verify

REPO = Path(__file__).resolve().parents[2]
VICTIMS = Path(__file__).with_name("store_victims.py")
C = "c-crash"


def start(*arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.Popen(
        [sys.executable, str(VICTIMS), *arguments], stdout=subprocess.PIPE, env=environment
    )


def kill_after(victims: list[subprocess.Popen[bytes]], seconds: float) -> list[str]:
    """Wait until all run, then SIGKILL each a moment later; return what they had promised."""
    for victim in victims:
        assert victim.stdout is not None and victim.stdout.readline() == b"ready\n"
    promised: list[str] = []
    for victim in victims:
        time.sleep(seconds / len(victims))
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        assert victim.stdout is not None
        # A line without its end was being printed when the process died: not promised.
        promised += [line.decode() for line in victim.stdout.read().split(b"\n")[:-1]]
        victim.stdout.close()
    return promised


def check(store: Store, promised: list[str]) -> None:
    table = Lineage(store, C, "min")
    trials = [row.trial for row in table.refresh().trials()]
    assert table.quarantine == {} and table.lost == set()
    assert len(trials) == len(set(trials)), "a row is there twice"
    assert set(promised) <= set(trials), "an acknowledged row is lost"
    for trial in promised[-5:]:
        assert get_result(store, C, trial, "screen") is not None


def storm(root: str, rounds: int, writers: int, compactors: int, seed: int) -> None:
    store = open_store(root, create=True)
    rng = random.Random(seed)
    promised: list[str] = []
    for number in range(rounds):
        victims = [start("write", root, f"w{number}x{who}") for who in range(writers)]
        victims += [start("compact", root) for _ in range(compactors)]
        promised += kill_after(victims, rng.uniform(0.05, 0.5))
        check(store, promised)
    assert len(promised) > rounds
    report = verify(store)
    assert report.problems == []
    assert {note.kind for note in report.notes} <= {"orphaned", "unvouched", "unfinished"}


def test_store_writers_and_compactors_killed_local(tmp_path: Path) -> None:
    storm(str(tmp_path / "store"), rounds=4, writers=2, compactors=1, seed=1)


@pytest.mark.slow
def test_store_a_hundred_kills_local(tmp_path: Path) -> None:
    storm(str(tmp_path / "store"), rounds=40, writers=2, compactors=1, seed=2)


@pytest.mark.slow
def test_store_a_hundred_kills_s3(s3_root: str) -> None:
    storm(s3_root, rounds=34, writers=2, compactors=1, seed=3)


class Dying(LocalStore):
    """A store whose process dies before or after the nth change it makes, as `os._exit` would end it."""

    def __init__(self, root: str, at: int, *, after: bool) -> None:
        super().__init__(root)
        self.left, self.after = at, after

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def create(self, key: str, data: bytes) -> None:
        self.left -= 1
        if self.left == 0 and not self.after:
            self._die()
        super().create(key, data)
        if self.left == 0:
            self._die()

    def delete(self, keys: object) -> None:
        for key in keys:  # type: ignore[attr-defined]
            self.left -= 1
            if self.left == 0 and not self.after:
                self._die()
            super().delete([key])
            if self.left == 0:
                self._die()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("after", [False, True])
def test_store_compactor_dies_at_every_single_step(tmp_path: Path, after: bool) -> None:
    """Part, anchor and each vacuumed object: whichever change is the last one, the next compactor just goes on."""
    from lineage.log.journal import Journal
    from lineage.records import Row

    root = str(tmp_path / "store")
    store = open_store(root, create=True)
    journal = Journal(store, C, "w")
    expected = []
    for step in range(1, 9):
        for number in range(4):
            journal.append(Row(event="trial", campaign=C, trial=f"t{step}-{number}"))
            expected.append(f"t{step}-{number}")
        child = os.fork()
        if child == 0:
            try:
                Lineage(Dying(root, step, after=after), C, "min").compact(min_new=1)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert [row.trial for row in Lineage(store, C, "min").refresh().trials()] == expected
        assert verify(store).ok
    Lineage(store, C, "min").compact(min_new=1)
    assert [row.trial for row in Lineage(store, C, "min").refresh().trials()] == expected
    assert store.list("log") == [] and verify(store).notes == []


def test_store_result_claim_survives_a_second_try_after_a_kill(tmp_path: Path) -> None:
    """Killed between payload and claim, the same result can be recorded; another one then cannot."""
    from lineage.store.blobs import put_blob
    from lineage.store.results import put_result

    store = open_store(tmp_path, create=True)
    put_blob(store, b'{"score":1}')
    assert get_result(store, C, "t1", "screen") is None
    put_result(store, C, "t1", "screen", b'{"score":1}')
    with pytest.raises(ObjectExists):
        put_result(store, C, "t1", "screen", b'{"score":2}')
