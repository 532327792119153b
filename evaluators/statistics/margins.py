"""By how much: the numbers and the sentence that go with a label. Pure.

Keys of `Label.numbers`, present wherever the facts hold them:

    artifact_bytes, cap_bytes, bytes_over | bytes_to_spare
    train_cpu_s, train_cpu_cap_s, train_cpu_over_s | train_cpu_to_spare_s       largest over the seeds
    predict_cpu_s, predict_cpu_cap_s, predict_cpu_over_s | predict_cpu_to_spare_s
    (the same with `wall` when the wall clock ended the run, with `start` when it never got past start-up)
    gate, gate_mean, gate_bound, gate_limit, short_by; per passed gate: <quantity>_to_spare
    asked_bytes, free_bytes, total_bytes       of the accelerator's memory, when that ran out
    stage, run, runs, runs_failed, exception, line, signal, exit_code, peak_bytes, worker_oom

Use: called by `evaluators.statistics.label` only. Limits: an overrun was stopped at its cap, so `..._over_s` says by
how much the clock had passed it when the tree was ended, which is less than the run wanted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluators.judge import billing
from lineage.environment_spec import EnvironmentSpec, Gate
from lineage.records import Check, Measurement, Number, RunFacts, SeedResult, TrainRun

Numbers = dict[str, Number]

SIZE_QUANTITIES = frozenset({"artifact_bytes", "total_bytes", "source_bytes"})
EXCEPTION_LINE = re.compile(r"\(([^()\s]+:\d+)[^()]*\)\s*$")
TEXT_LIMIT = 300  # longest untrusted text inside a label; the log excerpt has its own column


@dataclass(frozen=True)
class GateMiss:
    """A gate that was not passed: its check if the judge wrote one, its rule if the spec has one."""

    check: Check
    gate: Gate | None

    @property
    def quantity(self) -> str:
        return self.check.name.partition(" ")[0]

    @property
    def is_size(self) -> bool:
        return self.quantity in SIZE_QUANTITIES


def clean(text: str, limit: int = TEXT_LIMIT) -> str:
    """One bounded line without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def stated(numbers: Mapping[str, Number]) -> Numbers:
    """Numbers fit for a record: finite, text bounded."""
    kept: Numbers = {}
    for key, value in numbers.items():
        if isinstance(value, str):
            kept[key] = clean(value)
        elif math.isfinite(value):
            kept[key] = value
    return kept


def figure(value: float) -> str:
    """A figure for a sentence: whole numbers with separators, others to six significant digits."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.6g}"


def run_cause(spec: EnvironmentSpec, run: TrainRun) -> str | None:
    """Why a training run failed; None when it left an artifact within the cap."""
    if run.cause is not None:
        return run.cause
    if run.facts.end != "exit" or run.facts.code != 0 or not run.facts.started or run.artifact is None:
        return "infra:unexplained"
    return "oversize" if run.artifact.bytes > spec.budget.artifact_bytes else None


def seed_cause(seed: SeedResult) -> str | None:
    """Why a prediction run failed; None when it answered everything."""
    if seed.cause is not None or seed.facts is None:
        return seed.cause
    ended_well = seed.facts.end == "exit" and seed.facts.code == 0 and seed.facts.started
    return None if ended_well else "infra:unexplained"


def spare_numbers(
    spec: EnvironmentSpec, runs: Sequence[TrainRun], measurement: Measurement | None
) -> Numbers:
    """What was left of each budget, over all seeds: the room that the next edit has."""
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
    value = _gate_value(gate, _check_of(gate, measurement), measurement)
    if value is None:
        return {}
    room = value - gate.at_least if gate.at_least is not None else (gate.at_most or 0.0) - value
    return {f"{gate.quantity}_to_spare": room} if room >= 0 else {}


def _check_of(gate: Gate, measurement: Measurement) -> Check | None:
    return next((c for c in measurement.gates if c.name.partition(" ")[0] == gate.quantity), None)


def _gate_value(gate: Gate, check: Check | None, measurement: Measurement) -> float | None:
    """The figure that the rule looks at: the bound, the worst run or the mean."""
    numbers = check.numbers if check else {}
    key = {"bound": "bound", "each": "worst", "mean": "mean"}[gate.on]
    value = numbers.get(key, numbers.get("mean", measurement.quantities.get(gate.quantity)))
    return float(value) if isinstance(value, int | float) else None


def failing_gate(spec: EnvironmentSpec, measurement: Measurement) -> GateMiss | None:
    """The missed gate that names the label: size before the others, else the judge's order."""
    by_name = {gate.quantity: gate for gate in spec.gates}
    misses = [
        GateMiss(check, by_name.get(check.name.partition(" ")[0]))
        for check in measurement.gates
        if not check.passed
    ]
    return next((m for m in misses if m.is_size), misses[0] if misses else None)


