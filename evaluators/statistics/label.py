"""From facts to a label: status, cause, numbers and one sentence. Pure, total, ordered.

Use: `label(spec, build=..., runs=..., measurement=..., leader_score=...)` for a trial that became a
program, `label_refusal(cause, message, numbers)` for one that did not, `label_infra(what)` for a fault
of the machine or of Bakeoff. `bakeoff verify` calls the same functions on the recorded facts and compares.

The first rule that fits decides:

1. a failed preflight check (the checks run in order, cheapest first)
2. a fault of the machine or of Bakeoff in any run: `harness_abort`, even when another seed failed by its own
   fault, because a faulty machine makes candidates fail; the trial is run again
3. an attempt on the judge, then a broken protocol rule, in any run
4. the first training run that failed, then the first prediction run that failed
5. a failed audit (causality), then equal results of different seeds where the start's or parent's differ
6. a missed gate: size first, then the others in the environment's order
   (5 and 6 are in `evaluators.statistics.lawful_measurement`, which confirmation, sealed scoring, replay and verify use too)
7. a screen that racing ended (`evaluators.statistics.racing`): `discard`, or a missed gate where a gate was the reason; its
   few runs are asked for no other gate
8. no score although nothing failed: a fault of Bakeoff, `infra:no_score`
9. the start: `baseline`; strictly better than the leader: `keep`; else `discard`

Cause to status (`STATUS_OF_CAUSE`; a test checks that this table and `lineage.records` agree):

| cause | status |
|---|---|
| bad_edit, outside_surface, duplicate, refused, abandoned | rejected |
| syntax, import, smoke | preflight_crash |
| crash, oom, nan, segfault, no_artifact, no_metric | crash |
| cpu_cap, wall_cap | train_budget_overrun; eval_budget_overrun while predicting |
| oversize | size_blocked |
| gate_missed, not_causal, illegal:<rule>, tamper | disqualified |
| pruned | discard (ended early: its training curve was far behind its parent's) |
| infra:<what> | harness_abort |
| (none) | baseline, keep, discard |

`evaluators.judge.failure_causes` turns the end of a process into a cause. A run that did not end well and has no cause
is `infra:unexplained`: then the judge, not the candidate, is at fault.

Keys of `Label.numbers`, present wherever the facts contain them. Proposers repair failures from them
(arXiv 2605.05724 section 5):

    artifact_bytes, cap_bytes, bytes_over | bytes_to_spare
    train_cpu_s, train_cpu_cap_s, train_cpu_over_s | train_cpu_to_spare_s       largest over the seeds
    predict_cpu_s, predict_cpu_cap_s, predict_cpu_over_s | predict_cpu_to_spare_s
    (the same with `wall` when the wall clock ended the run, with `start` when it never got past start-up)
    gate, gate_mean, gate_bound, gate_limit, short_by; per passed gate: <quantity>_to_spare
    asked_bytes, free_bytes, total_bytes       of the accelerator's memory, when that ran out
    stage, run, runs, runs_failed, exception, line, signal, exit_code, peak_bytes, worker_oom

Limits: log text and exceptions come from the candidate; they are shortened and stripped, and decide nothing.
A run over its cap is stopped there, so `..._over_s` is less than what the run needed. A better score of one
measurement is only a `keep`; `evaluators.statistics.confirmation` decides what is a champion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evaluators.statistics.lawful_measurement import (
    Numbers,
    check_of,
    clean,
    facts_numbers,
    fault_of,
    gate_value,
    is_cause,
    judge_numbers,
    overrun,
    run_sentence,
    seed_cause,
    seed_numbers,
    size_text,
    stated,
)
from evaluators.statistics.racing import Stopped
from lineage.environment_spec import EnvironmentSpec, Gate
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
    "no_metric": Status.CRASH,
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

# Cause of a failed preflight check by the check's name; its `numbers["cause"]` may be more exact.
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
    """Status of a cause. `predicting`: the budget that was used up is that of prediction, not of training."""
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
    """Label of a trial that ended by a fault of the machine or of Bakeoff; it is run again and not counted."""
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
    stopped: Stopped | None = None,
) -> Label:
    """Label of a trial that became a program. Total: any combination of records gets a label.

    `seeded`: runs of the start or of the parent depend on the seed, so those of this program must. `stopped`: why
    its screen ended before all its runs.
    """
    failed = next((check for check in build if not check.passed), None)
    if failed is not None:
        return _preflight(failed)
    spare = spare_numbers(spec, runs, measurement)
    if stopped is not None and measurement is not None:
        asked = measurement.model_copy(update={"gates": ()})
        return (
            _failed_run(spec, runs, measurement, spare)
            or _unlawful(spec, asked, seeded, spare)
            or _ended_early(spec, measurement, stopped, spare)
        )
    return (
        _failed_run(spec, runs, measurement, spare)
        or _unlawful(spec, measurement, seeded, spare)
        or _scored(spec, measurement, leader_score, is_baseline, spare)
    )


def _preflight(check: Check) -> Label:
    stated_cause = str(check.numbers.get("cause", ""))
    cause = stated_cause if is_cause(stated_cause) else CAUSE_OF_CHECK.get(check.name, "smoke")
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
    """Without the `to_spare` figures of a cap at which this run was stopped: they come from other seeds."""
    gone = {key.replace("_over_s", "_to_spare_s") for key in numbers if key.endswith("_over_s")}
    return {key: value for key, value in spare.items() if key not in gone}


def _unlawful(
    spec: EnvironmentSpec, measurement: Measurement | None, seeded: bool, spare: Numbers
) -> Label | None:
    """Rules 5 and 6: the result of `lawful_measurement.fault_of` for a measurement in which every run has a result."""
    fault = fault_of(measurement, spec, seeded=seeded) if measurement is not None else None
    if fault is None:
        return None
    numbers = stated({**spare, **fault.numbers})
    return Label(status=status_of(fault.cause), cause=fault.cause, numbers=numbers, text=fault.text)


def _ended_early(spec: EnvironmentSpec, measurement: Measurement, stopped: Stopped, spare: Numbers) -> Label:
    """A screen that racing ended: what its runs gave, and why more of them would not have helped."""
    digits = spec.score.digits
    numbers = {**spare, "runs": stopped.runs, "planned_runs": stopped.planned, "best_expected": stopped.best}
    if measurement.score is not None:
        numbers["score"] = measurement.score
    if stopped.leader:
        numbers |= {"leader_score": stopped.limit, "delta_best": stopped.mean - stopped.limit}
        text = (
            f"{stopped.mean:.{digits}f} {spec.score.unit}".rstrip()
            + f", {stopped.text}: all of them would hardly "
            f"be better than {stopped.best:.{digits}f}, the leader has {stopped.limit:.{digits}f}"
        )
        return Label(status=Status.DISCARD, numbers=stated(numbers), text=text)
    missed = tuple(gate for gate in measurement.gates if gate.name.partition(" ")[0] == stopped.quantity)
    fault = fault_of(measurement.model_copy(update={"gates": missed, "audits": ()}), spec)
    if fault is None:
        return label_infra("racing", f"{stopped.text} for {stopped.quantity}, which they do not miss")
    numbers = stated({**numbers, **fault.numbers})
    text = f"{fault.text}; {stopped.text}"
    return Label(status=status_of(fault.cause), cause=fault.cause, numbers=numbers, text=text)


def _scored(
    spec: EnvironmentSpec,
    measurement: Measurement | None,
    leader_score: float | None,
    is_baseline: bool,
    spare: Numbers,
) -> Label:
    if measurement is None or measurement.score is None:
        missing = "no measurement" if measurement is None else "no score"
        return label_infra(missing, f"nothing failed and yet there is {missing}; the judge must be checked")
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


def run_cause(spec: EnvironmentSpec, run: TrainRun) -> str | None:
    """Why a training run failed; None when it left an artifact within the cap."""
    if run.cause is not None:
        return run.cause
    if run.facts.end != "exit" or run.facts.code != 0 or not run.facts.started or run.artifact is None:
        return "infra:unexplained"
    return "oversize" if run.artifact.bytes > spec.budget.artifact_bytes else None


def spare_numbers(
    spec: EnvironmentSpec, runs: Sequence[TrainRun], measurement: Measurement | None
) -> Numbers:
    """What is left of each budget at the largest use over all seeds: the room that the next edit has."""
    numbers: Numbers = {}
    train = [run.facts.cpu_s for run in runs if run.facts.started]
    if train:
        numbers |= _clock("train", "cpu", max(train), spec.budget.train_cpu_s)
    per_seed = measurement.per_seed if measurement else ()
    predict = [seed.facts.cpu_s for seed in per_seed if seed.facts and seed.facts.started]
    if predict:
        numbers |= _clock("predict", "cpu", max(predict), spec.budget.predict_cpu_s)
    sizes = [run.artifact.bytes for run in runs if run.artifact]
    size = max(sizes, default=measurement.artifact_bytes if measurement else 0)
    if size:
        numbers |= _size(size, spec.budget.artifact_bytes)
    if any(run.facts.oom_kills and run.cause is None for run in runs):
        numbers["worker_oom"] = sum(run.facts.oom_kills for run in runs)
    if measurement:
        for gate in spec.gates:
            numbers |= _gate_room(gate, measurement)
    return numbers


def _clock(stage: str, clock: str, seconds: float, cap: float) -> Numbers:
    key = f"{stage}_{clock}"
    left = round(cap - seconds, 3)
    room: Numbers = {f"{key}_over_s": -left} if left < 0 else {f"{key}_to_spare_s": left}
    return {f"{key}_s": round(seconds, 3), f"{key}_cap_s": cap, **room}


def _size(size: int, cap: int) -> Numbers:
    room: Numbers = {"bytes_over": size - cap} if size > cap else {"bytes_to_spare": cap - size}
    return {"artifact_bytes": size, "cap_bytes": cap, **room}


def _gate_room(gate: Gate, measurement: Measurement) -> Numbers:
    value = gate_value(gate, check_of(gate, measurement), measurement)
    if value is None:
        return {}
    room = value - gate.at_least if gate.at_least is not None else (gate.at_most or 0.0) - value
    return {f"{gate.quantity}_to_spare": room} if room >= 0 else {}


def _oversize(run: TrainRun, cap: int) -> tuple[int | None, int, str]:
    """Bytes, cap and what was too big, from the sealed artifact or from what the seal counted."""
    if run.artifact is not None:
        return run.artifact.bytes, cap, "artifact"
    what = "source" if "source_bytes" in run.numbers else "artifact"
    size = run.numbers.get("source_bytes", run.numbers.get("bytes"))
    stated_cap = run.numbers.get("cap", cap)
    return (
        int(size) if isinstance(size, int | float) else None,
        int(stated_cap) if isinstance(stated_cap, int | float) else cap,
        what,
    )


def preflight_numbers(check: Check, cause: str) -> Numbers:
    """Numbers of a failed preflight check. A size has the same keys as after a real run."""
    numbers: Numbers = {**judge_numbers(check.numbers), "stage": "build", "check": check.name}
    size, cap = numbers.get("source_bytes", numbers.get("bytes")), numbers.get("cap")
    if cause == "oversize" and isinstance(size, int) and isinstance(cap, int):
        numbers |= {"cap_bytes": cap, "bytes_over": max(0, size - cap)}
    return numbers


def run_numbers(spec: EnvironmentSpec, run: TrainRun, cause: str) -> tuple[Numbers, str]:
    """Numbers and sentence of a failed training run."""
    facts, budget = run.facts, spec.budget
    numbers: Numbers = facts_numbers(facts, "train")
    stated_numbers = judge_numbers(run.numbers)
    if cause == "oversize":
        size, cap, what = _oversize(run, budget.artifact_bytes)
        if size is not None:
            return {**stated_numbers, **numbers, **_size(size, cap)}, size_text(size, cap, what)
    if cause in ("cpu_cap", "wall_cap"):
        cap_s = budget.train_cpu_s if cause == "cpu_cap" else budget.train_wall_s
        seconds, text = overrun("train", cause, facts, cap_s, stated_numbers.get("cap_s"))
        return {**stated_numbers, **numbers, **seconds}, text
    return {**stated_numbers, **numbers}, run_sentence("training", cause, facts, run.numbers)
