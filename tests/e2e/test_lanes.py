"""Who works while a leader is confirmed: every role, the one that found it included."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import quick

from flows.campaign import loop, watchdog
from flows.campaign.watchdog import Watchdog
from flows.engine.campaign_config import now
from flows.engine.engine import Engine
from flows.engine.stage_records import TrialRef
from lineage.records import Row, Status

TRIALS = 8


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(watchdog, "event", lambda *_: None)  # no Prefect server here to tell
    with quick.engine(tmp_path, trials=TRIALS, slots=1) as engine:
        yield engine


def add(engine: Engine, trial: str, role: str, status: Status, scores: list[float]) -> Row:
    row = Row(
        event="trial", campaign=engine.config.id, trial=trial, role=role, status=status,
        score=sum(scores) / len(scores), scores=scores, parent=None if trial == "t0000" else "t0000",
        t_started=now(), t_finished=now(),
    )  # fmt: skip
    engine.append(row)
    return row


def test_a_role_goes_on_while_its_leader_is_confirmed(engine: Engine) -> None:
    finder = engine.config.roles[0].name
    add(engine, "t0000", finder, Status.BASELINE, [0.80, 0.81, 0.79])
    done: Counter[str] = Counter()
    confirmed: list[tuple[str, int]] = []

    async def run_one(ref: TrialRef) -> Row:
        await asyncio.sleep(0.02)
        done[ref.role] += 1
        found = ref.role == finder and done[finder] == 1
        status = Status.KEEP if found else Status.DISCARD
        return add(engine, ref.trial, ref.role, status, [0.95 if found else 0.70] * 2)

    async def confirm_one(ref: TrialRef) -> Row:
        async with asyncio.timeout(30):  # of a lane that waits, no further trial would ever come
            while sum(done.values()) < TRIALS:
                await asyncio.sleep(0.02)
        confirmed.append((ref.trial, done[finder]))
        row = Row(
            event="confirmation",
            campaign=engine.config.id,
            trial=ref.trial,
            verdict="unconfirmed",
            p_value=0.5,
        )
        engine.append(row)
        return row

    async def work() -> None:
        state = loop.Campaign(
            engine, run_one, confirm_one, now(), asyncio.Semaphore(1), Watchdog(engine), now()
        )
        await loop._lanes(state)

    # A thread of its own: the browser tests leave a running loop in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work()).result()
    assert [trial for trial, _ in confirmed] == ["t0001"]
    assert set(done.values()) == {TRIALS // len(engine.config.roles)}, done
