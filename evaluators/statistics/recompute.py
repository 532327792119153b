"""Labels and promotions again, from the recorded facts: what `bakeoff verify` compares with lineage.

Use: `recompute_promotions(rows, plan, measured, spec)`, `recompute_labels(rows, plan, spec, evidence)`; both
return one `Mismatch` per thing that the facts do not support, none when all is well. `rows` are all
rows of one campaign in lineage order. `measured(sha256)` gives a stored Measurement, `evidence(row)` the
inputs that the label stage had; either may answer None, which is itself reported where a claim rests on it.

Limits: what these functions see is as honest as the hashes that `lineage.verify.store_checks` checks first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evaluators.judge.permuted_data_control import error_of
from evaluators.judge.permuted_data_control import verdict as control_verdict
from evaluators.statistics.confirmation import (
    Attempt,
    Confirmed,
    ConfirmPlan,
    Continue,
    gates_out_of_reach,
    gates_pass,
    next_step,
)
from evaluators.statistics.confirmation_book import Book
from evaluators.statistics.confirmation_inputs import Read, SealedRuns, chance_of, is_fixed, look_at_sealed
from evaluators.statistics.label import label, status_of
from evaluators.statistics.lawful_measurement import deterministic, fault_of
from evaluators.statistics.paired_item_test import ItemChance
from evaluators.statistics.racing import RacingPlan, Stopped, look
from lineage.environment_spec import EnvironmentSpec
from lineage.errors import StoreCorrupt, StoreError
from lineage.leaderboard import INCUMBENT_FAILED, UNLAWFUL, Leaderboard
from lineage.records import Check, Measurement, Row, SeedResult, Status, TrainRun

CLOSE = 1e-9  # relative; the same arithmetic on the same machine agrees to the last bit


@dataclass(frozen=True)
class Mismatch:
    """One recorded claim that its facts do not support."""

    trial: str
    what: str
    recorded: str
    recomputed: str

    def __str__(self) -> str:
        return (
            f"trial {self.trial}: {self.what} recorded as {self.recorded}, the facts give {self.recomputed}"
        )


@dataclass(frozen=True)
class Evidence:
    """Inputs of the label stage: preflight checks, training runs, the measurement."""

    build: tuple[Check, ...] = ()
    runs: tuple[TrainRun, ...] = ()
    measurement: Measurement | None = None


Leader = tuple[str, float]
Measured = Callable[[str], Measurement | None]


def recompute_promotions(
    rows: Iterable[Row],
    plan: ConfirmPlan,
    measured: Measured | None = None,
    spec: EnvironmentSpec | None = None,
    read: Read | None = None,
) -> list[Mismatch]:
    """Every confirmation event again: incumbent, level, replicates, looks, verdict; gates with `spec`.

    With `read`, and for plans with `rules` 2, also the chance of the test items at each look, whether every replicate was
    lawful, and every sealed gain with its verdict.
    """
    book, found = Book(plan), []
    sealed: list[Row] = []
    last_trials = 0
    incumbents: set[str | None] = (
        set()
    )  # incumbents since the confirmation before: a veto may replace one meanwhile
    for row in rows:
        if row.event == "confirmation":
            detail = json.loads(row.detail_json)
            trials = int(detail.get("trials", -1))
            if not last_trials <= trials <= book.trials:
                span = f"{last_trials} to {book.trials}"
                found.append(Mismatch(row.trial or "", "trials seen at the opening", str(trials), span))
                trials = book.trials
            last_trials = trials
            again: dict[str, Any] = {}
            if measured is not None and read is not None and plan.rules >= 2:
                found += _lawful(row, detail, book, spec, measured) if spec is not None else []
                if plan.has_items:
                    more, again = _items_again(row, detail, book, measured, read)
                    found += more
                found += _control(row, detail, measured, read)
            found += _confirmation(row, {**detail, **again}, book, trials, incumbents)
            if measured is not None:
                found += _replicates(row, detail, measured)
                found += _gates(row, detail, plan, spec, measured) if spec is not None else []
        elif row.event == "sealed" and plan.rules >= 2:
            if measured is not None and read is not None and spec is not None:
                found += _sealed(row, sealed, book, spec, measured, read)
            sealed.append(row)
        book.read(row)
        incumbents = {book.incumbent} if row.event == "confirmation" else incumbents | {book.incumbent}
    return found


def _confirmation(
    row: Row, detail: dict[str, Any], book: Book, trials: int, incumbents: set[str | None]
) -> list[Mismatch]:
    trial, plan = row.trial or "", book.plan
    found = []

    def say(what: str, recorded: object, recomputed: object) -> None:
        found.append(Mismatch(trial, what, str(recorded), str(recomputed)))

    if row.incumbent not in incumbents:
        say("incumbent", row.incumbent, book.incumbent)
    attempt = replace(
        book.open(trials, row.incumbent if row.incumbent in incumbents else None, trial),
        candidate=tuple(row.scores),
        incumbent=tuple(float(v) for v in detail.get("incumbent_scores", [])),
        gates=tuple(bool(g) for g in detail.get("gates", [])),
        hopeless=tuple(bool(g) for g in detail.get("hopeless", [])),
        items=tuple(ItemChance(**chance) for chance in detail.get("items", [])),
        fixed=tuple(bool(f) for f in detail.get("fixed", [])),
    )
    if not _close(row.alpha_spent, attempt.alpha):
        say("level", row.alpha_spent, attempt.alpha)
    if detail.get("reason") in ("failed", "not_learnt", UNLAWFUL, INCUMBENT_FAILED):
        if row.verdict == "confirmed":
            say("verdict", "confirmed", "unconfirmed, a replicate failed")
        return found
    step = next_step(attempt, plan)
    if isinstance(step, Continue):
        missing = f"{step.candidate} more candidate and {step.incumbent} more incumbent runs needed"
        say("verdict", row.verdict, missing)
        return found
    verdict = "confirmed" if isinstance(step, Confirmed) else "unconfirmed"
    if row.verdict != verdict:
        say("verdict", row.verdict, verdict)
    last = step.looks[-1]
    if _runs_used(attempt, plan, last.n) != (len(attempt.candidate), len(attempt.incumbent)):
        say("replicates", len(attempt.candidate), f"decided after {last.n}")
    claims = {"p_value": last.p_value, "gain": last.gain, "gain_low": last.low, "gain_high": last.high}
    for name, recomputed in claims.items():
        if not _close(getattr(row, name), recomputed):
            say(name, getattr(row, name), recomputed)
    mean = math.fsum(row.scores) / len(row.scores)
    if row.score is not None and not _close(row.score, mean):
        say("score", row.score, mean)
    recorded_looks = [(look["n"], look["p_value"], look["level"]) for look in detail.get("looks", [])]
    again = [(look.n, look.p_value, look.level) for look in step.looks]
    if len(recorded_looks) != len(again) or not all(
        a[0] == b[0] and _close(a[1], b[1]) and _close(a[2], b[2])
        for a, b in zip(recorded_looks, again, strict=True)
    ):
        say("looks", recorded_looks, again)
    return found


def _stored(hashes: Sequence[Any], measured: Measured) -> list[Measurement]:
    return [made for sha in hashes if sha and (made := measured(sha)) is not None]


def _items_again(
    row: Row, detail: dict[str, Any], book: Book, measured: Measured, read: Read
) -> tuple[list[Mismatch], dict[str, Any]]:
    """Chance of the items and runs that repeat, at each look, from the stored items; and where the record differs."""
    plan, trial = book.plan, row.trial or ""
    ours, theirs = (_stored(detail.get(n, []), measured) for n in ("measurements", "incumbent_measurements"))
    before = _stored(book.evidence(row.incumbent), measured)
    pool = len(book.pool(row.incumbent))
    chances, fixed = [], []
    for n in plan.looks[: len(detail.get("items", detail.get("looks", [])))]:
        sides = ours[:n], [*before, *theirs[: plan.runs_of_incumbent(pool, n)]]
        try:
            chances.append(chance_of(*sides, plan, read).as_json())
        except (StoreError, ValueError) as error:
            return [Mismatch(trial, "test items", "at each look", str(error))], {}
        fixed.append(is_fixed(*sides))
    found = []
    for recorded, again in zip(detail.get("items", []), chances, strict=False):
        if set(recorded) != set(again) or not all(_close(float(recorded[k]), float(again[k])) for k in again):
            found.append(Mismatch(trial, "chance of the test items", str(recorded), str(again)))
    if len(detail.get("items", [])) != len(chances) or (detail.get("fixed") or fixed) != fixed:
        found.append(Mismatch(trial, "looks with test items", str(detail.get("fixed")), str(fixed)))
    return found, {"items": chances, "fixed": fixed}


def _control(row: Row, detail: dict[str, Any], measured: Measured, read: Read) -> list[Mismatch]:
    """The control run's verdict from its measurement and those of the ordinary runs.

    What chance gives on the split is taken from the record, because only the labels say it.
    """
    trial, told = row.trial or "", detail.get("control")
    rejected = detail.get("reason") == "not_learnt"
    if told is None:
        needed = rejected or row.verdict == "confirmed"
        return [Mismatch(trial, "control run", "none", "a confirmation needs one")] if needed else []
    check = Check.model_validate(told)
    if check.passed == rejected:
        said = "passed" if check.passed else "failed"
        return [Mismatch(trial, "verdict", str(detail.get("reason")), f"the control run {said}")]
    if "ended" in check.numbers or "made" in check.numbers:  # it has no score, or there is no data to permute
        return (
            [] if check.passed else [Mismatch(trial, "control run", "failed", "a run without a score passes")]
        )
    sha = str(check.numbers.get("measurement_sha256", ""))
    made, real = measured(sha) if sha else None, _stored(detail.get("measurements", []), measured)
    if made is None or made.purpose != "control" or made.source_sha256 != row.source_sha256 or not real:
        return [Mismatch(trial, "control run", f"measurement {sha or 'none'}", "no such control run")]
    chance = {}
    for name, items in (read(real[0]) or {}).items():
        if f"{name}_chance" in check.numbers:
            none = float(check.numbers[f"{name}_chance"])
            chance[name] = (none, error_of(name, none, len(items)))
    names = {name for m in real for name in m.quantities}
    means = {n: math.fsum(m.quantities.get(n, math.nan) for m in real) / len(real) for n in names}
    again = control_verdict(chance, means, made.quantities)
    figures = {name: value for name, value in again.numbers.items() if name != "cause"}
    stated = {name: check.numbers.get(name, math.nan) for name in figures}
    if again.passed != check.passed or not all(_near(float(stated[n]), float(v)) for n, v in figures.items()):
        recorded = f"{'passed' if check.passed else 'failed'}, {stated}"
        return [
            Mismatch(trial, "control run", recorded, f"{'passed' if again.passed else 'failed'}, {figures}")
        ]
    return []


def _lawful(
    row: Row, detail: dict[str, Any], book: Book, spec: EnvironmentSpec, measured: Measured
) -> list[Mismatch]:
    """No replicate that a confirmation counts may break a rule."""
    earlier: list[SeedResult] = []
    for made in _stored(detail.get("measurements", []), measured):
        seeded = book.must_depend(row.incumbent)
        fault = fault_of(made, spec, seeded=seeded, beside=earlier, replicate=True)
        if fault is not None:
            return [Mismatch(row.trial or "", "a replicate", "lawful", f"{fault.cause}: {fault.text}")]
        earlier += made.per_seed
    return []


def _sealed(
    row: Row, earlier: Sequence[Row], book: Book, spec: EnvironmentSpec, measured: Measured, read: Read
) -> list[Mismatch]:
    """A sealed event's gains, level and verdict from the measurements on both splits."""
    trial, detail = row.trial or "", json.loads(row.detail_json)
    names = (
        ("public_measurements", "measurements"),
        ("incumbent_public_measurements", "incumbent_measurements"),
    )
    sides = [tuple(_stored(detail.get(name, []), measured) for name in pair) for pair in names]
    wrong = [
        m
        for side in sides
        for runs, split in zip(side, ("public", "sealed"), strict=True)
        for m in runs
        if m.split != split
    ]
    if wrong or not all(part for side in sides for part in side):
        return [
            Mismatch(trial, "sealed score", str(row.sealed_score), "measurements of both splits are missing")
        ]
    runs = SealedRuns(trial, row.incumbent or "", (sides[0][0], sides[0][1]), (sides[1][0], sides[1][1]))

    def stored(sha: str) -> Measurement:
        made = measured(sha)
        if made is None:
            raise StoreCorrupt(f"no measurement {sha}")
        return made

    try:
        columns, more = look_at_sealed(
            runs, earlier, book.plan, spec, book.must_depend(row.incumbent), stored, read
        )
    except (StoreError, ValueError) as error:
        return [Mismatch(trial, "sealed gain", str(row.sealed_gain), str(error))]
    found = []
    for name, value in columns.items():
        said = getattr(row, name)
        same = said == value if isinstance(value, str | int) else _near(said, value)
        if not same:
            found.append(Mismatch(trial, name.replace("_", " "), str(said), str(value)))
    if detail.get("contradicted") != more["contradicted"]:
        found.append(Mismatch(trial, "alarm", str(detail.get("contradicted")), str(more["contradicted"])))
    mean = math.fsum(m.score or 0.0 for m in sides[0][1]) / len(sides[0][1])
    if not _close(row.sealed_score, mean):
        found.append(Mismatch(trial, "sealed score", str(row.sealed_score), str(mean)))
    return found


