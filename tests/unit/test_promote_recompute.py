"""`bakeoff verify` on promotions and labels: an honest record passes, each kind of forgery is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from evaluators.statistics.confirmation import ConfirmPlan, next_step
from evaluators.statistics.confirmation_book import Book, row_fields
from evaluators.statistics.recompute import Evidence, recompute_labels, recompute_promotions
from evaluators.statistics.sealed_verdict import scored_on_both
from lineage.environment_spec import Budget, EnvironmentSpec, Evaluation, Gate, Score, Surface, Task
from lineage.ids import sha256
from lineage.records import Artifact, Check, Measurement, Row, RunFacts, SeedResult, Status, TrainRun

PLAN = ConfirmPlan(sign=-1, is_paired=False, horizon=50)
POOL = [10.0, 10.2, 9.8, 10.1, 9.9, 10.05, 9.95, 10.15, 9.85, 10.0, 10.1, 9.9]
SPEC = EnvironmentSpec(
    name="toy",
    title="Toy",
    description="a toy",
    score=Score(metric="cpu_seconds", direction="min", unit="CPU-s"),
    task=Task(kind="classification", outputs=10),
    gates=[Gate(quantity="accuracy", at_least=0.96)],
    budget=Budget(
        train_cpu_s=9, train_wall_s=9, predict_cpu_s=9, predict_wall_s=9, memory_mb=9, artifact_bytes=99
    ),
    evaluation=Evaluation(runs=1, confirm_runs=3, max_confirm_runs=8, calibrate_runs=12),
    surfaces=[Surface(name="opt", title="Optimizer", units={"train.py": ["*"]})],
)


class Record:
    """A small campaign with its measurements, as the flows would leave it."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.blobs: dict[str, Measurement] = {}
        self.evidence: dict[str, Evidence] = {}
        self.book = Book(PLAN)
        self.trial("t0", POOL, "baseline", parent=None)
        self.trial("t1", [9.0], "keep")
        self.confirm("t1", [9.2, 9.3, 9.25], POOL[:6])
        self.trial("t2", [9.6], "discard")
        self.trial("t3", [9.1], "keep")
        self.confirm("t3", [9.5, 9.4, 9.6], [9.45, 9.4, 9.5, 9.5, 9.45, 9.4])
        self.trial("t4", None, "disqualified", cause="gate_missed")

    def measure(self, name: str, scores: list[float], purpose: str, gate: bool = True) -> str:
        seeds = tuple(
            SeedResult(seed=i, quantities={"cpu_seconds": s, "accuracy": 0.97}) for i, s in enumerate(scores)
        )
        made = Measurement.model_validate(
            {
                "trial": name,
                "purpose": purpose,
                "metric": "cpu_seconds",
                "per_seed": seeds,
                "score": sum(scores) / len(scores),
                "quantities": {"accuracy": 0.97 if gate else 0.9},
                "gates": (Check(name="accuracy >= 0.96 (mean)", passed=gate, numbers={"mean": 0.97}),),
                "source_sha256": name,
                "environment_sha256": "e",
                "evaluator_sha256": "j",
                "isolation": "strong",
                "machine": "m",
                "measured_at": datetime(2026, 1, 1, tzinfo=UTC),
            }
        )
        sha = sha256(made.model_dump_json().encode())
        self.blobs[sha] = made
        return sha

    def trial(
        self,
        name: str,
        scores: list[float] | None,
        status: str,
        cause: str | None = None,
        parent: str | None = "t0",
    ) -> None:
        sha = self.measure(name, scores or [9.0], "screen", gate=cause != "gate_missed")
        run = TrainRun(
            seed=0, facts=RunFacts(end="exit"), artifact=Artifact(sha256="0", bytes=9, files={"m": 9})
        )
        self.evidence[name] = Evidence(runs=(run,), measurement=self.blobs[sha])
        row = Row(
            event="trial",
            campaign="c",
            trial=name,
            parent=parent,
            status=Status(status),
            cause=cause,
            score=self.blobs[sha].score,
            scores=scores or [9.0],
            measurement_sha256=sha,
        )
        self.add(row)

    def confirm(self, name: str, candidate: list[float], incumbent: list[float]) -> None:
        trials = self.book.trials
        attempt = replace(
            self.book.open(), candidate=tuple(candidate), incumbent=tuple(incumbent), gates=(True,)
        )
        fields = row_fields(attempt, next_step(attempt, PLAN), trials)
        ours, theirs = self.measure(name, candidate, "confirm"), self.measure("inc", incumbent, "confirm")
        detail = {**fields["detail_json"], "measurements": [ours], "incumbent_measurements": [theirs]}
        fields["detail_json"] = json.dumps(detail, sort_keys=True)
        self.add(Row(event="confirmation", campaign="c", trial=name, incumbent=self.book.incumbent, **fields))

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.book.read(row)

    def forged(self, index: int, **changes: Any) -> list[Row]:
        rows = list(self.rows)
        rows[index] = rows[index].model_copy(update=changes)
        return rows

    def forged_detail(self, index: int, **changes: Any) -> list[Row]:
        detail = {**json.loads(self.rows[index].detail_json), **changes}
        return self.forged(index, detail_json=json.dumps(detail))


