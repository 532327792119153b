"""False prunes are counted from the trials that ran to their end although the rule had spoken."""

from __future__ import annotations

import json

from flows.report.prune_checks import Prunes, prunes, prunes_text
from lineage.records import Row, Status


def row(cause: str | None, delta: float | None, checked: bool | None = None) -> Row:
    said = (
        {}
        if checked is None
        else {"pruning": {"step": 9.0, "run": 0, "is_checked": checked, "against": "t0"}}
    )
    return Row(
        event="trial",
        campaign="c",
        status=Status.DISCARD,
        cause=cause,
        delta_parent=delta,
        detail_json=json.dumps(said),
    )


def test_counts_interval_and_sentence() -> None:
    rows = [row("pruned", None, False), row(None, 0.1, True), row(None, -0.1, True), row(None, 0.2)]
    found = prunes(rows, -1)
    assert (found.ended, found.checked, found.false, found.share) == (1, 2, 1, 0.5)
    assert found.low is not None and found.high is not None and 0 < found.low < 0.5 < found.high < 1
    assert prunes(rows[:3], +1).false == 1
    assert "1 trial ended early by its curve; 1 of 2 that ran to their end were better" in prunes_text(found)
    assert prunes_text(Prunes()) == ""
    assert "none was run to its end" in prunes_text(prunes(rows[:1], -1))
