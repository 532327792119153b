"""One place that says whether another trial may start, from lineage and the clock alone.

Spending is summed from rows, so a resumed campaign continues the same ledger. A trial that cannot
finish before the end of the time allowed, judged by the median of those before it, is not started.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from flows.settings import Settings
from lineage.queries import View
from lineage.records import Status

CPU = ("build_cpu_s", "train_cpu_s", "evaluate_cpu_s")
TOKENS = ("tokens_in", "tokens_out", "tokens_cache_read", "tokens_cache_write")


@dataclass(frozen=True)
class Spent:
    """What a campaign has used. Seconds are wall seconds since its first event; cpu_s is candidates' CPU."""

    trials: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    tokens: int = 0
    usd: float = 0.0
    since_keep: int = 0
    typical_trial_s: float = 0.0


def spent(view: View, now: datetime) -> Spent:
    """Sum the ledger from lineage. Trials that a fault of ours or a missing proposal ended are not counted.

    From columns, not rows: it is asked before every trial.
    """
    counted = ~view.where("status", Status.BASELINE, Status.HARNESS_ABORT) & ~view.where("cause", "abandoned")
    keeps = np.flatnonzero(view.where("status", Status.KEEP)[counted])
    began, ended = view.numbers("t_started"), view.numbers("t_finished")
    durations = (ended - began)[counted & np.isfinite(view.numbers("train_s"))]
    durations = durations[np.isfinite(durations)]
    count = int(counted.sum())
    outages = view.events("campaign")  # sessions that an outage cut off are campaign events
    starts = began[np.isfinite(began)]
    return Spent(
        trials=count,
        seconds=now.timestamp() - float(starts.min()) if len(starts) else 0.0,
        cpu_s=sum(float(np.nansum(view.numbers(name))) for name in CPU),
        tokens=sum(
            int(np.nansum(view.numbers(name))) + sum(getattr(r, name) for r in outages) for name in TOKENS
        ),
        usd=float(np.nansum(view.numbers("usd"))) + sum(row.usd for row in outages),
        since_keep=count - 1 - int(keeps[-1]) if len(keeps) else count,
        typical_trial_s=float(np.median(durations)) if len(durations) else 0.0,
    )


def end_of_window(until: str | None, started: datetime) -> datetime | None:
    """The first moment at clock time `until` (HH:MM, local) after the campaign was started or continued."""
    if until is None:
        return None
    local = started.astimezone()
    hour, minute = map(int, until.split(":"))
    end = local.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return end if end > local else end + timedelta(days=1)


def refusal(
    settings: Settings,
    used: Spent,
    under_way: int,
    started: datetime,
    now: datetime,
    continued: datetime | None = None,
) -> str | None:
    """Why no further trial may start, as one phrase; None when one may.

    Hours count from `started`. A clock time is the first one after `continued`, when this process took the
    campaign up: what a night left unfinished has the next night to the same clock time.
    """
    if used.trials + under_way >= settings.trials:
        return f"all {settings.trials} trials are done"
    left = _seconds_left(settings, started, now, continued or started)
    if left is not None:
        if left <= 0:
            return "the time allowed is over"
        if used.typical_trial_s > left:
            return f"{left:.0f} s left, a trial takes about {used.typical_trial_s:.0f} s"
    caps = (
        (settings.tokens, used.tokens, "tokens"),
        (settings.usd, used.usd, "dollars"),
        (settings.cpu_hours, used.cpu_s / 3600, "CPU hours of candidates"),
    )
    for cap, value, word in caps:
        if cap is not None and value >= cap:
            return f"{value:,.2f} of {cap:,.2f} {word} are spent"
    if settings.no_improvement is not None and used.since_keep >= settings.no_improvement:
        return f"no keep in the last {used.since_keep} trials"
    return None


def _seconds_left(settings: Settings, started: datetime, now: datetime, continued: datetime) -> float | None:
    ends = [started + timedelta(hours=settings.hours)] if settings.hours else []
    window = end_of_window(settings.until, continued)
    if window is not None:
        ends.append(window)
    return min((end - now).total_seconds() for end in ends) if ends else None
