"""Measurements of one program, made in parts, as the one that a single sitting of the judge would have given. Pure.

Use: `merged(spec, parts, held)`: `parts` are measurements of the same program for the same purpose, each of seeds of
its own, in the order of the seeds; `held` the artifacts of their test items. Used where runs are judged as they come
in. Quantities, gates and items are computed anew over all runs; of an audit the part where it fails counts, or where
the answers differ most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from evaluators.judge.gates import judge_gate
from evaluators.judge.item_scores import pack, stacked, unpack
from lineage.environment_spec import EnvironmentSpec
from lineage.errors import InfraFault
from lineage.ids import sha256
from lineage.records import Check, Measurement, SeedResult


def merged(
    spec: EnvironmentSpec, parts: Sequence[Measurement], held: Sequence[bytes | None]
) -> tuple[Measurement, bytes | None]:
    """The measurement of all runs, and the artifact of its test items (None where a part has none).

    Raises InfraFault for parts of different programs, splits or worlds.
    """
    first, last = parts[0], parts[-1]
    if any(_world(part) != _world(first) for part in parts):
        raise InfraFault("judge", f"trial {first.trial}: its runs were measured in different worlds")
    if len(parts) == 1:
        return first, held[0]
    results = [seed for part in parts for seed in part.per_seed]
    whole = all(seed.cause is None for seed in results)
    quantities = means(results) if whole else {}
    items = _items(held) if whole else None
    gates = tuple(
        judge_gate(gate, [seed.quantities.get(gate.quantity, math.nan) for seed in results])
        for gate in spec.gates
    )
    return first.model_copy(
        update={
            "score": quantities.get(spec.score.metric),
            "per_seed": tuple(results),
            "quantities": quantities,
            "gates": gates if whole else (),
            "audits": _audits(parts) if whole else (),
            "artifact_bytes": max(part.artifact_bytes for part in parts),
            "machine": ", ".join(dict.fromkeys(part.machine for part in parts)),
            "load_end": last.load_end,
            "measured_at": max(part.measured_at for part in parts),
            "items_sha256": sha256(items) if items else "",
        }
    ), items


def means(results: Sequence[SeedResult]) -> dict[str, float]:
    """Means over the runs of every quantity that all of them have."""
    names = set.intersection(*(set(r.quantities) for r in results)) if results else set()
    return {n: math.fsum(r.quantities[n] for r in results) / len(results) for n in sorted(names)}


def _world(part: Measurement) -> tuple[object, ...]:
    return (
        part.trial, part.purpose, part.split, part.source_sha256, part.environment_sha256, part.evaluator_sha256,
        part.isolation,
    )  # fmt: skip


def _audits(parts: Sequence[Measurement]) -> tuple[Check, ...]:
    def worst(check: Check) -> tuple[bool, float]:
        return not check.passed, float(check.numbers.get("worst", 0.0))

    return tuple(max(same, key=worst) for same in zip(*(part.audits for part in parts), strict=True))


def _items(held: Sequence[bytes | None]) -> bytes | None:
    parts = [unpack(data) for data in held if data]
    if len(parts) < len(held):
        return None
    seeds = [seed for of_part, _ in parts for seed in of_part]
    return pack(seeds, {name: stacked([items[name] for _, items in parts]) for name in parts[0][1]})
