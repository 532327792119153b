"""Is this measurement lawful? One question with one answer, for label, confirmation, seal, replay and verify. Pure.

Use: `fault_of(measurement, spec, seeded=..., beside=...)` -> the first rule that it breaks, or None. The order:

1. a run that failed, in the order of `evaluators.statistics.label`: the machine's fault, tampering, a broken rule, the first other
2. a failed audit, in the judge's order
3. frozen seeds (`illegal:seed`): two seeds gave equal artifacts, or the same answers, in a recipe whose start or parent
   gives different ones
4. a missed gate: size first, then the environment's order. `replicate`: one run of several that a confirmation judges
   together; then only rules on each run count, means and bounds are asked of all runs (`promote.gates_hold`).

Answers count as the same when every projection in their sketches agrees to `SAME`: requests come in a secret order, and
that moves float32 answers by about 1e-6. Limits: a program that ignores the seed and adds noise of its own is not seen
here; its noise is then real, and counts as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluators.statistics.margins import (
    Numbers,
    clean,
    failing_gate,
    gate_numbers,
    seed_cause,
    seed_numbers,
    stated,
)
from lineage.environment_spec import EnvironmentSpec
from lineage.records import Measurement, SeedResult, check_cause

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
    """The first rule broken. `seeded`: the start's or parent's runs depend on the seed. `beside`: earlier runs."""
    return (
        _failed(measurement, spec)
        or _audit(measurement)
        or (_frozen([*beside, *measurement.per_seed]) if seeded else None)
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
    told = str(failed.numbers.get("cause", ""))
    cause = told if is_cause(told) else "not_causal"
    numbers = stated({"stage": "evaluate", "audit": failed.name, **failed.numbers})
    text = clean(failed.detail, 300) or "outputs depend on inputs that they must not see"
    return Fault(cause, numbers, f"{failed.name} audit: {text}", failed.name)


def is_cause(text: str) -> bool:
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
    """Did every seed give one result (True), or each its own (False)? None where too few runs, or mixed ones, can say."""
    known = list({r.seed: r for r in results if r.sketch or r.artifact_sha256}.values())
    if len(known) < 2:
        return None
    if all(same_result(known[0], other) for other in known[1:]):
        return True
    return False if same_pair(known) is None else None
