"""From facts to a label: status, cause, numbers and one sentence. Pure, total, ordered.

Use: `label(spec, build=..., runs=..., measurement=..., leader_score=...)` for a trial that became a
program, `label_refusal(cause, message, numbers)` for one that did not, `label_infra(what)` for a fault
of ours. `bakeoff verify` calls the same functions on the recorded facts and compares.

The first rule that fits decides:

1. a failed preflight check (the ladder is ordered, cheapest first)
2. a fault of ours in any run: `harness_abort`, even when another seed failed for its own reason,
   because a sick machine makes candidates fail; the trial is run again
3. an attempt on the judge, then a broken protocol rule, in any run
4. the first training run that failed, then the first prediction run that failed
5. a failed audit (causality), then equal results of different seeds where the start's or parent's differ
6. a missed gate: size first, then the others in the environment's order
   (5 and 6 are `evaluators.statistics.lawful`, which confirmation, seal, replay and verify ask too)
7. no score although nothing failed: ours, `infra:no_score`
8. the start: `baseline`; strictly better than the leader: `keep`; else `discard`

Cause to status (`STATUS_OF_CAUSE`; a test checks that this table and `lineage.records` agree):

| cause | status |
|---|---|
| bad_edit, outside_surface, duplicate, refused, abandoned | rejected |
| syntax, import, smoke | preflight_crash |
| crash, oom, nan, segfault, no_artifact | crash |
| cpu_cap, wall_cap | train_budget_overrun; eval_budget_overrun while predicting |
| oversize | size_blocked |
| gate_missed, not_causal, illegal:<rule>, tamper | disqualified |
| pruned | discard (its own curve said that it would not be better) |
| infra:<what> | harness_abort |
| (none) | baseline, keep, discard |

How the end of a process becomes a cause is `evaluators.judge.causes`; a run that did not end well and has no
cause is `infra:unexplained`, because then the judge, not the candidate, is at fault.

Numbers that every label carries where the facts hold them (`evaluators.statistics.margins` has the list): bytes,
cap and bytes over or to spare; CPU seconds, cap and seconds over or to spare; each missed gate's mean,
bound, limit and how much it is short by; exception and line. They are what turned failures into
the paper's repairs (arXiv 2605.05724 section 5).

Limits: log text and exceptions come from the candidate and are quoted, bounded and stripped, never
trusted. A strict improvement of one measurement is only a `keep`; `evaluators.statistics.confirmation` decides what
is a champion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluators.statistics.lawful import fault_of, is_cause
from evaluators.statistics.margins import (
    Numbers,
    clean,
    preflight_numbers,
    run_cause,
    run_numbers,
    seed_cause,
    seed_numbers,
    spare_numbers,
    stated,
)
from lineage.environment_spec import EnvironmentSpec
from lineage.records import CAUSES, Check, Label, Measurement, Status, TrainRun, check_cause

STATUS_OF_CAUSE: dict[str, Status] = {
    "bad_edit": Status.REJECTED,
    "outside_surface": Status.REJECTED,
    "duplicate": Status.REJECTED,
    "refused": Status.REJECTED,
    "abandoned": Status.REJECTED,
    "syntax": Status.PREFLIGHT_CRASH,
    "import": Status.PREFLIGHT_CRASH,
    "smoke": Status.PREFLIGHT_CRASH,
    "crash": Status.CRASH,
    "oom": Status.CRASH,
    "nan": Status.CRASH,
    "segfault": Status.CRASH,
    "no_artifact": Status.CRASH,
    "cpu_cap": Status.TRAIN_BUDGET_OVERRUN,
    "wall_cap": Status.TRAIN_BUDGET_OVERRUN,
    "oversize": Status.SIZE_BLOCKED,
    "gate_missed": Status.DISQUALIFIED,
    "not_causal": Status.DISQUALIFIED,
    "illegal": Status.DISQUALIFIED,
    "tamper": Status.DISQUALIFIED,
    "pruned": Status.DISCARD,
    "infra": Status.HARNESS_ABORT,
}

# A preflight check is named for its rung; its `numbers["cause"]` may say it more exactly.
CAUSE_OF_CHECK = {
    "parse": "syntax",
    "syntax": "syntax",
    "surface": "outside_surface",
    "duplicate": "duplicate",
    "size": "oversize",
    "source_size": "oversize",
    "import": "import",
    "smoke": "smoke",
}


def status_of(cause: str, *, predicting: bool = False) -> Status:
    """Status of a cause; the budget causes depend on which of the two budgets was used up."""
    status = STATUS_OF_CAUSE[cause.partition(":")[0]]
    if predicting and status is Status.TRAIN_BUDGET_OVERRUN:
        return Status.EVAL_BUDGET_OVERRUN
    return status


def label_refusal(cause: str, message: str, numbers: Mapping[str, float | int | str] | None = None) -> Label:
    """Label of an edit that never became a program (`lineage.errors.EditRefused` and proposer faults)."""
    known = cause if cause.partition(":")[0] in CAUSES else "bad_edit"
    return Label(
        status=status_of(known),
        cause=check_cause(known),
        numbers=stated(dict(numbers or {})),
        text=clean(message, 400) or f"refused: {known}",
    )


def label_infra(what: str, message: str = "") -> Label:
    """Label of a trial that ended by a fault of ours; such a trial is run again and never counted."""
    word = clean(what.removeprefix("infra:"), 60).replace(" ", "_") or "unknown"
    text = clean(message, 400) or f"the harness failed ({word}), not the candidate"
    return Label(status=Status.HARNESS_ABORT, cause=f"infra:{word}", numbers={}, text=text)


def label(
    spec: EnvironmentSpec,
    *,
    build: Sequence[Check] = (),
    runs: Sequence[TrainRun] = (),
    measurement: Measurement | None = None,
    leader_score: float | None = None,
    is_baseline: bool = False,
    seeded: bool = False,
) -> Label:
    """Label of a trial that became a program. Total: any combination of records gets a label.

    `seeded`: runs of the start or of the parent depend on the seed, so those of this program must.
    """
    failed = next((check for check in build if not check.passed), None)
    if failed is not None:
        return _preflight(failed)
    spare = spare_numbers(spec, runs, measurement)
    return (
        _failed_run(spec, runs, measurement, spare)
        or _unlawful(spec, measurement, seeded, spare)
        or _scored(spec, measurement, leader_score, is_baseline, spare)
    )


def _preflight(check: Check) -> Label:
    told = str(check.numbers.get("cause", ""))
    cause = told if is_cause(told) else CAUSE_OF_CHECK.get(check.name, "smoke")
    status = status_of(cause)
    if status in (Status.CRASH, Status.TRAIN_BUDGET_OVERRUN, Status.DISCARD):
        # A crash or overrun on the tiny run is still a preflight crash: no real run was spent on it.
        cause, status = "smoke", Status.PREFLIGHT_CRASH
    if cause.startswith("infra:"):
        return label_infra(cause, check.detail)
    numbers = stated(preflight_numbers(check, cause))
    detail = clean(check.detail, 300) or "no detail was given"
    return Label(status=status, cause=cause, numbers=numbers, text=f"{check.name} check failed: {detail}")


def _failed_run(
    spec: EnvironmentSpec, runs: Sequence[TrainRun], measurement: Measurement | None, spare: Numbers
) -> Label | None:
    """Rules 2 to 4 over all runs of both stages."""
    found: list[tuple[str, bool, Numbers, str]] = []
    for index, run in enumerate(runs):
        cause = run_cause(spec, run)
        if cause is not None:
            numbers, text = run_numbers(spec, run, cause)
            found.append((cause, False, {**numbers, "run": index + 1, "runs": len(runs)}, text))
    seeds = measurement.per_seed if measurement is not None else ()
    for index, seed in enumerate(seeds):
        cause = seed_cause(seed)
        if cause is not None and not (index < len(runs) and run_cause(spec, runs[index]) == cause):
            numbers, text = seed_numbers(spec, seed, cause)
            predicting = "counted_s" not in seed.numbers  # what was beyond the start's counts as training
            found.append((cause, predicting, {**numbers, "run": index + 1, "runs": len(seeds)}, text))
    if not found:
        return None
    for head in ("infra", "tamper", "illegal", ""):
        for cause, predicting, numbers, text in found:
            if not head or cause.partition(":")[0] == head:
                status = status_of(cause, predicting=predicting)
                merged = stated({**_without_spare(spare, numbers), **numbers, "runs_failed": len(found)})
                return Label(status=status, cause=cause, numbers=merged, text=text)
    return None


def _without_spare(spare: Numbers, numbers: Numbers) -> Numbers:
    """A run that was stopped at its cap has nothing to spare of it, whatever the other seeds left over."""
    gone = {key.replace("_over_s", "_to_spare_s") for key in numbers if key.endswith("_over_s")}
    return {key: value for key, value in spare.items() if key not in gone}


def _unlawful(
    spec: EnvironmentSpec, measurement: Measurement | None, seeded: bool, spare: Numbers
) -> Label | None:
    """Rules 5 and 6: what `lawful.fault_of` says of a measurement in which every run has a result."""
    fault = fault_of(measurement, spec, seeded=seeded) if measurement is not None else None
    if fault is None:
        return None
    numbers = stated({**spare, **fault.numbers})
    return Label(status=status_of(fault.cause), cause=fault.cause, numbers=numbers, text=fault.text)


def _scored(
    spec: EnvironmentSpec,
    measurement: Measurement | None,
    leader_score: float | None,
    is_baseline: bool,
    spare: Numbers,
) -> Label:
    if measurement is None or measurement.score is None:
        missing = "no measurement" if measurement is None else "no score"
        return label_infra(missing, f"nothing failed and yet there is {missing}; the judge must be looked at")
    score, digits, unit = measurement.score, spec.score.digits, spec.score.unit
    shown = f"{score:.{digits}f} {unit}".rstrip()
    if is_baseline:
        return Label(
            status=Status.BASELINE,
            numbers=stated({**spare, "score": score}),
            text=f"the start scores {shown}",
        )
    if leader_score is None:
        numbers = stated({**spare, "score": score})
        return Label(status=Status.KEEP, numbers=numbers, text=f"{shown}: the first valid score")
    gain = spec.sign * (score - leader_score)
    numbers = stated(
        {**spare, "score": score, "leader_score": leader_score, "delta_best": score - leader_score}
    )
    against = f"the leader's {leader_score:.{digits}f}"
    if gain > 0:
        return Label(
            status=Status.KEEP,
            numbers=numbers,
            text=f"{shown}, better than {against} by {gain:.{digits}f} in one measurement",
        )
    text = f"{shown}, not better than {against} (worse by {-gain:.{digits}f})"
    return Label(status=Status.DISCARD, numbers=numbers, text=text)
