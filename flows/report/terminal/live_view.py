"""The live terminal view of a campaign: its state, filled from events by `display`, and its drawing with rich.

Use: `Live(Screen(spec, settings, state, lock, clock))`; rich calls it a few times a second.
Limits: fits any width from 50 columns and any height from 12 lines by showing fewer past trials;
glyphs fall back to ASCII where the terminal's encoding has no others. Colour never stands alone.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.bar import Bar
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from flows.report import formatting as w
from lineage.leaderboard import Leaderboard
from lineage.records import STAGES, Row, Status
from lineage.safe_text import one_line

if TYPE_CHECKING:
    from flows.engine.settings import Settings
    from lineage.environment_spec import EnvironmentSpec

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
class LiveState:
    """All that the live view draws, filled from events."""

    title: str
    started: float
    ranking: Leaderboard
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
        return self.rows.get(self.ranking.start or "")

    @property
    def best(self) -> Row | None:
        """The incumbent's row."""
        return self.rows.get(self.ranking.incumbent or "")

    @property
    def ahead(self) -> Row | None:
        """The leader's row, which need not be confirmed."""
        leader = self.ranking.leader()
        return self.rows.get(leader[0]) if leader is not None else None

    def score_of(self, row: Row) -> float | None:
        return self.ranking.fresh.get(row.trial or "", row.score)

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


# status -> (glyph, ASCII glyph, colour); the same shapes as on the report page
GLYPHS = {
    Status.BASELINE: ("◆", "#", "bold"),
    Status.KEEP: ("▲", "^", "green"),
    Status.DISCARD: ("○", "o", "bright_black"),
    Status.CRASH: ("×", "x", "red"),
    Status.PREFLIGHT_CRASH: ("×", "x", "red"),
    Status.SIZE_BLOCKED: ("■", "=", "yellow"),
    Status.TRAIN_BUDGET_OVERRUN: ("■", "=", "yellow"),
    Status.EVAL_BUDGET_OVERRUN: ("■", "=", "yellow"),
    Status.DISQUALIFIED: ("▼", "v", "magenta"),
    Status.REJECTED: ("–", "-", "blue"),
    Status.HARNESS_ABORT: ("+", "+", "bright_black"),
}
STAR = ("★", "*", "bold yellow")
DOTS = ("●", "◐", "○")
ASCII_DOTS = ("#", ">", ".")


def glyph(row: Row, ascii_only: bool = False) -> Text:
    mark, plain, style = (
        STAR if row.verdict == "confirmed" else GLYPHS[row.status] if row.status else ("?", "?", "")
    )
    return Text(plain if ascii_only else mark, style=style)


def ascii_console(console: Console) -> bool:
    return not (console.encoding or "").lower().startswith("utf")


