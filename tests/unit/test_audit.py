"""The audit on a small campaign of our own whose answers are known by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lineage.paper.analyses import audit, lines
from lineage.paper.diversity import diversity
from lineage.queries import View
from lineage.records import Row

C = "c-own"
START = datetime(2026, 5, 1, tzinfo=UTC)


def trial(number: int, status: str, role: str, score: float | None = None, **more: Any) -> Row:
    base = {
        "event": "trial", "campaign": C, "trial": f"t{number}", "status": status, "role": role, "score": score,
        "environment": "airbench_mini", "t_finished": START + timedelta(minutes=30 * number),
        "train_s": 60.0, "evaluate_s": 30.0, "hypothesis": f"{role} idea number{number}",
    }  # fmt: skip
    return Row.model_validate(base | more)


def own() -> View:
    return View.from_rows(
        [
            trial(0, "baseline", "baseline", 10.0),
            trial(1, "keep", "architecture", 9.0, parent="t0", expected_delta=-1.0, delta_best=-1.0),
            trial(2, "discard", "opt", 9.5, parent="t1", expected_delta=-1.0, delta_best=0.5),
            trial(3, "keep", "opt", 8.0, parent="t1", expected_delta=0.5, delta_best=-1.0),
            trial(4, "keep", "opt", 7.5, parent="t3", expected_delta=-0.5, delta_best=-0.5),
            trial(5, "crash", "architecture", cause="oom", parent="t3"),
            trial(6, "rejected", "opt", cause="duplicate", hypothesis="opt idea number4"),
            Row(event="confirmation", campaign=C, trial="t3", verdict="confirmed"),
            Row(event="confirmation", campaign=C, trial="t4", verdict="unconfirmed"),
        ],
        "min",
    )


def test_audit_of_our_own_campaign() -> None:
    result = audit(own())
    assert (result["trials"], result["keeps"], result["baseline_score"]) == (6, 3, 10.0)
    assert result["statuses"] == {"keep": 3, "crash": 1, "discard": 1, "rejected": 1}
    assert result["causes"] == {"duplicate": 1, "oom": 1}
    assert result["keeps_by_role"] == {"opt": 2, "architecture": 1}
    assert (result["best_score"], result["best_trial"], result["confirmed_trial"]) == (7.5, "t4", "t3")
    assert result["architecture_trials"] == 2 and result["architecture_statuses"] == {"crash": 1, "keep": 1}
    assert (result["cross_role_parents"], result["crossable_keeps"]) == (1, 2)
    assert (result["forecasts"], result["forecast_hits"], result["forecast_hit_rate"]) == (4, 2, 0.5)
    assert result["best_so_far"] == {"6": 7.5}
    assert result["hours"] == 2.5 and result["trials_per_hour"] == pytest.approx(2.4)
    assert result["mean_trial_s"] == 90.0 and result["eta"] == pytest.approx(2.4 * 90 / 3600 / 2)
    assert [sum(quarter.values()) for quarter in result["failure_mix_per_quarter"]] == [1, 2, 1, 2]
    assert result["near_duplicate_share"] == pytest.approx(1 / 6)
    assert result["paper"] == {}
    text = "\n".join(lines(result))
    assert "10.0 -> 7.5 (trial t4)" in text and "paper" not in text


def test_audit_of_an_empty_and_a_hopeless_campaign() -> None:
    empty = audit(View.from_rows([], "max"))
    assert (empty["trials"], empty["best_score"], empty["effective_clusters"]) == (0, None, 0.0)
    assert lines(empty)[0].startswith("campaign")
    hopeless = audit(View.from_rows([trial(1, "crash", "opt", hypothesis="")], "max"))
    assert (hopeless["trials"], hopeless["keeps"], hopeless["eta"]) == (1, 0, None)
    assert lines(hopeless)


def test_diversity_counts_clusters_and_near_duplicates() -> None:
    same = diversity(["raise the learning rate"] * 4)
    assert (same.clusters, same.effective_clusters, same.top_cluster_share) == (1, pytest.approx(1.0), 1.0)
    assert same.near_duplicate_share == 0.75
    apart = diversity([f"word{number} other{number}" for number in range(200)])
    assert apart.clusters == 200 and apart.effective_clusters == pytest.approx(200.0)
    assert apart.top_cluster_share == pytest.approx(1 / 200) and apart.near_duplicate_share == 0.0
    assert diversity(["", ""]).effective_clusters == 0.0
