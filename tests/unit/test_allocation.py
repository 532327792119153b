"""A worker inside a scheduler's allocation: its end, the signal that announces it, and who runs the trial next."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import quick
from prefect.client.schemas.objects import State, StateType

from flows.campaign import run_in_work_pools
from flows.engine.engine import Engine
from flows.engine.stage_records import TrialRef
from flows.trial import cluster_allocation
from lineage.errors import Interrupted, UsageError
from lineage.queries import View
from lineage.records import Row


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with quick.engine(tmp_path_factory.mktemp("allocation")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _goes_on(engine: Engine) -> Iterator[None]:
    yield
    engine.cancel.clear()


def ref_of(engine: Engine, trial: str) -> TrialRef:
    return TrialRef(store=engine.root, campaign=engine.config.id, trial=trial, role="model")


def test_the_end_of_the_allocation_is_what_the_scheduler_says() -> None:
    assert cluster_allocation.seconds_left({}) is None
    soon = str(time.time() + 100)
    assert 98 < (cluster_allocation.seconds_left({"SLURM_JOB_END_TIME": soon}) or 0) <= 100
    later = {"SLURM_JOB_END_TIME": soon, "BAKEOFF_END_TIME": str(time.time() + 300)}
    assert (cluster_allocation.seconds_left(later) or 0) > 290
    with pytest.raises(UsageError, match=r"BAKEOFF_END_TIME='tomorrow'.*date \+%s"):
        cluster_allocation.seconds_left({"BAKEOFF_END_TIME": "tomorrow"})


def test_a_trial_may_take_its_caps_until_trials_have_been_measured(engine: Engine) -> None:
    spec = engine.config.spec
    budget, runs = spec.budget, spec.evaluation.runs
    caps = cluster_allocation.trial_caps_s(spec)
    assert caps == 30 + 60 + runs * (2 * 30 + budget.train_wall_s + budget.predict_wall_s)
    assert cluster_allocation.trial_caps_s(spec, baseline=True) > caps

    def trial(name: str, train_s: float, evaluate_s: float | None) -> Row:
        return Row(event="trial", campaign="c", trial=name, build_s=1, train_s=train_s, evaluate_s=evaluate_s)

    nothing = View.from_rows([trial("t0001", 500.0, None)], "max")  # crashed in training: says nothing
    assert cluster_allocation.longest_trial_s(spec, nothing) == caps
    known = View.from_rows([trial("t0001", 7.0, 2.0), trial("t0002", 3.0, 1.0)], "max")
    assert cluster_allocation.longest_trial_s(spec, known) == 20.0
    assert cluster_allocation.longest_trial_s(spec, known, baseline=True) == cluster_allocation.trial_caps_s(
        spec, True
    )


def test_sigterm_ends_the_attempt_and_leaves_the_trial_open(engine: Engine) -> None:
    """The real signal in this process; what comes after it is what the flow does."""
    ref = ref_of(engine, "t0001")
    before = signal.getsignal(signal.SIGTERM)
    with cluster_allocation.preemptible(engine) as notice:
        assert not notice.came
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # SLURM and the worker both send it
        assert engine.cancel.wait(2) and notice.came
        state = asyncio.run(
            cluster_allocation.handed_back(engine, ref, notice, "train", Interrupted("stopped"))
        )
    assert signal.getsignal(signal.SIGTERM) is before
    assert (state.name, state.type) == (cluster_allocation.PREEMPTED, StateType.CANCELLED)
    view = engine.view()
    rows = [row for row in view.events("campaign") if row.trial == "t0001"]
    assert [(row.cause, row.operator, row.stage, row.attempt) for row in rows] == [
        ("infra:preempted", "preempted", "train", 0)
    ]
    assert view.trial("t0001") is None and not view.failures(
        ref.role, 10
    )  # no outcome, nothing that an agent sees


def test_a_person_s_stop_and_a_short_allocation_are_not_preemptions(engine: Engine) -> None:
    ref, quiet = ref_of(engine, "t0002"), cluster_allocation.Notice()
    with pytest.raises(Interrupted, match="by hand"):
        asyncio.run(cluster_allocation.handed_back(engine, ref, quiet, "train", Interrupted("by hand")))
    short = cluster_allocation.NoTimeLeft("ends in 3 s")
    state = asyncio.run(cluster_allocation.handed_back(engine, ref, quiet, "propose", short))
    assert (state.name, state.message) == (cluster_allocation.NO_TIME, "ends in 3 s")
    assert not [row for row in engine.view().events("campaign") if row.trial == "t0002"]


def test_outside_the_main_thread_the_process_s_own_handler_stays(engine: Engine) -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def inside() -> None:
        with cluster_allocation.preemptible(engine):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before]


def ended(name: str, seconds_ago: float = 0.0) -> State[Any]:
    kind = StateType.CRASHED if name == "Crashed" else StateType.CANCELLED
    return State(type=kind, name=name, timestamp=datetime.now(UTC) - timedelta(seconds=seconds_ago))


def test_a_preempted_run_is_sent_again_and_counts_as_no_failure(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten preemptions and two refusals do not use up the three runs that may die; every run has a key of its own."""
    states = [*[ended("Preempted")] * 10, *[ended("NoTimeLeft", 600)] * 2, *[ended("Crashed")] * 3]
    keys: list[str] = []

    async def dispatch(deployment: str, _parameters: object, key: str) -> State[Any]:
        assert deployment == "trial/cpu"
        keys.append(key)
        return states[len(keys) - 1]

    monkeypatch.setattr(run_in_work_pools, "_dispatch", dispatch)

    async def all_ends() -> list[str | None]:
        sent = run_in_work_pools._sent(engine, "k", run_in_work_pools.TRIAL_DEPLOYMENT, {})
        return [state.name async for state in sent]

    began = time.monotonic()
    assert asyncio.run(all_ends()) == [state.name for state in states]
    assert keys == [f"k/{number}" for number in range(15)]
    assert time.monotonic() - began < 2, "a campaign that was restarted does not wait for old runs again"


def test_between_refusals_it_waits_and_a_stop_ends_the_waiting(engine: Engine) -> None:
    threading.Timer(0.3, engine.cancel.set).start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        asyncio.run(run_in_work_pools._pause(engine, ended("NoTimeLeft"), 30.0))
    assert 0.2 < time.monotonic() - began < 5
