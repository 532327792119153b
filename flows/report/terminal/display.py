"""What a person sees while a campaign runs: a live view on a terminal, plain lines everywhere else.

Use: `with Display(spec, settings, title=..., live=sys.stdout.isatty()) as d: run(..., sinks=[d.on])`.
`on(event)` takes a `flows.engine.live_events.LiveEvent` and may be called from any thread.
Limits: a fault in drawing never reaches the campaign; it is printed once at the end.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from flows.engine.live_events import (
    ConfirmationEnded,
    Confirming,
    LiveEvent,
    Note,
    RowWritten,
    RunsDone,
    Spending,
    StageStarted,
)
from flows.report import formatting as w
from flows.report.campaign_digest import detail
from flows.report.terminal.live_view import RECENT_KEPT, LiveState, Running, budget_lines
from lineage.leaderboard import Leaderboard
from lineage.records import Row, Status
from lineage.safe_text import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

    from flows.engine.budget import Spent
    from flows.engine.settings import Settings
    from lineage.environment_spec import EnvironmentSpec

FOOTER = "Ctrl-C stops cleanly; bakeoff resume continues."
BUDGET_LINE_EVERY_S = 300.0  # of a plain log


class Display:
    """A context manager around a campaign; see the module's text."""

    def __init__(
        self,
        spec: EnvironmentSpec,
        settings: Settings | None = None,
        *,
        title: str = "",
        footer: str = FOOTER,
        live: bool = True,
        out: TextIO | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self.settings = settings
        self.state = LiveState(
            title=title or spec.name, started=clock(), ranking=Leaderboard(spec.sign), footer=footer
        )
        self.fault: BaseException | None = None
        self.clock = clock
        self._lock = threading.Lock()
        self._live_wanted = live
        self._out = out or sys.stdout
        if isinstance(self._out, io.TextIOWrapper):
            self._out.reconfigure(errors="replace")  # a terminal without UTF-8 must not stop a campaign
        self._console = console
        self._live: Live | None = None
        self._last_budget = -BUDGET_LINE_EVERY_S

    def __enter__(self) -> Self:
        if self._live_wanted:
            from rich.console import Console
            from rich.live import Live

            from flows.report.terminal.live_view import Screen

            console = self._console or Console(file=self._out)
            screen = Screen(self.spec, self.settings, self.state, self._lock, self.clock)
            self._live = Live(screen, console=console, refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self.fault is not None:
            print(
                f"display: {type(self.fault).__name__}: {self.fault} (the record is whole)", file=sys.stderr
            )

    def on(self, event: LiveEvent) -> None:
        """Take one event. Never raises: a terminal's fault must not affect a campaign."""
        try:
            with self._lock:
                line = self._take(event)
            if line and self._live is None:
                self._print(line, event.row.t_finished if isinstance(event, RowWritten) else None)
        except Exception as fault:  # kept for __exit__, see above
            self.fault = self.fault or fault

    def remember(self, rows: Iterable[Row]) -> None:
        """Take in the rows of an earlier session without printing them."""
        with self._lock:
            for row in rows:
                if row.event != "submitted":
                    self._take(RowWritten(row))

    def _print(self, line: str, at: datetime | None = None) -> None:
        stamp = (at.astimezone() if at else datetime.now()).strftime("%H:%M:%S")
        print(f"{stamp} {line}", file=self._out, flush=True)

    def _take(self, event: LiveEvent) -> str | None:
        match event:
            case RowWritten(row):
                return self._row(row)
            case StageStarted(trial, role, stage):
                return self._stage(trial, role, stage)
            case RunsDone(trial, done, total):
                if trial in self.state.running:
                    self.state.running[trial].done, self.state.running[trial].total = done, total
                return None
            case Spending(spent):
                return self._spending(spent)
            case Note(text):
                self.state.notes.append(one_line(text))
                return one_line(text)
            case Confirming(trial, done, total):
                found = self.state.running.setdefault(trial, Running(trial, since=self.clock()))
                found.confirming, found.done, found.total = True, done, total
                return None
            case ConfirmationEnded(trial):
                self.state.running.pop(trial, None)
                return None

    def _stage(self, trial: str, role: str, stage: str) -> str | None:
        now = self.clock()
        found = self.state.running.get(trial)
        if found is None:
            found = self.state.running[trial] = Running(trial, since=now)
            found.confirming = trial in self.state.rows
        found.role = role or found.role
        if stage != found.stage:
            found.stage, found.stage_since, found.done, found.total = stage, now, 0, 0
            if stage == "train":  # the only stage long enough to be worth a line of a plain log
                doing = "measured again" if found.confirming else "training"
                return f"{trial} {found.role}: {doing}"
        return None

    def _row(self, row: Row) -> str | None:
        state, trial = self.state, row.trial or ""
        if row.event == "trial":
            state.running.pop(trial, None)
            if trial in state.rows:
                return None  # comes as a row and as a trial
            state.rows[trial] = row
            state.recent.append(row)
            self._count(row)
            return self.outcome_line(row)
        if row.event == "submitted":
            since = self.clock() - _age(row.t_started)
            state.running.setdefault(trial, Running(trial, row.role or "", "", since, since))
        elif row.event == "confirmation":
            return self._verdict(row)
        elif row.event == "sealed":
            state.ranking.read(row)
            if row.sealed_score is not None:
                told = w.sealed_gain(row)
                score = w.score_text(self.spec, row.sealed_score)
                return f"{trial} on the sealed split: {score}" + (f", {told}" if told else "")
        elif row.event == "intervention":
            state.ranking.read(row)
            return f"a person: {one_line(' '.join(filter(None, (row.operator, row.notes))))}"
        return None

    def _count(self, row: Row) -> None:
        state = self.state
        state.ranking.read(row)
        if row.status == Status.KEEP:
            state.keeps += 1
        elif row.status not in w.VALID:
            state.failures[row.cause or str(row.status)] += 1

    def _verdict(self, row: Row) -> str:
        state, trial = self.state, row.trial or ""
        state.running.pop(trial, None)
        known = state.rows.get(trial)
        if known is not None:
            known = state.rows[trial] = known.model_copy(update={"verdict": row.verdict})
            state.recent = deque((state.rows.get(r.trial or "", r) for r in state.recent), RECENT_KEPT)
        state.ranking.read(row)
        text = f"{trial} {row.verdict or 'not decided'} with fresh seeds"
        text += f": {w.score_text(self.spec, row.score)}" if row.score is not None else ""
        told = [w.p_text(row.p_value)] if row.p_value is not None else []
        told += [why] if (why := w.why_not_confirmed(row)) else []
        return text + (f" ({', '.join(told)})" if told else "")

    def _spending(self, spent: Spent) -> str | None:
        self.state.spent = vars(spent)
        now = self.clock()
        if self._live is not None or now - self._last_budget < BUDGET_LINE_EVERY_S:
            return None
        self._last_budget = now
        left = [f"{name} {text}" for name, _, text in budget_lines(self.state.spent, self.settings)]
        return "spent: " + ", ".join(left) if left else None

    def outcome_line(self, row: Row) -> str:
        """`t0042 optimizer: keep 2.911 s, 6.10 % better than the baseline` on one plain line."""
        who = row.trial if row.status is Status.BASELINE else f"{row.trial} {w.author(row)}"
        text = f"{who}: {w.outcome(row)}"
        if row.score is not None:
            text += f" {w.score_text(self.spec, row.score)}"
        base = self.state.baseline
        gain = w.relative(self.spec, row.score, base.score if base else None)
        if gain is not None and row.status != Status.BASELINE:
            text += f", {w.better_or_worse(gain)} than the baseline"
        why = str(detail(row).get("label") or "") or (row.error_excerpt or "").strip().rpartition("\n")[2]
        if row.status not in w.VALID and why:
            text += f" ({one_line(why, 140)})"
        return text


def _age(at: datetime | None) -> float:
    return max(0.0, (datetime.now(UTC) - at).total_seconds()) if at else 0.0