def _near(left: float | None, right: float | None) -> bool:
    """Differences of nearly equal means keep fewer digits."""
    if left is None or right is None:
        return left is right
    return math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-12)


def recompute_items(measurement: Measurement, read: Read) -> list[Mismatch]:
    """Every run's quantities again from its test items. Raises StoreError when their artifact cannot be read."""
    found = []
    for name, items in (read(measurement) or {}).items():
        said = [seed.quantities.get(name, math.nan) for seed in measurement.per_seed]
        again = items.means.tolist()
        if len(said) != len(again) or not all(map(_near, said, again)):
            found.append(Mismatch(measurement.trial, f"{name} of each run", str(said), str(again)))
    return found


def _runs_used(attempt: Attempt, plan: ConfirmPlan, n: int) -> tuple[int, int]:
    return n, plan.runs_of_incumbent(len(attempt.pool), n)


def _replicates(row: Row, detail: dict[str, Any], measured: Measured) -> list[Mismatch]:
    """The recorded replicates against the measurements that they claim to come from."""
    found = []
    claims = (
        ("candidate replicates", list(row.scores), detail.get("measurements", [row.measurement_sha256])),
        (
            "incumbent replicates",
            detail.get("incumbent_scores", []),
            detail.get("incumbent_measurements", []),
        ),
    )
    for what, scores, hashes in claims:
        facts: list[float] = []
        missing = [sha for sha in hashes if sha is None or measured(sha) is None]
        for sha in hashes:
            facts += _scores(measured(sha)) if sha is not None else []
        if missing:
            found.append(
                Mismatch(row.trial or "", what, f"{len(scores)} scores", f"no measurement {missing[0]}")
            )
        elif len(facts) != len(scores) or not all(map(_close, facts, scores)):
            found.append(Mismatch(row.trial or "", what, str(scores), str(facts)))
    return found


