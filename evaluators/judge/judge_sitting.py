"""One predictor process that a judge function asks, and what its answers come to: quantities, items, audits.

Use: `sittings(...)` plans the processes of one run, one or, where the environment names audits, two alike; each one's
`hold(channel)` runs the judge function; `outcome(spec, asked)` gives the quantities. Of two processes the one with the
worse score counts, and of every quantity that a gate names the worse value. Audits compare them:

- order_invariance: the rows of the first request of the second process, the last one of the first process
- batch_invariance: every row, which came in other company

A call whose rows differ between the two (an episode that went elsewhere) has no rows to compare; there the quantities
must agree. Bounds are `[audit]`: `worst` is the largest difference of an answer, as a share of the spread of all
answers of the call, or of a quantity, as a share of its size; `flips` is the share of whole numbers or texts that may
differ, one always may. Limits: equal answers are not asked for where no audit is named, so that a policy may have a state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluators.judge.ask import Ask, Call, Ints, Orders, Transcript
from evaluators.judge.item_scores import Items
from evaluators.judge.judge_program import Program, Returned
from evaluators.judge.predictor_pipes import Channel
from lineage.environment_spec import EnvironmentSpec
from lineage.records import Check, Number


@dataclass(frozen=True)
class Outcome:
    """What one run's answers come to. `sha256` and `sketch` are of the answers, as in `lineage.records.SeedResult`."""

    quantities: Mapping[str, float]
    items: Mapping[str, Items]
    sha256: str
    sketch: tuple[float, ...]
    checks: tuple[Check, ...] = ()


class JudgeSitting:
    """One predictor process. `returned` is set once the judge function has ended well."""

    def __init__(self, program: Program, split: Path, seed: int, orders: Orders) -> None:
        self.program, self.split, self.seed, self.orders = program, split, seed, orders
        self.transcript = Transcript(keeps=orders.audited)
        self.returned: Returned | None = None

    def hold(self, channel: Channel) -> None:
        """Raises Broken, JudgeFault, DataMissing."""
        ask = Ask(channel, self.orders, self.transcript)
        self.returned = self.program.run(ask, self.split, self.seed)

    @property
    def complete(self) -> bool:
        return self.returned is not None

    @property
    def progress(self) -> dict[str, Number]:
        return {"calls": len(self.orders.plans)}


def sittings(spec: EnvironmentSpec, program: Program, split: Path, seed: int) -> tuple[JudgeSitting, ...]:
    first = Orders(spec.task.batch, audited=bool(spec.audits))
    made = JudgeSitting(program, split, seed, first)
    if not spec.audits:
        return (made,)
    return made, JudgeSitting(program, split, seed, Orders(spec.task.batch, True, first))


def outcome(spec: EnvironmentSpec, asked: Sequence[JudgeSitting]) -> Outcome:
    """All sittings must be complete. Raises JudgeFault."""
    every = [one.returned for one in asked if one.returned is not None]
    metric = spec.score.metric
    scored = [found.quantities[metric] for found in every if metric in found.quantities]
    at = scored.index(min(scored, key=lambda score: spec.sign * score)) if len(scored) == len(every) else 0
    quantities = dict(every[at].quantities)
    for gate in spec.gates:
        values = [found.quantities[gate.quantity] for found in every if gate.quantity in found.quantities]
        if values:
            quantities[gate.quantity] = min(values) if gate.at_least is not None else max(values)
    if metric in every[at].quantities:
        quantities[metric] = every[at].quantities[metric]
    items = {
        name: held for name, held in every[at].items.items() if quantities[name] == every[at].quantities[name]
    }
    kept = asked[at].transcript
    return Outcome(
        quantities, items, kept.sha256, kept.sketch, compare(spec, *asked) if len(asked) > 1 else ()
    )


# ---- comparing ----


@dataclass(frozen=True)
class _Found:
    """Differences over some rows: the largest, the answers that differ, of how many."""

    worst: float = 0.0
    flips: int = 0
    decisions: int = 0
    rows: int = 0

    def __add__(self, other: _Found) -> _Found:
        return _Found(
            max(self.worst, other.worst),
            self.flips + other.flips,
            self.decisions + other.decisions,
            self.rows + other.rows,
        )


def compare(spec: EnvironmentSpec, first: JudgeSitting, second: JudgeSitting) -> tuple[Check, ...]:
    """One check per audit of the environment."""
    checks = []
    for name in spec.audits:
        found, whole = _answers(first, second, only_again=name == "order_invariance")
        if not whole:
            found += _quantities(first, second)
        allowed = max(1, int(spec.audit.flips * found.decisions))
        passed = found.worst <= spec.audit.worst and found.flips <= allowed
        numbers: dict[str, Number] = {
            "worst": found.worst,
            "bound": spec.audit.worst,
            "rows": found.rows,
            "flips": found.flips,
            "decisions": found.decisions,
            "cause": "not_causal",
        }
        what = "when asked at another time" if name == "order_invariance" else "in other company"
        detail = f"the same rows answered {what} differ by {found.worst:.3g} (bound {spec.audit.worst:g})"
        detail += f", {found.flips} of {found.decisions} answers" if found.decisions else ""
        checks.append(Check(name=name, passed=passed, numbers=numbers, detail=detail))
    return tuple(checks)


def _answers(first: JudgeSitting, second: JudgeSitting, only_again: bool) -> tuple[_Found, bool]:
    """Differences of the answers to equal calls, and whether all calls were equal and kept."""
    found, whole = _Found(), len(first.orders.plans) == len(second.orders.plans)
    ours, theirs = first.transcript.calls, second.transcript.calls
    for number, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one.asked != other.asked:
            return found, False
        again = second.orders.again(number, len(one.answers)) if only_again else None
        rows: Ints = np.arange(len(one.answers)) if again is None else again
        found += _differences(one, other, rows)
    return found, whole and len(ours) == len(first.orders.plans) and len(theirs) == len(second.orders.plans)


def _differences(one: Call, other: Call, rows: Ints) -> _Found:
    if isinstance(one.answers, list) or isinstance(other.answers, list):
        flips = sum(one.answers[row] != other.answers[row] for row in rows)
        return _Found(flips=int(flips), decisions=len(rows), rows=len(rows))
    mine, its = one.answers[rows], other.answers[rows]
    if not np.issubdtype(mine.dtype, np.floating):
        flips = int((mine != its).reshape(len(rows), -1).any(axis=1).sum())
        return _Found(flips=flips, decisions=len(rows), rows=len(rows))
    spread = float(one.answers.astype(np.float64).std()) or float(np.abs(one.answers).max()) or 1.0
    apart = np.abs(mine.astype(np.float64) - its.astype(np.float64))
    return _Found(worst=float(apart.max()) / spread, rows=len(rows))


def _quantities(first: JudgeSitting, second: JudgeSitting) -> _Found:
    assert first.returned is not None and second.returned is not None
    one, other = first.returned.quantities, second.returned.quantities
    worst = 0.0
    for name in one.keys() & other.keys():
        size = max(abs(one[name]), abs(other[name]))
        worst = max(worst, abs(one[name] - other[name]) / size if size else 0.0)
    return _Found(worst=worst)