class Screen:
    """A rich renderable that reads the state under its lock each time it is drawn."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        settings: Settings | None,
        state: LiveState,
        lock: threading.Lock,
        clock: Callable[[], float],
    ) -> None:
        self.spec = spec
        self.settings = settings
        self.state = state
        self.lock = lock
        self.clock = clock

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.height or console.size.height
        try:
            with self.lock:
                drawn = self.draw(options.max_width, height, ascii_console(console))
        except Exception as fault:  # rich draws in a thread of its own; an error there would end the view
            drawn = Text(f"cannot draw: {type(fault).__name__}: {fault}")
        yield drawn

    def draw(self, width: int, height: int, ascii_only: bool = False) -> RenderableType:
        """Head, best and footer always; then trials under way, then budget, then as many outcomes as fit."""
        state = self.state
        notes = list(state.notes)[-1 if height < 20 else 0 :]
        left = (
            height - 4 - len(notes)
        )  # head, best, footer, and the line that a terminal keeps for the cursor
        running = sorted(state.running.values(), key=lambda r: r.trial)[: max(1, min(left - 2, height // 3))]
        left -= len(running) + (height >= 16)
        lines = budget_lines(state.spent, self.settings)[: max(0, left - 1)]
        failures = state.failures.most_common(min(5, max(0, left - 1))) if width >= 72 else []
        side = max(len(lines), len(failures))
        left -= side + (height >= 16 and side > 0)
        recent = list(state.recent)[-(left - (height >= 16)) :] if left > 1 else []
        gap: list[RenderableType] = [Text("")] if height >= 16 else []
        parts: list[RenderableType] = [self._head(), self._best()]
        if running:
            parts += [*gap, self._running(running, width, ascii_only)]
        if recent:
            parts += [*gap, self._recent(recent, width, ascii_only)]
        if side:
            parts += [*gap, self._budget_and_failures(lines, failures, ascii_only)]
        parts += [Text(one_line(note, width), style="yellow", no_wrap=True) for note in notes]
        parts.append(Text(state.footer, style="bright_black", no_wrap=True))
        return Group(*parts)

    def _head(self) -> Text:
        state = self.state
        tried = sum(row.status != Status.BASELINE for row in state.rows.values())
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(state.title, style="bold")
        text.append(
            f"  {w.count(tried, 'trial')}, {w.count(state.keeps, 'keep')}, {len(state.ranking.champions)} confirmed,"
            f" {w.seconds(self.clock() - state.started)}"
        )
        return text

    def _best(self) -> Text:
        state, spec = self.state, self.spec
        if state.baseline is None:
            return Text("measuring the baseline", style="bright_black")
        text = Text(no_wrap=True, overflow="ellipsis")
        best = state.best or state.baseline
        text.append("confirmed best ", style="bright_black")
        score = state.score_of(best)
        text.append(f"{best.trial} {w.score_text(spec, score)}", style="bold")
        gain = w.relative(spec, score, state.baseline.score)
        if best.trial != state.baseline.trial:
            text.append(f" ({w.percent(gain)})", style="green")
        lucky = state.ahead
        if lucky is not None and lucky.trial not in (best.trial, state.baseline.trial):
            text.append("  measured once ", style="bright_black")
            text.append(f"{lucky.trial} {w.score_text(spec, lucky.score)}")
        if state.noise_sd is not None:
            text.append(f"  noise sd {w.score_text(spec, state.noise_sd)}", style="bright_black")
        return text

    def _running(self, running: list[Running], width: int, ascii_only: bool) -> Table:
        table = Table.grid(padding=(0, 2))
        for row in running:
            at = STAGES.index(row.stage) if row.stage in STAGES else -1
            full, half, empty = ASCII_DOTS if ascii_only else DOTS
            dots = "".join(full if i < at else half if i == at else empty for i in range(len(STAGES)))
            doing = "confirm" if row.confirming else row.stage or "under way"
            seeds = f" {row.done}/{row.total}" if row.total else ""
            now = self.clock()
            cells = [
                Text(row.trial, style="bold"),
                Text(one_line(row.role, 16)),
                Text(dots, style="cyan"),
                Text(f"{doing}{seeds}", style="cyan"),
                Text(w.seconds(now - (row.stage_since or row.since)), style="bright_black"),
            ]
            table.add_row(*(cells if width >= 60 else [cells[0], cells[2], cells[3]]))
        return table

    def _recent(self, rows: list[Row], width: int, ascii_only: bool) -> Table:
        table = Table.grid(padding=(0, 2), expand=True)
        for ratio in (None, None, None, None, None, 1):
            table.add_column(ratio=ratio, no_wrap=True, overflow="ellipsis")
        base = self.state.baseline.score if self.state.baseline else None
        for row in reversed(rows):
            gain = None if row.status == Status.BASELINE else w.relative(self.spec, row.score, base)
            colour = "green" if gain is not None and gain > 0 and row.status == Status.KEEP else ""
            table.add_row(
                glyph(row, ascii_only),
                Text(row.trial or "", style="bold" if row.status == Status.KEEP else ""),
                Text(w.outcome(row)),
                Text(w.percent(gain) if gain is not None else "", style=colour, justify="right"),
                Text(one_line(w.author(row), 14), style="bright_black") if width >= 80 else Text(""),
                Text(one_line(row.hypothesis or "", 200), style="bright_black"),
            )
        return table

    def _budget_and_failures(
        self, lines: list[BudgetLine], failures: list[tuple[str, int]], ascii_only: bool
    ) -> Table:
        budget = Table.grid(padding=(0, 1))
        for name, share, text in lines:
            bar: RenderableType = ""
            if share is not None and not ascii_only:
                bar = Bar(1.0, 0.0, share, width=16, color="cyan", bgcolor="black")
            budget.add_row(Text(name, style="bright_black"), bar, Text(text))
        causes = Table.grid(padding=(0, 1))
        for cause, n in failures:
            causes.add_row(Text(str(n), justify="right"), Text(one_line(cause, 32)))
        both = Table.grid(padding=(0, 4))
        both.add_row(budget, causes)
        return both
