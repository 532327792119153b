"""What in an environment.toml cannot work, though every key is right by itself: said when it is read.

Use: `check_names(spec, path)` when a person's file is loaded. Limits: names that judge.py returns are known only after
it has run; a recorded specification is not checked again, so that old records stay readable.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from lineage.environment_spec import COSTS, QUANTITIES, SCORED_COSTS, EnvironmentSpec, Gate
from lineage.errors import SpecInvalid


def check_names(spec: EnvironmentSpec, path: Path) -> None:
    """Raise SpecInvalid with the first thing that cannot work."""
    problem = next(_problems(spec), None)
    if problem is not None:
        raise SpecInvalid(f"{path}: {problem}; see recipes/README.md for every key")


def _problems(spec: EnvironmentSpec) -> Iterator[str]:
    kind, metric = spec.task.kind, spec.score.metric
    known = QUANTITIES.get(kind)
    if kind != "script" and metric in COSTS and metric not in SCORED_COSTS:
        yield (
            f"key score.metric: {metric!r} can be lowered by moving work elsewhere, so it is no score (a gate may name "
            f"it); of the costs a score may be {', '.join(SCORED_COSTS)}"
        )
    if known is not None:
        if metric not in (*known, *SCORED_COSTS):
            yield f"key score.metric: a {kind} has no {metric!r}{_near(metric, (*known, *SCORED_COSTS))}"
        for number, gate in enumerate(spec.gates):
            if gate.quantity not in (*known, *COSTS):
                yield f"key gates.{number}.quantity: a {kind} has no {gate.quantity!r}{_near(gate.quantity, (*known, *COSTS))}"
    for number, gate in enumerate(spec.gates):
        if gate.on == "bound" and spec.evaluation.runs < 2:
            yield _bound(number, gate)
    if "causality" in spec.audits and kind != "language_model":
        yield f"key audits: causality is of the tokens of a language_model; a {kind} has none"


def _bound(number: int, gate: Gate) -> str:
    return (
        f"key gates.{number}.on: a confidence bound of {gate.quantity} needs at least 2 runs, and evaluation.runs is 1, so "
        'no trial could pass; use on = "mean", or more runs'
    )


def _near(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return f"{guess} known: {', '.join(known)}" if guess else f"; known: {', '.join(known)}"