@pytest.fixture
def record() -> Record:
    return Record()


FIRST, SECOND = 2, 5  # positions of the two confirmations


def test_an_honest_record_has_nothing_to_report(record: Record) -> None:
    assert [r.verdict for r in record.rows if r.event == "confirmation"] == ["confirmed", "unconfirmed"]
    assert recompute_promotions(record.rows, PLAN) == []
    assert recompute_promotions(record.rows, PLAN, record.blobs.get, SPEC) == []
    assert recompute_labels(record.rows, PLAN, SPEC, lambda row: record.evidence.get(row.trial or "")) == []


@pytest.mark.parametrize(
    ("forge", "what"),
    [
        (lambda r: r.forged(SECOND, verdict="confirmed"), "verdict"),
        (lambda r: r.forged(FIRST, verdict="unconfirmed"), "verdict"),
        (lambda r: r.forged(SECOND, incumbent="t0"), "incumbent"),
        (lambda r: r.forged(SECOND, alpha_spent=0.04), "level"),
        (lambda r: r.forged(FIRST, p_value=1e-9), "p_value"),
        (lambda r: r.forged(FIRST, gain=2.0), "gain"),
        (lambda r: r.forged(FIRST, score=9.0), "score"),
        (lambda r: r.forged_detail(FIRST, trials=40), "trials seen at the opening"),
        (lambda r: r.forged(SECOND, scores=[9.0, 8.9, 9.1]), "verdict"),
        (lambda r: r.forged(FIRST, scores=[9.4, 9.5]), "verdict"),
        (lambda r: r.forged(FIRST, scores=[9.4, 9.5, 9.45, 9.0]), "replicates"),
        (lambda r: r.forged_detail(FIRST, gates=[False]), "verdict"),
        (lambda r: r.forged_detail(FIRST, reason="failed"), "verdict"),
    ],
)
def test_a_promotion_that_its_facts_do_not_support_is_found(
    record: Record, forge: Callable[[Record], list[Row]], what: str
) -> None:
    found = recompute_promotions(forge(record), PLAN)
    assert what in [mismatch.what for mismatch in found]
    assert "the facts give" in str(found[0])


def test_replicates_must_be_those_of_a_measurement_made_for_a_confirmation(record: Record) -> None:
    rows = record.forged_detail(FIRST, incumbent_scores=[11.0] * 6)
    assert "incumbent replicates" in [m.what for m in recompute_promotions(rows, PLAN, record.blobs.get)]
    screen = record.rows[1].measurement_sha256
    rows = record.forged_detail(FIRST, measurements=[screen])
    assert "candidate replicates" in [m.what for m in recompute_promotions(rows, PLAN, record.blobs.get)]
    rows = record.forged_detail(FIRST, measurements=["no such"])
    assert "no measurement no such" in str(recompute_promotions(rows, PLAN, record.blobs.get)[0])


@pytest.mark.parametrize("gates", [[False], [], [True, True]])
def test_gates_are_judged_again(record: Record, gates: list[bool]) -> None:
    rows = record.forged_detail(FIRST, gates=gates)
    found = recompute_promotions(rows, PLAN, record.blobs.get, SPEC)
    assert "gates after each look" in [mismatch.what for mismatch in found]


def test_a_gate_said_to_be_out_of_reach_is_judged_again(record: Record) -> None:
    """An attempt that was given up at its first look for a rule that its replicates keep."""
    plan = replace(PLAN, gate_futility=0.95)
    honest = record.forged_detail(FIRST, hopeless=[False])
    assert recompute_promotions(honest, plan, record.blobs.get, SPEC) == []
    forged = record.forged_detail(FIRST, gates=[False], hopeless=[True], reason="gate")
    forged[FIRST] = forged[FIRST].model_copy(update={"verdict": "unconfirmed"})
    found = [m.what for m in recompute_promotions(forged[: FIRST + 1], plan, record.blobs.get, SPEC)]
    assert "gates after each look" in found
    only = record.forged_detail(SECOND, hopeless=[True])
    found = [m.what for m in recompute_promotions(only, plan, record.blobs.get, SPEC)]
    assert found == ["gates out of reach after each look"]


def test_a_dropped_attempt_changes_the_level_of_the_next(record: Record) -> None:
    rows = [row for row in record.rows if row.trial != "t1"]
    assert recompute_promotions(rows, PLAN)


