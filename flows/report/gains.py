"""How much better a champion is than the start, from what was measured side by side.

A score in seconds drifts with the machine, so the start's figure of some hours ago is no reference: each
confirmation ran the champion beside the program before it, and those ratios are chained back to the start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.report import formatting as w

if TYPE_CHECKING:
    from lineage.environment_spec import EnvironmentSpec
    from lineage.queries import View
    from lineage.records import Row


def confirmed_gain(view: View, spec: EnvironmentSpec, champion: Row) -> float:
    """The gains of its confirmation and of those before it, each against the program it was run beside."""
    fresh = {row.trial: row for row in view.events("confirmation") if row.verdict == "confirmed"}
    start = view.baseline()
    ratio, trial = 1.0, champion.trial
    while trial in fresh:
        row = fresh.pop(trial)
        beside = None if row.score is None or row.gain is None else row.score - spec.sign * row.gain
        if not beside or row.score is None:  # an imported record, or a score of zero: no ratio to chain
            return w.relative(spec, champion.score, start.score if start else None) or 0.0
        ratio *= row.score / beside
        trial = row.incumbent
    return spec.sign * (ratio - 1.0) * (1.0 if start is None or (start.score or 0.0) >= 0 else -1.0)
