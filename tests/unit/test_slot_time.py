"""Where the time of the slots goes: the columns of a row, and the shares of a campaign, by hand."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from flows.report.slot_time import as_detail, bar, line, segments, slot_columns, where_time_goes
from lineage.queries import View
from lineage.records import Measurement, Row, RunFacts, SeedResult, TrainRun

AT = datetime(2026, 11, 29, tzinfo=UTC)
T = AT.timestamp()


def facts(wall: float, start: float, cpu: float) -> RunFacts:
    return RunFacts(end="exit", wall_s=wall, start_wall_s=start, cpu_s=cpu)


def columns() -> dict[str, float]:
    uses = [("smoke test", T, T + 3), ("training", T + 3, T + 10), ("prediction", T + 10, T + 16)]
    run = TrainRun(seed=1, facts=facts(4.0, 2.0, 3.5))
    measured = Measurement(
        trial="t0001", purpose="screen", metric="accuracy", score=1.0, source_sha256="s", environment_sha256="e",
        evaluator_sha256="j", isolation="strong", machine="m", measured_at=AT,
        per_seed=(SeedResult(seed=1, facts=facts(1.0, 2.0, 0.5)),),
    )  # fmt: skip
    return slot_columns(uses, [run], [measured])


def test_the_columns_of_a_row() -> None:
    assert columns() == {
        "slot_s": 16.0, "slot_measured_s": 5.0, "slot_starting_s": 5.0, "measured_cpu_s": 4.0
    }  # fmt: skip
    assert slot_columns([], [], []) == {}


def view() -> View:
    """Two slots for 100 s. A trial proposes for 20 s and has one slot for 16; a confirmation has both for 30."""
    told = json.dumps({"slots": 2, "direction": "max"})
    uses = [("smoke test", T + 20, T + 23), ("training", T + 23, T + 30), ("prediction", T + 30, T + 36)]
    both = [("training", T + 40, T + 70), ("training", T + 40, T + 70)]
    common = {"campaign": "c-x", "environment": "x"}
    rows = [
        Row(event="campaign", operator="start", t_started=AT, detail_json=told, **common),
        Row(
            event="trial", trial="t0001", t_started=AT, propose_s=20.0, build_cpu_s=2.0, train_cpu_s=6.0,
            evaluate_cpu_s=4.0, detail_json=json.dumps({"slots": as_detail(uses)}), **columns(), **common,
        ),
        Row(
            event="confirmation", trial="t0001", slot_s=60.0, detail_json=json.dumps({"slots": as_detail(both)}),
            **common,
        ),
        Row(event="campaign", operator="end", t_started=AT + timedelta(seconds=100), detail_json=told, **common),
    ]  # fmt: skip
    return View.from_rows(rows, "max")


def test_the_shares_of_a_campaign_add_up_to_its_slots() -> None:
    found = where_time_goes(view())
    assert found is not None
    assert found.seconds == pytest.approx(
        {"measured": 5, "starting": 5, "checks": 6, "confirmation": 60, "waiting": 20, "idle": 104}
    )
    assert sum(found.seconds.values()) == pytest.approx(2 * 100)
    assert found.times == pytest.approx(3.0)
    assert line(found).endswith("idle 52 % of 2 slots; a trial costs 3.0 times its measured work")
    assert len(bar(found)) == 40
    assert [width for _, _, width in segments(found)] == [2.5, 2.5, 3.0, 30.0, 10.0, 52.0]


def test_a_record_that_does_not_say_has_no_line() -> None:
    assert where_time_goes(View.from_rows([Row(event="trial", trial="t0001", campaign="c-x")], "max")) is None
