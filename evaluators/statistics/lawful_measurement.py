"""Is this measurement lawful? One answer for label, confirmation, sealed scoring, replay and verify. Pure.

Use: `fault_of(measurement, spec, seeded=..., beside=...)` -> the first rule that it breaks, or None. The order:

1. a failed run, in the order of `evaluators.statistics.label`: the machine's fault, tampering, a broken rule, any other
2. a failed audit, in the judge's order
3. frozen seeds (`illegal:seed`): two seeds gave equal artifacts, or the same answers, in a recipe whose start or parent
   gives different ones
4. a missed gate: size first, then the environment's order. With `replicate` (one run of several that a confirmation
   judges together) only gates on each run count; means and bounds are judged over all runs (`confirmation.gates_pass`).

Every fault has its numbers (keys: `evaluators.statistics.label`) and one sentence.

Answers count as the same when every projection in their sketches agrees to `SAME`: requests come in a secret order, and
that moves float32 answers by about 1e-6. Limits: a program that ignores the seed and adds noise of its own is not found
here; its noise then counts as seed noise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluators.judge import uncounted_time
from lineage.environment_spec import EnvironmentSpec, Gate
from lineage.records import Check, Measurement, Number, RunFacts, SeedResult, check_cause

Numbers = dict[str, Number]

SIZE_QUANTITIES = frozenset({"artifact_bytes", "total_bytes", "source_bytes"})
EXCEPTION_LINE = re.compile(r"\(([^()\s]+:\d+)[^()]*\)\s*$")
TEXT_LIMIT = 300  # longest untrusted text inside a label; the log excerpt has its own column
SAME = 1e-5
SEED_TEXT = (
    "different seeds gave the same result, where the program before it gives different ones; take all randomness from "
    "the `seed` that train() receives (generators, initial weights, order of the data), never from a constant"
)


@dataclass(frozen=True)
class Fault:
    """The rule that a measurement breaks: cause of `lineage.records`, its numbers, one sentence."""

    cause: str
    numbers: Numbers
    text: str
    rule: str = ""

    @property
    def is_infra(self) -> bool:
        return self.cause.partition(":")[0] in ("infra", "abandoned")


def fault_of(
    measurement: Measurement,
    spec: EnvironmentSpec,
    *,
    seeded: bool = False,
    beside: Sequence[SeedResult] = (),
    replicate: bool = False,
) -> Fault | None:
    """The first rule that the measurement breaks; None when it is lawful.

    `seeded`: the runs of the start or of the parent depend on the seed. `beside`: results of earlier runs of the same
    program. `replicate`: the measurement is one of several that a confirmation judges together.
    """
    return (
        _failed(measurement, spec)
        or _audit(measurement)
        # a script's seeds may print the same figure by chance: accuracies of a hundred images often tie
        or (_frozen([*beside, *measurement.per_seed]) if seeded and spec.task.kind != "script" else None)
        or _gate(measurement, spec, replicate)
    )


def _failed(measurement: Measurement, spec: EnvironmentSpec) -> Fault | None:
    found = [(cause, seed) for seed in measurement.per_seed if (cause := seed_cause(seed)) is not None]
    for head in ("infra", "tamper", "illegal", ""):
        for cause, seed in found:
            if not head or cause.partition(":")[0] == head:
                numbers, text = seed_numbers(spec, seed, cause)
                return Fault(cause, stated(numbers), text, "run")
    return None


def _audit(measurement: Measurement) -> Fault | None:
    failed = next((audit for audit in measurement.audits if not audit.passed), None)
    if failed is None:
        return None
    stated_cause = str(failed.numbers.get("cause", ""))
    cause = stated_cause if is_cause(stated_cause) else "not_causal"
    numbers = stated({"stage": "evaluate", "audit": failed.name, **failed.numbers})
    text = clean(failed.detail, 300) or "outputs depend on inputs that they must not see"
    return Fault(cause, numbers, f"{failed.name} audit: {text}", failed.name)


def is_cause(text: str) -> bool:
    """Whether the text is a cause of the closed list (`lineage.records.CAUSES`)."""
    try:
        return bool(text) and check_cause(text) is not None
    except ValueError:
        return False


def _gate(measurement: Measurement, spec: EnvironmentSpec, replicate: bool) -> Fault | None:
    if replicate:
        each = [gate.quantity for gate in spec.gates if gate.on == "each"]
        kept = tuple(gate for gate in measurement.gates if gate.name.partition(" ")[0] in each)
        measurement = measurement.model_copy(update={"gates": kept})
    found = failing_gate(spec, measurement)
    if found is None:
        return None
    numbers, text = gate_numbers(spec, found, measurement)
    cause = "oversize" if found.is_size else "gate_missed"
    return Fault(cause, stated({"stage": "evaluate", **numbers}), text, found.check.name)


def _frozen(results: Sequence[SeedResult]) -> Fault | None:
    pair = same_pair(results)
    if pair is None:
        return None
    numbers: Numbers = {
        "stage": "evaluate",
        "seed_a": pair[0].seed,
        "seed_b": pair[1].seed,
        "runs": len(results),
    }
    return Fault("illegal:seed", numbers, SEED_TEXT, "seed")


def same_pair(results: Sequence[SeedResult]) -> tuple[SeedResult, SeedResult] | None:
    """Two runs of different seeds with one result; None when there are none."""
    known = [result for result in results if result.sketch or result.artifact_sha256]
    for at, one in enumerate(known):
        for other in known[:at]:
            if other.seed != one.seed and same_result(one, other):
                return other, one
    return None


def same_result(one: SeedResult, other: SeedResult) -> bool:
    """Equal artifacts, or equal answers up to rounding."""
    if one.artifact_sha256 and one.artifact_sha256 == other.artifact_sha256:
        return True
    if not one.sketch or len(one.sketch) != len(other.sketch):
        return False
    return all(abs(a - b) <= SAME for a, b in zip(one.sketch, other.sketch, strict=True))


def deterministic(results: Sequence[SeedResult]) -> bool | None:
    """True when all seeds gave one result, False when each gave its own; None with fewer than two runs or mixed ones."""
    known = list({r.seed: r for r in results if r.sketch or r.artifact_sha256}.values())
    if len(known) < 2:
        return None
    if all(same_result(known[0], other) for other in known[1:]):
        return True
    return False if same_pair(known) is None else None


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


def seed_cause(seed: SeedResult) -> str | None:
    """Why a prediction run failed; None when it answered everything."""
    if seed.cause is not None or seed.facts is None:
        return seed.cause
    ended_well = seed.facts.end == "exit" and seed.facts.code == 0 and seed.facts.started
    return None if ended_well else "infra:unexplained"


def gate_value(gate: Gate, check: Check | None, measurement: Measurement) -> float | None:
    """The figure that the gate compares with its limit: the bound, the worst run or the mean."""
    numbers = check.numbers if check else {}
    key = {"bound": "bound", "each": "worst", "mean": "mean"}[gate.on]
    value = numbers.get(key, numbers.get("mean", measurement.quantities.get(gate.quantity)))
    return float(value) if isinstance(value, int | float) else None


def check_of(gate: Gate, measurement: Measurement) -> Check | None:
    return next((c for c in measurement.gates if c.name.partition(" ")[0] == gate.quantity), None)


def failing_gate(spec: EnvironmentSpec, measurement: Measurement) -> GateMiss | None:
    """The missed gate that decides the label: size before the others, else the judge's order."""
    by_name = {gate.quantity: gate for gate in spec.gates}
    misses = [
        GateMiss(check, by_name.get(check.name.partition(" ")[0]))
        for check in measurement.gates
        if not check.passed
    ]
    return next((m for m in misses if m.is_size), misses[0] if misses else None)


