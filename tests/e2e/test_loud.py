"""A fault in one lane is told at once and the others go on; a stop admits nothing; left-overs ask the budget.

`loop.drive` with the real store, budget and record; only the trial itself is a stand-in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import quick

from flows.campaign import loop, watchdog
from flows.campaign.unexpected_faults import LaneFaults
from flows.engine.campaign_config import now
from flows.engine.engine import Engine
from flows.engine.stage_records import TrialRef
from flows.machine import webhook
from flows.trial.proposal_costs import Submission
from lineage.errors import Interrupted
from lineage.records import Row, Status
from lineage.store.results import put_result

TRIALS = 4


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    async def nothing(*_: object) -> None:
        return None

    monkeypatch.setattr(watchdog, "event", lambda *_: None)  # no Prefect server here to tell
    monkeypatch.setattr(loop, "publish_campaign", nothing)
    with quick.engine(tmp_path, trials=TRIALS, slots=2, confirm=False, webhook="http://chat") as engine:
        yield engine


def outcome(engine: Engine, ref: TrialRef, status: Status = Status.DISCARD) -> Row:
    row = Row(
        event="trial", campaign=engine.config.id, trial=ref.trial, role=ref.role, status=status, score=0.5,
        scores=[0.5, 0.5], parent=None if ref.trial == "t0000" else "t0000", t_started=now(), t_finished=now(),
    )  # fmt: skip
    engine.append(row)
    return row


def drive(engine: Engine, run_one: Callable[[TrialRef], Awaitable[Row]]) -> str:
    async def none(ref: TrialRef) -> Row:
        raise AssertionError("nothing is confirmed here")

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, loop.drive(engine, run_one, none)).result()


def test_a_lane_that_raises_is_told_at_once_and_the_others_go_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = engine.config.roles[0].name
    told: list[tuple[str, int]] = []

    def post(url: str, text: str) -> str:
        told.append((text, engine.view().count()))
        time.sleep(0.5)  # a webhook that is slow stops nobody
        return ""

    monkeypatch.setattr(webhook, "post", post)

    async def run_one(ref: TrialRef) -> Row:
        if ref.role == broken and ref.trial != "t0000":
            raise RuntimeError("a fault that nobody foresaw")
        await asyncio.sleep(0.05)
        return await asyncio.to_thread(
            outcome, engine, ref, Status.BASELINE if ref.trial == "t0000" else Status.DISCARD
        )

    with pytest.raises(
        LaneFaults, match=f"role {broken} ended at t000. by an unexpected fault: RuntimeError"
    ):
        drive(engine, run_one)
    view = engine.view()
    faults = [row for row in view.events("campaign") if row.operator == "fault"]
    assert len(faults) == 1 and "a fault that nobody foresaw" in (faults[0].notes or "")
    assert "Traceback" in faults[0].detail_json
    assert view.events("campaign")[-1].operator == "end"
    aborted = [row for row in view.trials() if row.status is Status.HARNESS_ABORT]
    assert [row.cause for row in aborted] == ["infra:unforeseen"]
    assert sum(row.status is Status.DISCARD for row in view.trials()) == TRIALS, (
        "the budget is used by the others"
    )
    webhook.flush(10)
    assert "unexpected fault" in told[0][0] and told[0][1] < TRIALS, (
        "it was told while the others were at work"
    )


def test_after_a_stop_no_waiting_lane_is_admitted(engine: Engine) -> None:
    """Lanes that wait for a turn used to take the interrupted trial's place: one more trial for each, at each stop."""

    async def run_one(ref: TrialRef) -> Row:
        if ref.trial == "t0000":
            return await asyncio.to_thread(outcome, engine, ref, Status.BASELINE)
        await asyncio.sleep(0.2)
        engine.cancel.set()
        raise Interrupted("stopped while it trained")

    drive(engine, run_one)
    view = engine.view()
    assert view.count("submitted") - 1 <= engine.config.settings.trials_at_once(engine.slots)
    assert view.events("campaign")[-1].operator == "stop"


def test_a_left_over_trial_asks_the_budget(engine: Engine) -> None:
    """More claims than trials, as a stop of an earlier version left them: those beyond the budget are not run."""
    role = engine.config.roles[0].name
    for number in range(1, TRIALS + 3):
        claim = Submission(trial=f"t{number:04d}", role=role, at=now())
        put_result(engine.store, engine.config.id, claim.trial, "submit", claim.model_dump_json().encode())

    async def run_one(ref: TrialRef) -> Row:
        status = Status.BASELINE if ref.trial == "t0000" else Status.DISCARD
        return await asyncio.to_thread(outcome, engine, ref, status)

    why = drive(engine, run_one)
    assert engine.view().count() == 1 + TRIALS, why
    assert f"all {TRIALS} trials are done" in why
