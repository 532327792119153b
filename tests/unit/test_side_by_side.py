"""Runs side by side: as many at once as there are slots, results as if one had come after the other; and the line for slots."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import quick

from evaluators.judge import judge_client
from flows.engine.stage_records import TrialRef
from flows.machine.slots import slot
from flows.machine.waiting_line import PASSED, place_in_line
from flows.measure.parallel_runs import Stop, in_order, side_by_side
from flows.trial import stages
from lineage.errors import InfraFault, Interrupted
from lineage.records import TrainRun

LONG_S = 20.0


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_results_are_in_order_of_index_whichever_ends_first() -> None:
    late = threading.Event()

    def work(index: int, stop: threading.Event) -> int:
        if index == 0:
            assert late.wait(LONG_S), "index 3 never ran beside index 0"
        if index == 3:
            late.set()
        return index * index

    assert side_by_side(5, 4, work, lambda _: False) == ([0, 1, 4, 9, 16], [])


def test_the_first_failure_in_order_counts_and_later_runs_are_stopped() -> None:
    """Index 2 fails at once, index 1 later: as one after the other, 1 is the last that counts."""
    two = threading.Event()
    begun: list[int] = []

    def work(index: int, stop: threading.Event) -> str:
        begun.append(index)
        if index == 1:
            assert two.wait(LONG_S)
            return "failed"
        if index == 2:
            _until(lambda: 3 in begun)
            two.set()
            return "failed"
        if index >= 3:
            _until(stop.is_set)  # a run beyond the last that counts
            return "abandoned"
        return "well"

    kept, beyond = side_by_side(6, 4, work, lambda result: result == "failed")
    assert kept == ["well", "failed"]
    assert (beyond[0], set(beyond[1:])) == ("failed", {"abandoned"}), "what was under way is accounted for"
    assert 5 not in begun


def test_a_fault_of_the_machine_is_raised_after_all_have_ended() -> None:
    begun: list[int] = []
    ended: list[int] = []

    def work(index: int, stop: threading.Event) -> int:
        begun.append(index)
        if index == 1:
            _until(lambda: len(begun) == 3)
            raise InfraFault("disk", "full")
        _until(stop.is_set if index else lambda: len(begun) == 3)
        ended.append(index)
        if index == 2:
            raise Interrupted("stopped while it waited for a slot")
        return index

    with pytest.raises(InfraFault, match="full"):
        side_by_side(3, 3, work, lambda _: False)
    assert sorted(ended) == [0, 2]


def test_a_stop_of_the_campaign_reaches_every_run() -> None:
    cancel = threading.Event()
    assert not Stop(cancel).is_set()

    def work(index: int, stop: threading.Event) -> int:
        if index == 2:
            cancel.set()
        _until(stop.is_set)
        raise Interrupted("the campaign was stopped")

    with pytest.raises(Interrupted):
        side_by_side(3, 3, work, lambda _: False, cancel)


def test_coroutines_side_by_side_give_results_in_order_and_none_begins_after_the_last() -> None:
    begun: list[int] = []

    async def job(index: int) -> int:
        begun.append(index)
        await asyncio.sleep(0.02 * (5 - index))
        return index

    async def first(count: int) -> list[int]:
        seen: list[int] = []
        async with aclosing(in_order(2, [partial(job, index) for index in range(6)])) as results:
            async for result in results:
                seen.append(result)
                if len(seen) == count:
                    break
        return seen

    assert asyncio.run(first(6)) == list(range(6))
    begun.clear()
    assert asyncio.run(first(2)) == [0, 1]
    assert max(begun) <= 3, begun


def test_a_first_run_goes_before_a_fifth_one_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    with place_in_line(tmp_path, {"slot"}, rank=4) as fifth:
        assert fifth() == 0
        with place_in_line(tmp_path, {"slot"}) as first:
            assert (first(), fifth() > 0) == (0, True)
            with place_in_line(tmp_path, {"another"}) as other:
                assert other() == 0
        for _ in range(4 * PASSED):
            with place_in_line(tmp_path, {"slot"}) as comer:
                comer()
        assert fifth() == 0


def test_comers_that_pass_a_waiting_one_are_counted(tmp_path: Path) -> None:
    """A trial's second run lets `PASSED` first runs pass, then it is its turn."""
    with place_in_line(tmp_path, {"slot"}, rank=1) as second:
        held = []
        for _ in range(PASSED + 3):
            place = place_in_line(tmp_path, {"slot"})
            held.append((place, place.__enter__()))
        passing = [ahead() for _, ahead in held]
        assert passing[0] == 0
        assert second() == PASSED - 1
        for place, _ in held[: PASSED - 1]:
            place.__exit__(None, None, None)
        assert second() == 0
        for place, _ in held[PASSED - 1 :]:
            place.__exit__(None, None, None)


def test_slots_are_given_by_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path))
    got: list[str] = []

    def run(name: str, rank: int) -> None:
        with slot("cpu", 1, rank=rank):
            got.append(name)

    with slot("cpu", 1):
        threads = []
        for name, rank in (("fifth", 4), ("second", 1), ("first", 0)):
            threads.append(threading.Thread(target=run, args=(name, rank)))
            threads[-1].start()
            _until(lambda: len(list((tmp_path / "slots" / "cpu" / "line").iterdir())) == len(threads))
    for thread in threads:
        thread.join()
    assert got == ["first", "second", "fifth"]


def test_the_runs_of_one_trial_use_every_slot_and_keep_their_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real sandbox and slots: the start's three runs at once; run i has seed i; after a stop none begins."""
    train, together = judge_client.train, threading.Barrier(3)

    def beside(*arguments: Any, **named: Any) -> TrainRun:
        together.wait(LONG_S)  # broken unless all three hold a slot
        return train(*arguments, **named)

    monkeypatch.setattr(judge_client, "train", beside)
    with quick.engine(tmp_path, slots=3) as engine:
        ref = TrialRef(store=engine.root, campaign=engine.config.id, trial="t0000", role="training")
        patched = stages.patch(engine, ref, stages.propose(engine, ref))
        seeds = stages.seeds_for(engine, patched, "calibrate")
        trained = stages.train(engine, ref, patched, "calibrate", seeds)
        assert [run.seed for run in trained.runs] == list(seeds)
        assert [Path(place).name for place in trained.places] == ["seed0", "seed1", "seed2"]
        engine.cancel.set()
        with pytest.raises(Interrupted):
            stages.train(engine, ref, patched, "screen", seeds)