def gate_numbers(spec: EnvironmentSpec, miss: GateMiss, measurement: Measurement) -> tuple[Numbers, str]:
    """Mean, bound, limit and shortfall of a missed gate, and a sentence with them."""
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
    value = gate_value(gate, check, measurement)
    rule = f"{'at least' if least else 'at most'} {figure(limit)}"
    if value is None:
        return {**others, **numbers}, f"{gate.quantity} is undefined, the gate wants {rule}"
    short = limit - value if least else value - limit
    numbers["short_by"] = short
    if miss.is_size:
        numbers |= {"artifact_bytes": int(value), "cap_bytes": int(limit), "bytes_over": int(short)}
        return {**others, **numbers}, size_text(int(value), int(limit), gate.quantity)
    mean = numbers["gate_mean"]
    seen = f"{gate.quantity} {figure(float(mean))}" if isinstance(mean, int | float) else gate.quantity
    if gate.on == "bound":
        side = "lower" if least else "upper"
        seen += f" ({side} {gate.confidence * 100:g} % bound {figure(value)})"
    elif gate.on == "each":
        seen += f" (worst run {figure(value)})"
    return {**others, **numbers}, f"{seen} misses the gate of {rule} by {figure(short)}"


def size_text(size: int, cap: int, what: str = "artifact") -> str:
    name = what.removesuffix("_bytes")
    return f"{name} is {size:,} bytes, {size - cap:,} over the cap of {cap:,}"