def gate_numbers(spec: EnvironmentSpec, miss: GateMiss, measurement: Measurement) -> tuple[Numbers, str]:
    """Mean, bound, limit and shortfall of a missed gate, and the sentence that says so."""
    check, gate = miss.check, miss.gate
    numbers: Numbers = {"gate": miss.quantity}
    for key in ("mean", "bound", "worst", "limit"):
        if key in check.numbers:
            numbers[f"gate_{key}"] = check.numbers[key]
    numbers.setdefault("gate_mean", measurement.quantities.get(miss.quantity, math.nan))
    others = {k: v for k, v in check.numbers.items() if f"gate_{k}" not in numbers}
    if gate is None:
        return {**others, **numbers}, f"gate {miss.quantity} missed: {clean(check.detail) or 'no detail'}"
    least = gate.at_least is not None
    limit = float(gate.at_least if gate.at_least is not None else gate.at_most or 0.0)
    numbers["gate_limit"] = limit
    value = _gate_value(gate, check, measurement)
    rule = f"{'at least' if least else 'at most'} {figure(limit)}"
    if value is None:
        return {**others, **numbers}, f"{gate.quantity} is undefined, the gate wants {rule}"
    short = limit - value if least else value - limit
    numbers["short_by"] = short
    if miss.is_size:
        numbers |= {"artifact_bytes": int(value), "cap_bytes": int(limit), "bytes_over": int(short)}
        return {**others, **numbers}, _size_text(int(value), int(limit), gate.quantity)
    mean = numbers["gate_mean"]
    seen = f"{gate.quantity} {figure(float(mean))}" if isinstance(mean, int | float) else gate.quantity
    if gate.on == "bound":
        side = "lower" if least else "upper"
        seen += f" ({side} {gate.confidence * 100:g} % bound {figure(value)})"
    elif gate.on == "each":
        seen += f" (worst run {figure(value)})"
    return {**others, **numbers}, f"{seen} misses the gate of {rule} by {figure(short)}"


def _size_text(size: int, cap: int, what: str = "artifact") -> str:
    name = what.removesuffix("_bytes")
    return f"{name} is {size:,} bytes, {size - cap:,} over the cap of {cap:,}"


def _facts_numbers(facts: RunFacts, stage: str) -> Numbers:
    numbers: Numbers = {"stage": stage, "peak_bytes": facts.peak_bytes}
    if facts.exception:
        numbers["exception"] = clean(facts.exception)
        where = EXCEPTION_LINE.search(facts.exception)
        if where:
            numbers["line"] = where.group(1)
    if facts.end == "signal":
        numbers["signal"] = abs(facts.code)
    elif facts.end == "exit" and facts.code:
        numbers["exit_code"] = facts.code
    return numbers


def _told(numbers: Mapping[str, Number]) -> Numbers:
    """The judge's own numbers; its `stage` is a step inside the sandbox, a label's is one of the six."""
    return {("step" if key == "stage" else key): value for key, value in numbers.items()}


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
    """Numbers of a failed check before the real run; a size is told by the same keys as after one."""
    numbers: Numbers = {**_told(check.numbers), "stage": "build", "check": check.name}
    size, cap = numbers.get("source_bytes", numbers.get("bytes")), numbers.get("cap")
    if cause == "oversize" and isinstance(size, int) and isinstance(cap, int):
        numbers |= {"cap_bytes": cap, "bytes_over": max(0, size - cap)}
    return numbers


