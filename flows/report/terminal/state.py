"""What the live view knows of a running campaign: filled from events by `display`, drawn by `panels`."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lineage.leaderboard import Leaderboard
from lineage.records import Row

BudgetLine = tuple[str, float | None, str]
NOTES_KEPT = 3
RECENT_KEPT = 40


@dataclass
class Running:
    trial: str
    role: str = ""
    stage: str = ""
    since: float = 0.0
    stage_since: float = 0.0
    done: int = 0
    total: int = 0
    confirming: bool = False


@dataclass
class State:
    """All that the live view draws, filled from events."""

    title: str
    started: float
    leaderboard: Leaderboard
    footer: str = ""
    running: dict[str, Running] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    recent: deque[Row] = field(default_factory=lambda: deque(maxlen=RECENT_KEPT))
    failures: Counter[str] = field(default_factory=Counter)
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=NOTES_KEPT))
    keeps: int = 0
    spent: Mapping[str, float] = field(default_factory=dict)

    @property
    def baseline(self) -> Row | None:
        return self.rows.get(self.leaderboard.start or "")

    @property
    def best(self) -> Row | None:
        """The incumbent's row."""
        return self.rows.get(self.leaderboard.incumbent or "")

    @property
    def ahead(self) -> Row | None:
        """The leader's row, which need not be confirmed."""
        leader = self.leaderboard.leader()
        return self.rows.get(leader[0]) if leader is not None else None

    def score_of(self, row: Row) -> float | None:
        return self.leaderboard.fresh.get(row.trial or "", row.score)

    @property
    def noise_sd(self) -> float | None:
        return self.baseline.noise_sd if self.baseline else None


def budget_lines(spent: Mapping[str, float], settings: Any) -> list[BudgetLine]:
    """(name, share used or None without a cap, text) of each budget that is capped or used."""

    def cap(name: str) -> float | None:
        value = getattr(settings, name, None)
        return float(value) if value else None

    table = (
        ("trials", spent.get("trials", 0), cap("trials"), "{:.0f}"),
        ("time", spent.get("seconds", 0.0) / 3600, cap("hours"), "{:.2f} h"),
        ("CPU", spent.get("cpu_s", 0.0) / 3600, cap("cpu_hours"), "{:.2f} h"),
        ("tokens", spent.get("tokens", 0), cap("tokens"), "{:,.0f}"),
        ("dollars", spent.get("usd", 0.0), cap("usd"), "${:,.2f}"),
    )
    lines: list[BudgetLine] = []
    for name, used, limit, form in table:
        if limit is not None:
            lines.append((name, min(1.0, used / limit), f"{form.format(used)} of {form.format(limit)}"))
        elif used:
            lines.append((name, None, form.format(used)))
    until = getattr(settings, "until", None)
    if until:
        lines.append(("until", None, str(until)))
    return lines