def _gates(
    row: Row, detail: dict[str, Any], plan: ConfirmPlan, spec: EnvironmentSpec, measured: Measured
) -> list[Mismatch]:
    """Compares the recorded gate results after each look with the candidate's measurements."""
    made = [measured(sha) for sha in detail.get("measurements", [])]
    seeds = [seed for measurement in made if measurement is not None for seed in measurement.per_seed]
    recorded = [bool(gate) for gate in detail.get("gates", [])]
    again = [gates_pass(spec.gates, seeds[:n], plan.gate_looks) for n in plan.looks[: len(recorded)]]
    # `next_step` takes a missing entry for yes, so a confirmation must have recorded one for each of its looks.
    looks = len(detail.get("looks", []))
    silent = row.verdict == "confirmed" and bool(spec.gates) and len(recorded) != looks
    if recorded != again or silent:
        return [Mismatch(row.trial or "", "gates after each look", str(recorded), str(again))]
    given_up = [bool(hopeless) for hopeless in detail.get("hopeless", [])]
    again = [
        gates_out_of_reach(spec.gates, seeds[:n], plan.gate_futility) for n in plan.looks[: len(given_up)]
    ]
    if given_up != again:
        return [Mismatch(row.trial or "", "gates out of reach after each look", str(given_up), str(again))]
    return []


