"""The campaign's limits: whether another trial may start, from lineage and the clock alone.

Trials, hours, dollars, tokens and CPU hours are checked here. Spending is summed from rows, so a resumed campaign
continues the same account. A trial that cannot finish in the time left, by the median of those before, is not started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import numpy as np

from flows.engine.settings import Settings
from lineage.queries import View
from lineage.records import Allowance, Status, Usage

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
    dearest_usd: float = 0.0
    dearest_tokens: int = 0
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
        cpu_s=sum(float(np.nansum(view.numbers(name))) for name in CPU) + confirmations_cpu_s(view),
        tokens=sum(
            int(np.nansum(view.numbers(name))) + sum(getattr(r, name) for r in outages) for name in TOKENS
        ),
        usd=float(np.nansum(view.numbers("usd"))) + sum(row.usd for row in outages),
        dearest_usd=float(np.nanmax(view.numbers("usd"), initial=0.0)),
        dearest_tokens=int(np.nanmax(sum(view.numbers(name) for name in TOKENS), initial=0)),
        since_keep=count - 1 - int(keeps[-1]) if len(keeps) else count,
        typical_trial_s=float(np.median(durations)) if len(durations) else 0.0,
    )


def confirmations_cpu_s(view: View) -> float:
    """CPU seconds of candidates in confirmations, champions' sealed scores among them."""
    later = [*view.events("confirmation"), *view.events("sealed")]
    return sum((row.train_cpu_s or 0.0) + (row.evaluate_cpu_s or 0.0) for row in later)


def allowance(
    settings: Settings,
    used: Spent,
    role_usd: float,
    open_now: Mapping[str, Usage],
    proposing: int,
    need: Usage,
    at_once: int,
) -> Allowance | None:
    """What a new trial's proposal may spend, None while the money left is reserved by trials under way.

    `role_usd`: what the role has spent and reserved. `open_now`: what each open trial counts for; `proposing`: how many
    of them have no proposal yet. `need`: the worst case of one call. `at_once`: trials that may be under way. Each trial at once gets an equal share of what is
    left; once a share may be too small for a whole proposal, trials are proposed one at a time, with all of it.
    """
    reserved = sum(open_now.values(), Usage())
    free = max(1, at_once - len(open_now))
    usd = [cap - gone for cap, gone in (
        (settings.usd, used.usd + reserved.usd), (settings.usd_per_role, role_usd)
    ) if cap is not None]  # fmt: skip
    tokens = [] if settings.tokens is None else [settings.tokens - used.tokens - _all(reserved)]
    small = bool(usd) and min(usd) / free < used.dearest_usd + need.usd
    small |= bool(tokens) and min(tokens) / free < used.dearest_tokens + _all(need)
    if small and proposing:
        return None
    parts = 1 if small else free
    return Allowance(
        usd=max(0.0, min(usd) / parts) if usd else None,
        tokens=max(0, int(min(tokens) / parts)) if tokens else None,
        beyond=small,
    )


def _all(usage: Usage) -> int:
    return usage.tokens_in + usage.tokens_out + usage.tokens_cache_read + usage.tokens_cache_write


def end_of_window(until: str | None, started: datetime, zone: str = "") -> datetime | None:
    """The first moment at clock time `until` (HH:MM) after the campaign was started or continued.

    In the time zone named, else in this machine's. A clock time that occurs twice, when clocks go back, is the first of
    the two that is still to come; one that clocks going forward leave out is as much later as they leave out.
    """
    if until is None:
        return None
    where: tzinfo | None = ZoneInfo(zone) if zone else None
    hour, minute = map(int, until.split(":"))
    today = started.astimezone(where).replace(tzinfo=None, hour=hour, minute=minute, second=0, microsecond=0)
    ends = []
    for days, fold in ((0, 0), (0, 1), (1, 0), (1, 1)):
        asked = today + timedelta(days=days)
        # moments are compared in UTC: two times of one zone compare by their clock faces
        end = asked.replace(tzinfo=where, fold=fold).astimezone(UTC)
        left_out = end.astimezone(where).replace(tzinfo=None, fold=0) != asked.replace(fold=0)
        if not (left_out and fold):
            ends.append(end)
    return min(end for end in ends if end > started.astimezone(UTC)).astimezone(where)


def refusal(
    settings: Settings,
    used: Spent,
    under_way: int,
    started: datetime,
    now: datetime,
    continued: datetime | None = None,
) -> str | None:
    """Why no further trial may start, as one phrase; None when one may.

    Hours count from `started`. A clock time is the first one after `continued`, the time at which this process
    continued the campaign, so that the next night again lasts until that time.
    """
    if used.trials + under_way >= settings.trials:
        return f"all {settings.trials} trials are done"
    left = seconds_left(settings, started, now, continued or started)
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


def seconds_left(settings: Settings, started: datetime, now: datetime, continued: datetime) -> float | None:
    """Seconds until the time allowed is over, None without such a limit."""
    ends = [started + timedelta(hours=settings.hours)] if settings.hours else []
    window = end_of_window(settings.until, continued, settings.timezone)
    if window is not None:
        ends.append(window)
    return min((end - now).total_seconds() for end in ends) if ends else None
