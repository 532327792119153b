"""The night watch: patience with a store that is away, pauses after faults, clock times, the heartbeat and the webhook."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.exceptions import PrefectHTTPStatusError

from flows.campaign import loop, watchdog
from flows.campaign.watchdog import Watchdog, heartbeat_file, patiently
from flows.engine.budget import Spent, refusal
from flows.engine.settings import Settings
from flows.engine.stage_records import TrialRef
from flows.machine import webhook
from flows.trial import prefect_tasks
from lineage.errors import InfraFault, Interrupted, ObjectExists, StoreDenied, StoreUnavailable


def finish(work: Coroutine[Any, Any, Any]) -> Any:
    """To its end in a thread of its own: the browser tests leave a running loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def chat() -> Iterator[tuple[str, list[dict[str, str]]]]:
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    server.got = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", server.got  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the watch asks of an engine; the campaign flow itself is driven in tests/e2e and tests/crash."""
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(watchdog, "event", lambda engine, name: engine.events.append(name))
    cancel = threading.Event()

    def raise_if_cancelled() -> None:
        if cancel.is_set():
            raise Interrupted("stopped")

    notes: list[str] = []
    return SimpleNamespace(
        root=str(tmp_path / "run"),
        config=SimpleNamespace(
            id="c-x", settings=Settings(environment="x", max_infra_faults=2, fault_pause_s=0.01)
        ),
        emit=lambda said: notes.append(said.text),
        notes=notes,
        events=[],
        cancel=cancel,
        raise_if_cancelled=raise_if_cancelled,
    )


def failing(times: int, error: Exception) -> Any:
    calls = []

    async def work() -> int:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return len(calls)

    return work


def test_a_store_that_is_away_is_waited_for_and_told_once(engine: Any) -> None:
    watch = Watchdog(engine)
    away = StoreUnavailable("could not write log/x in the store: ENOSPC, the disk is full")
    assert finish(patiently(watch, failing(3, away), first_s=0.01)) == 4
    assert engine.notes == [f"paused, trying again: {away}"]
    assert watch.waiting_for == ""


def test_a_store_that_stays_away_is_given_up_and_a_wrong_key_at_once(engine: Any) -> None:
    with pytest.raises(StoreUnavailable):
        finish(patiently(Watchdog(engine), failing(99, StoreUnavailable("x")), first_s=0.01, give_up_s=0.05))
    denied = failing(1, StoreDenied("no such key"))
    with pytest.raises(StoreDenied):
        finish(patiently(Watchdog(engine), denied, first_s=0.01))


def test_a_prefect_server_that_is_away_is_waited_for_also_when_its_fault_is_wrapped(engine: Any) -> None:
    try:
        try:
            raise httpx.ConnectError("connection refused")
        except httpx.ConnectError as refused:
            raise RuntimeError("Failed to reach API at http://127.0.0.1:1/api") from refused
    except RuntimeError as fault:
        away = fault
    assert finish(patiently(Watchdog(engine), failing(2, away), first_s=0.01)) == 3
    assert engine.notes == ["paused, trying again: the Prefect server does not answer (ConnectError)"]
    said = httpx.Response(503, request=httpx.Request("POST", "http://127.0.0.1:1/api/flow_runs/"))
    overloaded = PrefectHTTPStatusError("503", request=said.request, response=said)
    assert finish(patiently(Watchdog(engine), failing(1, overloaded), first_s=0.01)) == 2
    with pytest.raises(RuntimeError, match="ours"):
        finish(patiently(Watchdog(engine), failing(2, RuntimeError("ours")), first_s=0.01))


def test_a_stop_ends_the_wait(engine: Any) -> None:
    engine.cancel.set()
    with pytest.raises(Interrupted):
        finish(patiently(Watchdog(engine), failing(99, StoreUnavailable("x")), first_s=30))


def test_the_heartbeat_file_says_what_a_monitor_needs_and_a_stall_is_told_once(
    engine: Any, chat: tuple[str, list[dict[str, str]]]
) -> None:
    url, got = chat
    engine.config.settings = engine.config.settings.model_copy(update={"webhook": url})
    watch = Watchdog(engine)
    watch.beat()
    told = json.loads(heartbeat_file(engine.root, "c-x").read_text())
    assert told["stalled"] is False
    assert datetime.now(UTC) - datetime.fromisoformat(told["at"]) < timedelta(seconds=30)
    watch.last -= watchdog.STALLED_S + 60
    watch.beat()
    watch.beat()
    assert json.loads(heartbeat_file(engine.root, "c-x").read_text())["stalled"] is True
    webhook.flush(30)
    assert [message["text"] for message in got] == ["c-x: stalled: no trial has ended for 61 min"]
    assert engine.events == [watchdog.STALL]
    watch.progress(trial_s=3600.0)  # trials of an hour: five of them may pass
    watch.last -= watchdog.STALLED_S + 60
    watch.beat()
    assert len(got) == 1


def test_a_webhook_that_is_away_is_a_note(engine: Any) -> None:
    engine.config.settings = engine.config.settings.model_copy(update={"webhook": "http://127.0.0.1:9/"})
    watchdog.tell(engine, "hello")
    assert engine.notes[0] == "hello"
    webhook.flush(30)
    assert engine.notes[1].startswith("webhook: a message did not arrive")


def test_faults_in_a_row_pause_three_times_and_then_end_the_campaign(engine: Any) -> None:
    began = datetime.now(UTC)
    state = loop.Campaign(engine, None, None, began, None, Watchdog(engine), began)  # type: ignore[arg-type]
    for pauses in (1, 2, 3):
        state.faults_in_a_row = 2
        finish(loop._after_faults(state))
        assert (state.fault_pauses, state.faults_in_a_row) == (pauses, 1), "one more fault pauses again"
    state.faults_in_a_row = 2
    finish(loop._after_faults(state))
    assert state.faults_in_a_row == 2, "left to _why_not, which ends the campaign"
    assert engine.notes == ["paused for 0 s: 2 faults of the machine in a row" for _ in range(3)]


def test_a_clock_time_counts_from_when_the_campaign_was_taken_up() -> None:
    """A campaign that one night left unfinished gets the next night to the same clock time."""
    settings = Settings(environment="x", until="07:00")
    started = datetime(2026, 3, 1, 22, 0).astimezone()
    morning = datetime(2026, 3, 2, 7, 0, 1).astimezone()
    assert refusal(settings, Spent(), 0, started, morning) == "the time allowed is over"
    evening = datetime(2026, 3, 2, 22, 0).astimezone()
    assert refusal(settings, Spent(), 0, started, evening, evening) is None
    third = datetime(2026, 3, 3, 7, 0, 1).astimezone()
    assert refusal(settings, Spent(), 0, started, third, evening) == "the time allowed is over"


def test_a_full_disk_in_a_stage_is_a_fault_of_the_machine(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_tasks, "engine_for", lambda root, name: engine)
    ref = TrialRef(store="r", campaign="c-x", trial="t0001", role="a")

    def full(_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/scratch/t0001")

    def other(_: Any) -> None:
        raise ObjectExists("results/x already holds other bytes")

    with pytest.raises(
        InfraFault, match=r"train: No space left on device: /scratch/t0001; free space under"
    ) as fault:
        finish(prefect_tasks._stage(ref, "train", full, quiet=True))
    assert fault.value.what == "disk"
    with pytest.raises(ObjectExists):  # also an OSError, and no disk
        finish(prefect_tasks._stage(ref, "train", other, quiet=True))
