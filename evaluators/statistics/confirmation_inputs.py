"""Inputs of a confirmation or sealed look from stored measurements: items of both programs, repeated runs, failures.

Use: `chance_of(candidate, incumbent, plan, read)` at a look, `is_fixed(candidate, incumbent)` after it, `side_of` and `looked`
for a sealed event, `failure_rate` for runs that failed. `read(measurement)` gives the items of a measurement's runs
by quantity, None for an older one that has none. Flows and `evaluators.statistics.recompute` call the same functions, so a verdict
and its check differ only if their measurements do. Limits: all items of an attempt are in memory at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import betaincinv

from evaluators.judge.item_scores import Items, stacked
from evaluators.statistics.confirmation import ConfirmPlan, gates_out_of_reach
from evaluators.statistics.lawful_measurement import deterministic, fault_of
from evaluators.statistics.paired_item_test import ItemChance, item_chance
from evaluators.statistics.sealed_verdict import Looked, Pair, Side, Step, sealed_fields
from lineage.environment_spec import EnvironmentSpec
from lineage.errors import StoreCorrupt
from lineage.records import Measurement, Row, SeedResult

Read = Callable[[Measurement], Mapping[str, Items] | None]


def items_of(measurements: Sequence[Measurement], quantity: str, read: Read) -> Items | None:
    """Items of all runs of these measurements; None when none of them has any."""
    found = [held[quantity] for m in measurements if (held := read(m)) is not None and quantity in held]
    return stacked(found) if found else None


def chance_of(
    candidate: Sequence[Measurement], incumbent: Sequence[Measurement], plan: ConfirmPlan, read: Read
) -> ItemChance:
    """Chance of the items at a look. `incumbent`: its earlier measurements too. Raises StoreCorrupt without items."""
    sides = [items_of(runs, plan.quality, read) for runs in (candidate, incumbent)]
    if sides[0] is None or sides[1] is None:
        whose = "candidate" if sides[0] is None else "incumbent"
        raise StoreCorrupt(
            f"no measurement of the {whose} records the result of each test item; see `bakeoff verify`"
        )
    return item_chance(sides[0], sides[1], plan.sign)


def seeds_of(measurements: Sequence[Measurement]) -> list[SeedResult]:
    return [seed for measurement in measurements for seed in measurement.per_seed]


def is_fixed(candidate: Sequence[Measurement], incumbent: Sequence[Measurement]) -> bool:
    """Whether every run of either program gave the same result, so that further runs add no information."""
    return all(deterministic(seeds_of(side)) is True for side in (candidate, incumbent))


def side_of(measurements: Sequence[Measurement], plan: ConfirmPlan, read: Read) -> Side:
    """Scores and items of one program's runs on one split."""
    scores = [s.quantities[m.metric] for m in measurements for s in m.per_seed if m.metric in s.quantities]
    items = items_of(measurements, plan.quality, read) if plan.quality else None
    return Side(tuple(scores), items)


def sealed_fault(
    champion: Sequence[Measurement], replaced: Sequence[Measurement], spec: EnvironmentSpec, seeded: bool
) -> str:
    """Why a champion's sealed measurements do not count: the rule broken or the gate missed; empty when none is.

    A gate counts only where the replaced program does not miss it as clearly: one split may be harder.
    """
    earlier: list[SeedResult] = []
    for measurement in champion:
        fault = fault_of(measurement, spec, seeded=seeded, beside=earlier, replicate=True)
        if fault is not None and fault.rule not in [gate.name for gate in measurement.gates]:
            return f"{fault.cause}: {fault.text}"
        earlier += measurement.per_seed
    for gate in spec.gates:
        missed = [gates_out_of_reach([gate], seeds_of(side), 0.95) for side in (champion, replaced)]
        if missed == [True, False]:
            return f"gate_missed: {gate.quantity} misses its limit on the sealed split"
    return ""


Both = tuple[
    Sequence[Measurement], Sequence[Measurement]
]  # the same runs on the public and on the sealed split


@dataclass(frozen=True)
class SealedRuns:
    """What one look at the sealed split measured: the champion and the program that it replaced, on both splits."""

    trial: str
    incumbent: str
    champion: Both
    replaced: Both


def look_at_sealed(
    this: SealedRuns,
    earlier: Sequence[Row],
    plan: ConfirmPlan,
    spec: EnvironmentSpec,
    seeded: bool,
    stored: Callable[[str], Measurement],
    read: Read,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Columns and detail of a sealed event. `earlier`: the campaign's sealed events before it, in order.

    `stored(sha)` gives the measurements that earlier events name.
    """

    def pair(runs: Both) -> Pair:
        return Pair(side_of(runs[0], plan, read), side_of(runs[1], plan, read))

    details = {row.trial: (row, json.loads(row.detail_json)) for row in earlier}
    start, at = this.replaced, this.incumbent
    steps: list[tuple[Step, Step]] = []
    while at in details:
        row, detail = details[at]
        if "step" in detail:
            steps.insert(0, (Step(**detail["step"]["public"]), Step(**detail["step"]["sealed"])))
        names = ("incumbent_public_measurements", "incumbent_measurements")
        start = tuple([stored(sha) for sha in detail.get(name, [])] for name in names)  # type: ignore[assignment]
        at = row.incumbent or ""
    fault = sealed_fault(this.champion[1], this.replaced[1], spec, seeded)
    looked = Looked(
        len(earlier) + 1, pair(this.champion), pair(this.replaced), pair(start), tuple(steps), fault
    )
    return sealed_fields(plan, looked)


def failure_rate(failed: int, runs: int, confidence: float = 0.95) -> tuple[float, float, float]:
    """Share of runs that failed, with the exact two-sided interval (Clopper and Pearson 1934)."""
    tail = (1 - confidence) / 2
    low = float(betaincinv(failed, runs - failed + 1, tail)) if failed else 0.0
    high = float(betaincinv(failed + 1, runs - failed, 1 - tail)) if failed < runs else 1.0
    return failed / max(1, runs), low, high