def _scores(measurement: Measurement | None) -> list[float]:
    """Per-seed scores of a measurement made for a confirmation on the public split."""
    if measurement is None or measurement.purpose != "confirm" or measurement.split != "public":
        return []
    return _per_seed(measurement)


def _per_seed(measurement: Measurement) -> list[float]:
    name = measurement.metric
    return [seed.quantities[name] for seed in measurement.per_seed if name in seed.quantities]


def recompute_labels(
    rows: Iterable[Row],
    plan: ConfirmPlan,
    spec: EnvironmentSpec,
    evidence: Callable[[Row], Evidence | None],
    racing: RacingPlan | None = None,
) -> list[Mismatch]:
    """Every trial row's status, cause and score again, against the leader that the row names.

    `racing`: the campaign's plan for ending screens early, whose decisions are made again too.

    Other rows may be appended while a label is decided, so that leader need not be the one just before the row;
    but it must have led at some time while the trial was open.
    """
    leaderboard, found = Leaderboard(plan.sign), []
    depends: dict[str | None, bool | None] = {}
    led: list[Leader | None] = [None]
    begun: dict[str, int] = {}
    start: tuple[SeedResult, ...] = ()
    for row in rows:
        if row.event == "submitted" and row.trial is not None:
            begun[row.trial] = len(led) - 1
        elif row.event == "trial":
            was_open = led[begun.get(row.trial or "", 0) :]
            facts = evidence(row)
            made = facts.measurement if facts is not None else None
            if plan.rules >= 2:
                depends[row.trial] = deterministic(made.per_seed) if made is not None else None
            seeded = False in (depends.get(leaderboard.start), depends.get(row.parent))
            stopped, wrong = _raced(row, spec, made, racing, _named(row, leaderboard), start)
            found += [*_leader_named(row, was_open, leaderboard), *wrong]
            found += _label(row, leaderboard, spec, facts, seeded, stopped)
            if row.status is Status.BASELINE and made is not None:
                start = made.per_seed
            if plan.rules >= 2 and row.deterministic != depends[row.trial]:
                said, again = str(row.deterministic), str(depends[row.trial])
                found.append(Mismatch(row.trial or "", "independence of the seed", said, again))
        leaderboard.read(row)
        if (leader := leaderboard.leader()) != led[-1]:
            led.append(leader)
    return found


