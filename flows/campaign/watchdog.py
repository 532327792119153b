"""Watches a campaign: heartbeat file, events for Prefect, webhook messages, and retries while a service is unavailable.

Use: `async with watching(engine, started) as watch:` around a campaign; `watch.progress()` when a trial ends;
`await patiently(watch, call, ...)` retries what may fail for a while. The webhook (setting `webhook`) reports a stall,
a pause, a new confirmed best and the end; a monitor can check the age of the heartbeat file; a Prefect server gets events.
Limits: webhook failures are only logged; a process that hangs as a whole shows only in the file's age and by
Prefect's automation.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx
from prefect.events import emit_event

from flows.engine.campaign_config import now
from flows.engine.engine import Engine
from flows.engine.live_events import Note
from flows.machine.folders import home, run_key
from flows.machine.webhook import post_later
from lineage.errors import BakeoffError, StoreUnavailable

T = TypeVar("T")
RESOURCE = "bakeoff.campaign"
STARTED, PROGRESS, ENDED = "bakeoff.campaign.started", "bakeoff.trial.ended", "bakeoff.campaign.ended"
STALL = "bakeoff.campaign.stalled"
BEAT_S = 20.0
STALLED_S = 3600.0  # without an ended trial; a longer typical trial stretches it
STALLED_TRIALS = 5.0
# Waits for an unavailable store or a full disk: 5 s doubling to 5 min, two hours in all.
FIRST_WAIT_S, LONGEST_WAIT_S, GIVE_UP_S = 5.0, 300.0, 2 * 3600.0

OVERLOADED = (408, 429, 500, 502, 503, 504)  # SQLite answers 503 when eight trials write at once


def heartbeat_file(root: str, campaign: str) -> Path:
    """The file that the running campaign rewrites every `BEAT_S` seconds."""
    return home() / "heartbeats" / f"{run_key(root)}-{campaign}.json"


@dataclass
class Watchdog:
    """The state of a running campaign: when a trial last ended, and what it waits for."""

    engine: Engine
    began: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)
    typical_s: float = 0.0
    ended: int = 0
    waiting_for: str = ""
    stall_reported: bool = False

    def progress(self, trial_s: float | None = None) -> None:
        """Note that a trial has ended."""
        self.last, self.stall_reported = time.monotonic(), False
        self.ended += 1
        if trial_s is not None:
            self.typical_s = max(self.typical_s, trial_s)
        event(self.engine, PROGRESS)

    @property
    def stalled_after_s(self) -> float:
        return max(STALLED_S, STALLED_TRIALS * self.typical_s)

    def beat(self) -> None:
        """Write the heartbeat file; report a stall once."""
        silent = time.monotonic() - self.last
        stalled = silent > self.stalled_after_s
        facts = {
            "campaign": self.engine.config.id,
            "run": self.engine.root,
            "at": now().isoformat(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "trials_ended": self.ended,
            "seconds_since_a_trial_ended": round(silent),
            "stalled": stalled,
            "waiting_for": self.waiting_for,
        }
        path = heartbeat_file(self.engine.root, self.engine.config.id)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            staging = path.with_suffix(f".{os.getpid()}")
            staging.write_text(json.dumps(facts) + "\n", "utf-8")
            staging.replace(path)
        except OSError as error:  # a full disk must not end the campaign that waits for it
            self.engine.emit(Note(f"heartbeat: {path} was not written ({error})"))
        if stalled and not self.stall_reported:
            self.stall_reported = True
            event(self.engine, STALL)
            tell(self.engine, f"stalled: no trial has ended for {silent / 60:.0f} min")


@asynccontextmanager
async def watching(engine: Engine) -> AsyncIterator[Watchdog]:
    """Write the heartbeat while the block runs; the file is deleted at the end, so a file that ages means a dead process."""
    watch = Watchdog(engine)
    event(engine, STARTED)
    beating = asyncio.create_task(_beats(watch))
    try:
        yield watch
    finally:
        beating.cancel()
        event(engine, ENDED)
        heartbeat_file(engine.root, engine.config.id).unlink(missing_ok=True)


async def _beats(watch: Watchdog) -> None:
    while True:
        await asyncio.to_thread(watch.beat)
        await asyncio.sleep(BEAT_S)


async def patiently(
    watch: Watchdog,
    work: Callable[[], Awaitable[T]],
    *,
    first_s: float = FIRST_WAIT_S,
    give_up_s: float = GIVE_UP_S,
    after_stop: bool = False,
) -> T:
    """Retry `work` while the store or the Prefect server is unavailable or the disk is full; raises the fault after `give_up_s`.

    Everything that a campaign does is resumed from the store, so doing it again repeats nothing.
    """
    engine, wait, began = watch.engine, first_s, time.monotonic()
    while True:
        try:
            done = await work()
        except Exception as fault:
            away = _away(fault)
            if not away or time.monotonic() - began > give_up_s:
                raise
            if not watch.waiting_for:
                tell(engine, f"paused, trying again: {away}")
            watch.waiting_for = away
            until = time.monotonic() + wait
            while time.monotonic() < until:
                if not after_stop:
                    engine.raise_if_cancelled()
                await asyncio.sleep(min(0.2, wait))
            wait = min(2 * wait, LONGEST_WAIT_S)
            continue
        watch.waiting_for = ""
        return done


def _away(fault: BaseException) -> str:
    """What is temporarily unavailable, in words; empty for every other fault.

    Prefect's client gives up at once on a connection refused to a client that had none before, and wraps it; on a
    server that is overloaded after five tries.
    """
    if isinstance(fault, BakeoffError):
        return str(fault) if isinstance(fault, StoreUnavailable) else ""
    cause: BaseException | None = fault
    while cause is not None:
        if isinstance(cause, httpx.TransportError):
            return f"the Prefect server does not answer ({type(cause).__name__})"
        if isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code in OVERLOADED:
            return f"the Prefect server answers HTTP {cause.response.status_code}"
        cause = cause.__cause__ or cause.__context__
    return ""


def tell(engine: Engine, text: str) -> None:
    """Show a note on the display, and post it to the webhook if there is one. Never raises."""
    engine.emit(Note(text))
    url = engine.config.settings.webhook
    if url:
        post_later(url, f"{engine.config.id}: {text}", lambda failed: engine.emit(Note(failed)))


def event(engine: Engine, name: str) -> None:
    """Send an event to the Prefect server, for its automations. Never raises."""
    campaign = engine.config.id
    try:
        emit_event(
            name, resource={"prefect.resource.id": f"{RESOURCE}.{campaign}", "bakeoff.run": engine.root}
        )
    except Exception as error:  # for display and alarms only; the store has the record
        engine.emit(Note(f"Prefect event {name} was not sent: {error!r}"[:300]))
