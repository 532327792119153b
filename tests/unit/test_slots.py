"""Slots: never more holders than slots, given back when the holder is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows.machine.run_lock import campaign_lease, holder_of
from flows.machine.slots import SlotCancelled, busy, slot
from lineage.errors import Interrupted, RunBusy

HOLD = "import time, sys\nfrom flows.machine.slots import slot\nwith slot('cpu', 1):\n    print('held', flush=True)\n    time.sleep(60)\n"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path / "home"))


def test_never_more_holders_than_slots() -> None:
    running = peak = 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal running, peak
        with slot("cpu", 2):
            with guard:
                running += 1
                peak = max(peak, running)
            time.sleep(0.05)
            with guard:
                running -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert peak == 2
    assert busy("cpu") == 0


def test_a_killed_holder_gives_its_slot_back() -> None:
    child = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, env={**os.environ})
    assert child.stdout is not None
    assert child.stdout.readline().strip() == b"held"
    assert busy("cpu") == 1
    cancel = threading.Event()
    cancel.set()
    assert issubclass(SlotCancelled, Interrupted), "what a campaign takes for a stop by a person"
    with pytest.raises(SlotCancelled), slot("cpu", 1, cancel):
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with slot("cpu", 1) as index:
        assert index == 0


def test_a_second_owner_of_a_campaign_is_refused_with_the_first_one_named() -> None:
    with campaign_lease("/runs/a", "c-x"):
        with (
            pytest.raises(RunBusy, match=rf"already running .*{os.getpid()}"),
            campaign_lease("/runs/a", "c-x"),
        ):
            pass
        holder = holder_of("/runs/a", "c-x")
        assert holder is not None
        assert holder["pid"] == os.getpid()
        with campaign_lease("/runs/b", "c-x"):  # another store is another campaign
            pass
    assert holder_of("/runs/a", "c-x") is None
    with campaign_lease("/runs/a", "c-x"):
        pass
