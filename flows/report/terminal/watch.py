"""`bakeoff watch RUN` and `bakeoff attach RUN`: the live view of a campaign that another process is running.

Use: `watch(refresh, spec, settings, title=..., stop=event)`; `refresh()` gives the newest View.
Limits: shows what lineage has. A trial's stage comes from `stage_of(trial)`, for example
`lambda t: stage_after(list_results(store, campaign, t))`; without it an open trial is shown as submitted. Ends when the campaign has ended.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flows.engine.live_events import Note, RowWritten, Spending, StageStarted
from flows.report.terminal.display import Display
from lineage.errors import StoreUnavailable
from lineage.records import STAGES, Row

if TYPE_CHECKING:
    from flows.engine.settings import Settings
    from lineage.environment_spec import EnvironmentSpec
    from lineage.queries import View

FOLLOWED = ("submitted", "trial", "confirmation", "sealed", "intervention")
NOBODY = "no process on this machine runs this campaign; if none does elsewhere, Ctrl-C and continue it with `bakeoff resume`"


class Follower:
    """Turns successive views into display events, each row once."""

    def __init__(self, display: Display, stage_of: Callable[[str], str | None] | None = None) -> None:
        self.display = display
        self.stage_of = stage_of
        self.seen: dict[str, int] = dict.fromkeys(FOLLOWED, 0)

    def take(self, view: View) -> bool:
        """Feed what is new; True when the campaign has ended."""
        done = {row.trial for row in view.events("trial")}
        for kind in FOLLOWED:
            rows = view.events(kind)  # type: ignore[arg-type]
            for row in rows[self.seen[kind] :]:
                if kind != "submitted" or row.trial not in done:
                    self.display.on(RowWritten(row))
            self.seen[kind] = len(rows)
        if self.stage_of is not None:
            for row in view.open_trials():
                stage = self.stage_of(row.trial or "")
                if stage:
                    self.display.on(StageStarted(row.trial or "", row.role or "", stage))
        self._spent(view)
        return ended(view.events("campaign"))

    def _spent(self, view: View) -> None:
        from flows.engine.budget import spent  # needs pandas through the view, which is there by now

        used = spent(view, datetime.now(UTC))
        self.display.state.started = self.display.clock() - used.seconds
        self.display.on(Spending(used))


def ended(events: list[Row]) -> bool:
    return bool(events) and events[-1].operator in ("end", "stop")


def watch(
    refresh: Callable[[], View],
    spec: EnvironmentSpec,
    settings: Settings | None = None,
    *,
    title: str = "",
    live: bool = True,
    every_s: float = 2.0,
    stage_of: Callable[[str], str | None] | None = None,
    stop: threading.Event | None = None,
    alive: Callable[[], bool] = lambda: True,
) -> bool:
    """Follow until the campaign ends (True), or Ctrl-C or `stop` ends the following (False).

    Prints once when no process here runs it, and keeps following: another machine may. Waits while the store is unavailable.
    """
    halt = stop or threading.Event()
    footer = "Ctrl-C detaches; the campaign continues."
    with (
        contextlib.suppress(KeyboardInterrupt),
        Display(spec, settings, title=title, footer=footer, live=live) as display,
    ):
        follower = Follower(display, stage_of)
        told = False
        while True:
            try:
                if follower.take(refresh()):
                    return True
                if not told and not alive():
                    display.on(Note(NOBODY))
                    told = True
            except StoreUnavailable as error:
                display.on(Note(f"store unavailable, trying again: {error}"))
            if halt.wait(every_s):
                break
    return False


def stage_after(results: Iterable[str]) -> str:
    """The stage that a trial is in, from the names of the results it has stored so far.

    >>> stage_after([]), stage_after(["submit", "propose", "patch", "build"]), stage_after(["build", "screen-train-0"])
    ('propose', 'train', 'evaluate')
    >>> stage_after(["screen-train-0", "screen-measurement", "look-2"])
    'train'
    """
    names = list(results)
    looks = [int(name.removeprefix("look-")) for name in names if name.startswith("look-")]
    if looks:  # a raced screen: only what came after its last look counts
        after = f"screen-{max(looks)}-"
        names = ["build", *(name for name in names if name.startswith(after) or name == "label")]
    reached = 0
    for name in names:
        word = "evaluate" if "-measurement" in name else "train" if "-train-" in name else name
        if word in STAGES:
            reached = max(reached, STAGES.index(word) + 1)
    return STAGES[min(reached, len(STAGES) - 1)]
