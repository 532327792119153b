"""How often pruning was right: from the trials that ran to their end although the rule would have pruned them.

Use: `prunes(rows, sign)`; `prunes_text(p)` is the sentence, empty where nothing was pruned. Limits: a prune was false when the
trial, run to its end, scored better than its parent; the interval is exact for so few (Clopper and Pearson 1934).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from flows.report import formatting as w
from lineage.records import Row


@dataclass(frozen=True)
class Prunes:
    """`ended`: trials ended early; `checked`: run to the end instead; `false`: of these, better than their parents."""

    ended: int = 0
    checked: int = 0
    false: int = 0
    share: float | None = None
    low: float | None = None
    high: float | None = None


def prunes(rows: Iterable[Row], sign: int) -> Prunes:
    """Counted over trial rows; `sign` is +1 where a higher score is better."""
    ended = checked = false = 0
    for row in rows:
        ended += row.cause == "pruned"
        if '"pruning"' not in row.detail_json:
            continue
        detail = json.loads(row.detail_json)
        said = detail.get("pruning") if isinstance(detail, dict) else None
        if said and said["is_checked"]:
            checked += 1
            false += row.delta_parent is not None and sign * row.delta_parent > 0
    if not checked:
        return Prunes(ended)
    from evaluators.statistics.confirmation_inputs import (
        failure_rate,  # scipy, which a page without prunes does not need
    )

    return Prunes(ended, checked, false, *failure_rate(false, checked))


def prunes_text(p: Prunes) -> str:
    if not p.ended and not p.checked:
        return ""
    ended = f"{w.count(p.ended, 'trial')} ended early by its curve"
    if p.share is None or p.low is None or p.high is None:
        return f"{ended}; none was run to its end to see whether that is right"
    wrong = f"{p.false} of {p.checked} that ran to their end were better than their parents"
    return (
        f"{ended}; {wrong} ({100 * p.share:.0f} %, 95 % interval {100 * p.low:.0f} to {100 * p.high:.0f} %)"
    )