@pytest.mark.parametrize(
    ("index", "changes", "what"),
    [
        (3, {"status": Status.KEEP}, "label"),
        (4, {"status": Status.DISCARD}, "label"),
        (4, {"score": 8.0}, "score"),
        (0, {"scores": [10.0]}, "scores per seed"),
        (6, {"status": Status.KEEP, "cause": None}, "label"),
        (4, {"status": Status.BASELINE}, "label"),
        (4, {"status": Status.REJECTED, "cause": "bad_edit"}, "status"),
    ],
)
def test_a_label_that_its_facts_do_not_support_is_found(
    record: Record, index: int, changes: dict[str, Any], what: str
) -> None:
    rows = record.forged(index, **changes)
    found = recompute_labels(rows, PLAN, SPEC, lambda row: record.evidence.get(row.trial or ""))
    assert what in [mismatch.what for mismatch in found]


def test_a_score_without_evidence_is_found_and_an_infra_fault_is_not(record: Record) -> None:
    rows = [*record.rows, Row(event="trial", campaign="c", trial="t5", status=Status.KEEP, score=1.0)]
    assert recompute_labels(rows, PLAN, SPEC, lambda row: record.evidence.get(row.trial or ""))
    ours = Row(
        event="trial", campaign="c", trial="t5", status=Status.HARNESS_ABORT, cause="infra:disk", parent="t0"
    )
    facts = {**record.evidence, "t5": Evidence()}
    assert recompute_labels([*record.rows, ours], PLAN, SPEC, lambda row: facts.get(row.trial or "")) == []


def test_the_gap_is_taken_over_the_sealed_events(record: Record) -> None:
    sealed = Row(event="sealed", campaign="c", trial="t1", public_score=9.45, sealed_score=9.6)
    assert scored_on_both([*record.rows, sealed]) == ([9.45], [9.6])


def submitted(record: Record, name: str) -> None:
    record.add(Row(event="submitted", campaign="c", trial=name))


def named(record: Record, name: str, score: float, status: str, leader: tuple[str, float]) -> None:
    """A trial whose row names the leader that its label was decided against."""
    record.trial(name, [score], status)
    said = json.dumps({"leader": {"trial": leader[0], "score": leader[1]}})
    row = record.rows[-1].model_copy(update={"detail_json": said, "delta_best": score - leader[1]})
    record.rows[-1] = row


def labels(record: Record) -> list[str]:
    found = recompute_labels(record.rows, PLAN, SPEC, lambda row: record.evidence.get(row.trial or ""))
    return [mismatch.what for mismatch in found]


def test_a_label_is_judged_against_the_leader_that_it_names(record: Record) -> None:
    """While t6 is labelled against t5, another worker's confirmation of t5 is appended: the record is honest."""
    record.trial("t5", [8.0], "keep")
    submitted(record, "t6")
    record.confirm("t5", [9.9, 10.0, 9.95], [9.3, 9.2, 9.25, 9.3, 9.2, 9.25])
    assert record.rows[-1].verdict == "unconfirmed"
    named(record, "t6", 8.5, "discard", ("t5", 8.0))  # it would lead now, and did not when it was labelled
    assert labels(record) == []
    record.rows[-1] = record.rows[-1].model_copy(update={"detail_json": "{}"})
    assert labels(record) == ["label", "difference to the leader"]


@pytest.mark.parametrize("leader", [("t9", 7.0), ("t5", 9.9), ("t0", 10.0)])
def test_a_leader_that_never_led_while_the_trial_was_open_is_a_problem(
    record: Record, leader: tuple[str, float]
) -> None:
    record.trial("t5", [8.0], "keep")
    submitted(record, "t6")
    named(record, "t6", 7.5 if leader[1] > 7.5 else 8.5, "keep" if leader[1] > 7.5 else "discard", leader)
    assert labels(record) == ["leader"]


def test_a_veto_of_the_incumbent_in_mid_attempt_leaves_the_record_whole(record: Record) -> None:
    record.trial("t5", [8.0], "keep")
    incumbent = record.book.incumbent
    pool = record.book.pool()
    attempt = replace(record.book.open(), candidate=(8.0, 8.1, 8.05), incumbent=(), gates=(True,))
    step = next_step(attempt, PLAN)
    while not hasattr(step, "looks"):
        attempt = replace(attempt, incumbent=(*attempt.incumbent, 9.25 + 0.01 * len(attempt.incumbent)))
        step = next_step(attempt, PLAN)
    fields = row_fields(attempt, step, record.book.trials)
    fields["detail_json"] = json.dumps(fields["detail_json"], sort_keys=True)
    record.add(Row(event="intervention", campaign="c", operator="veto", trial=incumbent))
    record.add(Row(event="confirmation", campaign="c", trial="t5", incumbent=incumbent, **fields))
    assert incumbent == "t1" and record.book.incumbent == "t5" and pool
    assert recompute_promotions(record.rows, PLAN) == []
