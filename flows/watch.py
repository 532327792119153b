"""`bakeoff watch RUN`: the live view of a campaign that another process, or another machine, is running.

Use: `watch(refresh, spec, settings, title=..., stop=event)`; `refresh()` gives the newest View.
Limits: knows what lineage knows. A trial's stage is asked of `stage_of(trial)` (the caller looks at the
stored results); without it an open trial is shown as submitted. Ends when the campaign has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from flows.display import Display
from lineage.errors import StoreUnavailable
from lineage.records import Row

if TYPE_CHECKING:
    from flows.settings import Settings
    from lineage.queries import View
    from lineage.spec import EnvironmentSpec

FOLLOWED = ("submitted", "trial", "confirmation", "sealed", "intervention")


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
                    self.display.on({"kind": "row", "row": row})
            self.seen[kind] = len(rows)
        if self.stage_of is not None:
            for row in view.open_trials():
                stage = self.stage_of(row.trial or "")
                if stage:
                    self.display.on({"kind": "stage", "trial": row.trial, "role": row.role, "stage": stage})
        return ended(view.events("campaign"))


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
) -> None:
    """Follow until the campaign ends or `stop` is set. A store that is away for a while is waited for."""
    halt = stop or threading.Event()
    with Display(spec, settings, title=title, live=live) as display:
        follower = Follower(display, stage_of)
        while True:
            try:
                if follower.take(refresh()):
                    return
            except StoreUnavailable as error:
                display.on({"kind": "note", "text": f"store away, trying again: {error}"})
            if halt.wait(every_s):
                return