def facts_numbers(facts: RunFacts, stage: str) -> Numbers:
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


def judge_numbers(numbers: Mapping[str, Number]) -> Numbers:
    """The judge's own numbers with `stage`, a step inside the sandbox, renamed `step`: a label's stage is one of six."""
    return {("step" if key == "stage" else key): value for key, value in numbers.items()}


def seed_numbers(spec: EnvironmentSpec, seed: SeedResult, cause: str) -> tuple[Numbers, str]:
    """Numbers and sentence of a failed prediction run."""
    facts = seed.facts
    if facts is None:
        numbers = {**judge_numbers(seed.numbers), "stage": "evaluate"}
        return numbers, run_sentence("prediction", cause, None, seed.numbers)
    numbers = {**judge_numbers(seed.numbers), **facts_numbers(facts, "evaluate")}
    if "counted_s" in seed.numbers:
        return numbers, uncounted_time.sentence(seed.numbers)
    if cause in ("cpu_cap", "wall_cap"):
        cap_s = spec.budget.predict_cpu_s if cause == "cpu_cap" else spec.budget.predict_wall_s
        seconds, text = overrun("predict", cause, facts, cap_s, numbers.get("cap_s"))
        return {**numbers, **seconds}, text
    return numbers, run_sentence("prediction", cause, facts, seed.numbers)


def overrun(
    stage: str, cause: str, facts: RunFacts, cap_s: float, start_cap_s: Number | None
) -> tuple[Numbers, str]:
    """Numbers and sentence of an overrun; `start_cap_s` is the supervisor's cap on start-up."""
    clock, unit = ("cpu", "CPU-s") if cause == "cpu_cap" else ("wall", "s of wall clock")
    verb = "training" if stage == "train" else "prediction"
    used = facts.cpu_s if clock == "cpu" else facts.wall_s
    if facts.end == "start_cap":
        stage, verb = "start", f"start-up of {verb}"
        used = facts.start_cpu_s if clock == "cpu" else facts.start_wall_s
        cap_s = float(start_cap_s) if isinstance(start_cap_s, int | float) else used
    # The clock may read slightly under the cap at which the run was stopped: the last poll came earlier.
    key = f"{stage}_{clock}"
    over = max(round(used - cap_s, 3), 0.0)
    numbers: Numbers = {f"{key}_s": round(used, 3), f"{key}_cap_s": cap_s, f"{key}_over_s": over}
    return numbers, f"{verb} was stopped at {used:.1f} {unit}, its cap is {cap_s:g} and it had not finished"


def _gib(size: Number | None) -> str:
    return f"{size / 2**30:.2f} GiB" if isinstance(size, int | float) else "more"


def run_sentence(verb: str, cause: str, facts: RunFacts | None, numbers: Mapping[str, Number]) -> str:
    head, _, rule = cause.partition(":")
    if cause == "oom" and "total_bytes" in numbers:
        asked, free, total = (_gib(numbers.get(f"{name}_bytes")) for name in ("asked", "free", "total"))
        return (
            f"{verb} used up the accelerator's memory: it requested {asked} where {free} of {total} were free"
        )
    exception = clean(facts.exception, 200) if facts else ""
    detail = clean(facts.detail, 200) if facts else ""
    more = clean(str(numbers.get("detail", "")), 200)
    fixed = {
        "nan": f"{verb} gave values that are not finite",
        "no_metric": f"{verb} ended well and gave no metric",
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
    more = exception or detail or more
    return f"{fixed}: {more}" if more else fixed