def _raced(
    row: Row,
    spec: EnvironmentSpec,
    made: Measurement | None,
    racing: RacingPlan | None,
    leader: Leader | None,
    start: Sequence[SeedResult],
) -> tuple[Stopped | None, list[Mismatch]]:
    """Why the screen of a row ended early, decided again; what the row says otherwise, and a keep without all its runs."""
    detail = json.loads(row.detail_json)
    said = detail.get("racing") if isinstance(detail, dict) else None
    again = None
    if racing is not None and made is not None and said is not None:
        again = look(racing, spec, made.per_seed, leader, start)
    found = []
    recorded = Stopped.model_validate(said) if said is not None else None
    if not _same_stop(recorded, again):
        found.append(Mismatch(row.trial or "", "end of the screen", _stop_text(recorded), _stop_text(again)))
    if racing is not None and row.status is Status.KEEP and len(row.scores) < racing.runs:
        text = f"keep after {len(row.scores)} runs"
        found.append(Mismatch(row.trial or "", "runs of the screen", text, f"{racing.runs} runs are needed"))
    return again, found


def _same_stop(one: Stopped | None, other: Stopped | None) -> bool:
    if one is None or other is None:
        return one is other
    same = (one.runs, one.planned, one.quantity, one.leader) == (
        other.runs,
        other.planned,
        other.quantity,
        other.leader,
    )
    return same and all(_near(getattr(one, n), getattr(other, n)) for n in ("mean", "best", "limit", "level"))


