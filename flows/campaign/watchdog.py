"""The night watch of a campaign: a heartbeat file, events for Prefect, a webhook, and patience with the machine.

Use: `async with watching(engine, started) as watch:` around a campaign; `watch.progress()` when a trial ends;
`await patiently(engine, "the store", call, ...)` for what may fail for a while. A person who is asleep learns of a
stall, a pause, a new confirmed best and the end through the webhook (`webhook = URL` in campaign.toml or
BAKEOFF_WEBHOOK), a monitor by the age of the file, a Prefect server by events.
Limits: a webhook that is away is told to nobody but the log; the process that hangs as a whole is noticed by the
file's age and by Prefect's automation only.
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

from flows.engine.config import now
from flows.engine.engine import Engine
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
# Waits for a store that is away or a disk that is full: 5 s doubling to 5 min, two hours in all.
FIRST_WAIT_S, LONGEST_WAIT_S, GIVE_UP_S = 5.0, 300.0, 2 * 3600.0

OVERLOADED = (408, 429, 500, 502, 503, 504)  # SQLite answers 503 when eight trials write at once


def heartbeat_file(root: str, campaign: str) -> Path:
    """Where the running campaign of this machine writes that it lives; its age is at most `BEAT_S` seconds or so."""
    return home() / "heartbeats" / f"{run_key(root)}-{campaign}.json"


@dataclass
class Watchdog:
    """What the watch knows of a running campaign."""

    engine: Engine
    began: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)
    typical_s: float = 0.0
    ended: int = 0
    waiting_for: str = ""
    told_stall: bool = False

    def progress(self, trial_s: float | None = None) -> None:
        """A trial has come to its row."""
        self.last, self.told_stall = time.monotonic(), False
        self.ended += 1
        if trial_s is not None:
            self.typical_s = max(self.typical_s, trial_s)
        event(self.engine, PROGRESS)

    @property
    def stalled_after_s(self) -> float:
        return max(STALLED_S, STALLED_TRIALS * self.typical_s)

    def beat(self) -> None:
        """Write the heartbeat file; say once that nothing ends any more."""
        silent = time.monotonic() - self.last
        stalled = silent > self.stalled_after_s
        told = {
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
            staging.write_text(json.dumps(told) + "\n", "utf-8")
            staging.replace(path)
        except OSError as error:  # a full disk must not end the campaign that waits for it
            self.engine.emit({"kind": "note", "text": f"heartbeat: {path} was not written ({error})"})
        if stalled and not self.told_stall:
            self.told_stall = True
            event(self.engine, STALL)
            tell(self.engine, f"stalled: no trial has ended for {silent / 60:.0f} min")


@asynccontextmanager
async def watching(engine: Engine) -> AsyncIterator[Watchdog]:
    """Beat while the block runs; the file goes when the campaign ends, so one that stays and ages is a death."""
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
    """Do it again while the store or the Prefect server is away, or the disk full; the fault goes on after `give_up_s`.

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
    """What is away for a while, in words; empty for every other fault.

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
    """A note on the display, and to the webhook if there is one; never a fault."""
    engine.emit({"kind": "note", "text": text})
    url = engine.config.settings.webhook
    if url:
        post_later(
            url, f"{engine.config.id}: {text}", lambda failed: engine.emit({"kind": "note", "text": failed})
        )


def event(engine: Engine, name: str) -> None:
    """Tell the Prefect server, for its automations; fire and forget."""
    campaign = engine.config.id
    try:
        emit_event(
            name, resource={"prefect.resource.id": f"{RESOURCE}.{campaign}", "bakeoff.run": engine.root}
        )
    except Exception as error:  # display and alarms only: the store has everything
        engine.emit({"kind": "note", "text": f"Prefect event {name} was not sent: {error!r}"[:300]})