def run_numbers(spec: EnvironmentSpec, run: TrainRun, cause: str) -> tuple[Numbers, str]:
    """Numbers and sentence of a failed training run."""
    facts, budget = run.facts, spec.budget
    numbers: Numbers = _facts_numbers(facts, "train")
    told = _told(run.numbers)
    if cause == "oversize":
        size, cap, what = _oversize(run, budget.artifact_bytes)
        if size is not None:
            return {**told, **numbers, **_size(size, cap)}, _size_text(size, cap, what)
    if cause in ("cpu_cap", "wall_cap"):
        cap_s = budget.train_cpu_s if cause == "cpu_cap" else budget.train_wall_s
        seconds, text = _overrun("train", cause, facts, cap_s, told.get("cap_s"))
        return {**told, **numbers, **seconds}, text
    return {**told, **numbers}, _sentence("training", cause, facts, run.numbers)


def seed_numbers(spec: EnvironmentSpec, seed: SeedResult, cause: str) -> tuple[Numbers, str]:
    """Numbers and sentence of a failed prediction run."""
    facts = seed.facts
    if facts is None:
        told = {**_told(seed.numbers), "stage": "evaluate"}
        return told, _sentence("prediction", cause, None, seed.numbers)
    numbers = {**_told(seed.numbers), **_facts_numbers(facts, "evaluate")}
    if "counted_s" in seed.numbers:
        return numbers, billing.sentence(seed.numbers)
    if cause in ("cpu_cap", "wall_cap"):
        cap_s = spec.budget.predict_cpu_s if cause == "cpu_cap" else spec.budget.predict_wall_s
        seconds, text = _overrun("predict", cause, facts, cap_s, numbers.get("cap_s"))
        return {**numbers, **seconds}, text
    return numbers, _sentence("prediction", cause, facts, seed.numbers)


def _overrun(
    stage: str, cause: str, facts: RunFacts, cap_s: float, told: Number | None
) -> tuple[Numbers, str]:
    """`told` is the cap that the supervisor used, which in the start-up phase only it knows."""
    clock, unit = ("cpu", "CPU-s") if cause == "cpu_cap" else ("wall", "s of wall clock")
    verb = "training" if stage == "train" else "prediction"
    used = facts.cpu_s if clock == "cpu" else facts.wall_s
    if facts.end == "start_cap":
        stage, verb = "start", f"start-up of {verb}"
        used = facts.start_cpu_s if clock == "cpu" else facts.start_wall_s
        cap_s = float(told) if isinstance(told, int | float) else used
    # Stopped at the cap: the clock may read a hair under it because the last poll came earlier.
    key = f"{stage}_{clock}"
    over = max(round(used - cap_s, 3), 0.0)
    numbers: Numbers = {f"{key}_s": round(used, 3), f"{key}_cap_s": cap_s, f"{key}_over_s": over}
    return numbers, f"{verb} was stopped at {used:.1f} {unit}, its cap is {cap_s:g} and it had not finished"


def _gib(size: Number | None) -> str:
    return f"{size / 2**30:.2f} GiB" if isinstance(size, int | float) else "more"


def _sentence(verb: str, cause: str, facts: RunFacts | None, numbers: Mapping[str, Number]) -> str:
    head, _, rule = cause.partition(":")
    if cause == "oom" and "total_bytes" in numbers:
        asked, free, total = (_gib(numbers.get(f"{name}_bytes")) for name in ("asked", "free", "total"))
        return (
            f"{verb} used up the accelerator's memory: it asked for {asked} where {free} of {total} were free"
        )
    exception = clean(facts.exception, 200) if facts else ""
    detail = clean(facts.detail, 200) if facts else ""
    told = clean(str(numbers.get("detail", "")), 200)
    fixed = {
        "nan": f"{verb} gave values that are not finite",
        "no_artifact": f"{verb} ended with exit code 0 and left no usable artifact",
        "pruned": "ended early: the training curve was hopelessly behind its parent's",
        "illegal": f"{verb} broke the rule {rule!r}",
        "tamper": f"{verb} tried to reach the judge or the record",
        "infra": f"the harness failed ({rule}), not the candidate",
        "oom": f"{verb} used up its memory",
        "segfault": f"{verb} was killed by signal {abs(facts.code) if facts else 0}",
        "oversize": f"{verb} left more bytes than the cap allows",
    }.get(head)
    if head == "crash" and exception:
        return f"{verb} raised {exception}"
    if fixed is None:
        code = f" with exit code {facts.code}" if facts else ""
        fixed = f"{verb} failed ({head}){code}"
    more = exception or detail or told
    return f"{fixed}: {more}" if more else fixed
