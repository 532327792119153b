"""Overfitting to the public split: how much better a campaign's champions look on the public split than on the sealed one.

Use: `overfitting_text(view, spec)` -> one sentence, or "" before the first champion was scored on the sealed split.
Limits: two splits can differ in difficulty by themselves, so one gap says little; a gap that grows from
champion to champion shows that the search has learnt its judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.report import formatting as w

if TYPE_CHECKING:
    from lineage.environment_spec import EnvironmentSpec
    from lineage.queries import View


def overfitting_text(view: View, spec: EnvironmentSpec) -> str:
    """Mean gap over all champions with its 95 % interval, and the first and the last champion's own."""
    rows = view.events("sealed")
    if not rows:
        return ""
    # scipy takes half a second to import
    from evaluators.statistics.sealed_verdict import scored_on_both, sealed_gap

    public, sealed = scored_on_both(rows)
    gap = sealed_gap(public, sealed, spec.sign)
    if gap is None:
        return ""
    text = f"Public minus sealed, over {gap.n} champion{'s' if gap.n > 1 else ''}: {_better(spec, gap.mean)}"
    if gap.low is None or gap.high is None:
        return f"{text}; one champion has no interval."
    gaps = [spec.sign * (one - other) for one, other in zip(public, sealed, strict=True)]
    return (
        f"{text} (95 % interval {w.signed(spec, gap.low)} to {w.signed(spec, gap.high)}); "
        f"first champion {w.signed(spec, gaps[0])}, last {w.signed(spec, gaps[-1])}."
    )


def _better(spec: EnvironmentSpec, mean: float) -> str:
    size = w.score_text(spec, abs(mean))
    return f"{size} {'better' if mean >= 0 else 'worse'} on the public split"
