"""Every question of `lineage.queries.View`, on a small campaign whose answers are known by hand."""

from __future__ import annotations

from typing import Any

import pytest

from lineage.errors import UnknownName, UsageError
from lineage.queries import View
from lineage.records import Row

C = "c-test"


def trial(name: str, status: str, score: float | None = None, **more: Any) -> Row:
    return Row.model_validate(
        {"event": "trial", "campaign": C, "trial": name, "status": status, "score": score, **more}
    )


def campaign() -> View:
    return View.from_rows(
        [
            Row(event="campaign", campaign=C, detail_json='{"direction":"min"}'),
            trial("t0", "baseline", 10.0),
            Row(event="submitted", campaign=C, trial="t1", role="arch"),
            trial(
                "t1",
                "keep",
                9.0,
                parent="t0",
                role="arch",
                delta_parent=-1.0,
                ast_sha256="aa",
                hypothesis="widen the first conv layer",
            ),
            trial(
                "t2",
                "keep",
                8.0,
                parent="t1",
                role="opt",
                delta_parent=-1.0,
                hypothesis="raise the learning rate of muon",
            ),
            trial(
                "t3",
                "crash",
                None,
                parent="t1",
                role="opt",
                cause="oom",
                hypothesis="batch size of nine thousand",
            ),
            trial("t4", "harness_abort", None, parent="t2", role="arch", cause="infra:disk", ast_sha256="bb"),
            trial(
                "t5",
                "discard",
                9.5,
                parent="t2",
                role="arch",
                delta_parent=1.5,
                ast_sha256="cc",
                hypothesis="raise the learning rate of muon twice",
            ),
            Row(event="confirmation", campaign=C, trial="t1", verdict="confirmed", p_value=0.01, gain=0.9),
            Row(event="sealed", campaign=C, trial="t1", sealed_score=9.1, public_score=9.0),
            Row(event="confirmation", campaign=C, trial="t2", verdict="unconfirmed", p_value=0.4),
            trial("t5", "keep", 1.0, role="arch"),  # a zombie's second outcome: the first one counts
            Row(event="submitted", campaign=C, trial="t6", role="arch", attempt=0),
            Row(event="submitted", campaign=C, trial="t6", role="arch", attempt=1),
        ],
        "min",
    )


def names(rows: list[Row]) -> list[str | None]:
    return [row.trial for row in rows]


def test_queries_counts_and_order() -> None:
    view = campaign()
    assert view.count() == 6
    assert view.count("submitted") == 3
    assert names(view.trials()) == ["t0", "t1", "t2", "t3", "t4", "t5"]
    assert [row.event for row in view.rows()][:4] == ["campaign", "trial", "submitted", "trial"]
    assert len(view.rows()) == 13, "the zombie's second outcome is not among them"
    assert names(view.milestones()) == ["t0", "t1", "t2", "t1", "t1", "t2"], "t1 was sealed too"
    assert view.sign == -1
    assert view.campaign == C


def test_queries_best_rows() -> None:
    view = campaign()
    assert view.baseline() is not None and view.baseline().trial == "t0"
    assert view.row_of_incumbent().trial == "t1", "the best confirmed one, not the best measured one"
    assert view.row_of_leader().trial == "t1", "t2 measured better but failed its confirmation"
    assert names(view.rows_of_champions()) == ["t1"]
    assert view.best_so_far() == [(0, "t0", 10.0), (1, "t1", 9.0), (2, "t2", 8.0)]


def test_queries_fold_later_facts() -> None:
    row = campaign().trial("t1")
    assert (row.verdict, row.p_value, row.gain, row.sealed_score, row.public_score) == (
        "confirmed",
        0.01,
        0.9,
        9.1,
        9.0,
    )
    assert campaign().trial("t9") is None
    frame = campaign().to_pandas()
    assert list(frame["trial"]) == ["t0", "t1", "t2", "t3", "t4", "t5"]
    assert frame.loc[1, "verdict"] == "confirmed" and frame.loc[1, "sealed_score"] == 9.1
    assert len(campaign().to_pandas(events=True)) == 14


def test_queries_tree() -> None:
    view = campaign()
    assert names(view.chain("t5")) == ["t0", "t1", "t2", "t5"]
    assert names(view.children("t1")) == ["t2", "t3"]
    assert view.chain("nowhere") == []
    loop = View.from_rows([trial("a", "keep", 1.0, parent="b"), trial("b", "keep", 1.0, parent="a")], "max")
    assert names(loop.chain("a")) == ["b", "a"]


def test_queries_prompt_sections_hide_our_own_faults() -> None:
    view = campaign()
    assert names(view.recent(2)) == ["t3", "t5"]
    assert names(view.by_role("arch", 5)) == ["t1", "t5"]
    assert names(view.neighbours("opt", 5)) == ["t1", "t5"]
    assert names(view.failures(None, 9)) == ["t3"]
    assert view.failures("arch", 9) == []
    assert view.recent(0) == []
    assert view.failure_counts() == {("crash", "oom"): 1, ("harness_abort", "infra:disk"): 1}


def test_queries_hit_rates() -> None:
    arch, opt = campaign().hit_rates("role")
    assert (arch.key, arch.n, arch.keeps, arch.valid, arch.failed, arch.mean_gain) == (
        "arch",
        2,
        1,
        2,
        0,
        -0.25,
    )
    assert (opt.key, opt.n, opt.keeps, opt.valid, opt.failed, opt.mean_gain) == ("opt", 2, 1, 1, 1, 1.0)
    assert campaign().hit_rates("operator") == []
    with pytest.raises(UnknownName, match="did you mean 'role'"):
        campaign().hit_rates("roles")


def test_queries_programs() -> None:
    view = campaign()
    assert view.has_program("aa") == "t1"
    assert view.has_program("bb") is None, "our own fault cut it short, so it was never judged"
    assert view.has_program("zz") is None


def test_queries_open_trials_show_the_last_attempt() -> None:
    (row,) = campaign().open_trials()
    assert (row.trial, row.attempt) == ("t6", 1)


def test_queries_empty_campaign() -> None:
    view = View.from_rows([], "max")
    assert view.count() == 0
    assert view.trials() == view.open_trials() == view.rows_of_champions() == view.recent(3) == []
    assert (
        view.baseline() is None
        and view.row_of_incumbent() is None
        and view.row_of_leader() is None
        and view.trial("x") is None
    )
    assert view.best_so_far() == [] and view.hit_rates() == [] and view.failure_counts() == {}
    assert view.has_program("a") is None
    assert view.children("a") == view.chain("a") == view.neighbours("a", 2) == view.failures(None, 2) == []
    assert len(view.to_pandas()) == 0


def test_queries_without_direction_say_so() -> None:
    rows = View.from_rows([trial("t0", "baseline", 1.0)], "min")
    blind = View(rows._frame, C, None)
    assert blind.count() == 1
    with pytest.raises(UsageError, match="records no direction"):
        blind.row_of_leader()