def _stop_text(stopped: Stopped | None) -> str:
    if stopped is None:
        return "after all runs"
    return f"{stopped.text}: {stopped.quantity} at best {stopped.best:.6g}, needed {stopped.limit:.6g}"


def _leader_named(row: Row, was_open: list[Leader | None], leaderboard: Leaderboard) -> list[Mismatch]:
    """A leader that the row names must have led, with that score, between its submission and its row."""
    named = _named(row, leaderboard)
    if named in was_open or (named is None and leaderboard.leader() is None):
        return []
    options = ", ".join(_leader_text(leader) for leader in was_open)
    return [Mismatch(row.trial or "", "leader", _leader_text(named), f"one of: {options}")]


def _named(row: Row, leaderboard: Leaderboard) -> Leader | None:
    """The leader that a row names as its comparison; the present leader where it names none."""
    detail = json.loads(row.detail_json)
    if not isinstance(detail, dict) or "leader" not in detail:
        return leaderboard.leader()
    said = detail["leader"]
    return (str(said["trial"]), float(said["score"])) if isinstance(said, dict) else None


def _leader_text(leader: Leader | None) -> str:
    return "nobody" if leader is None else f"{leader[0]} at {leader[1]}"


def _label(
    row: Row,
    leaderboard: Leaderboard,
    spec: EnvironmentSpec,
    facts: Evidence | None,
    seeded: bool,
    stopped: Stopped | None,
) -> list[Mismatch]:
    trial = row.trial or ""
    if facts is None or row.status is Status.REJECTED:
        # No program was run: the cause alone carries the status, and a score would have no source.
        if row.cause is None or row.score is not None:
            return [Mismatch(trial, "status", str(row.status), "nothing, there is no evidence for it")]
        expected = status_of(row.cause)
        return [] if row.status is expected else [Mismatch(trial, "status", str(row.status), expected)]
    leader = _named(row, leaderboard)
    again = label(
        spec,
        build=facts.build,
        runs=facts.runs,
        measurement=facts.measurement,
        leader_score=leader[1] if leader else None,
        is_baseline=leaderboard.start is None and row.parent is None,
        seeded=seeded,
        stopped=stopped,
    )
    found = []
    if (row.status, row.cause) != (again.status, again.cause) and not _is_harness_fault(row):
        found.append(Mismatch(trial, "label", _name(row.status, row.cause), _name(again.status, again.cause)))
    score = facts.measurement.score if facts.measurement else None
    if not _close(row.score, score):
        found.append(Mismatch(trial, "score", str(row.score), str(score)))
    behind = row.score - leader[1] if row.score is not None and leader is not None else None
    if row.delta_best is not None and not _close(row.delta_best, behind):
        found.append(Mismatch(trial, "difference to the leader", str(row.delta_best), str(behind)))
    if facts.measurement is not None:
        seeds = _per_seed(facts.measurement)
        if len(seeds) != len(row.scores) or not all(map(_close, seeds, row.scores)):
            found.append(Mismatch(trial, "scores per seed", str(row.scores), str(seeds)))
    return found


def _is_harness_fault(row: Row) -> bool:
    """Whether the row records a harness fault: one between the stages leaves no evidence, and claims no score."""
    return row.status is Status.HARNESS_ABORT and row.score is None


def _name(status: Status | None, cause: str | None) -> str:
    return f"{status}" + (f" ({cause})" if cause else "")


def _close(left: float | None, right: float | None) -> bool:
    if left is None or right is None:
        return left is right
    return math.isclose(left, right, rel_tol=CLOSE, abs_tol=1e-300)
