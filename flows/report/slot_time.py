"""Where the time of the slots goes: from the runs of a trial to the columns of its row, and from rows to one line and one bar.

Use: `slot_columns(uses, runs, measured)` for a Row; `where_time_goes(view)` -> SlotTime or None; `line(t)` and `bar(t)`
for people. A slot is busy from the moment a run has it until it gives it back. Of that time:

    measured       what a score or a cap rests on: training and one sitting of prediction, from data release to the end
    starting       starts of processes before it, and the handling of artifacts
    checks         smoke tests, second sittings, audits, the judge
    confirmation   everything in confirmations and on the sealed split
    waiting        free slots while a proposer is at work, as many at most as proposers
    idle           the other free slots, from the start of the campaign to its end

Limits: what a killed process had under way is idle here; times are of one machine's wall clock.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.report import formatting as w
from lineage.records import Measurement, Row, TrainRun

if TYPE_CHECKING:
    from lineage.queries import View

Use = tuple[str, float, float]  # what for, began, ended, in seconds of the epoch
PARTS = ("measured", "starting", "checks", "confirmation", "waiting", "idle")
SHADES = "█▓▒░·  "[: len(PARTS)]
WIDTH = 40


@dataclass(frozen=True)
class SlotTime:
    """Seconds of all slots over the whole campaign by part, and how many times its measured work a trial costs."""

    slots: int
    seconds: dict[str, float]
    trials: int
    times: float | None  # CPU of all processes of trials, over the CPU of what was measured

    def share(self, part: str) -> float:
        total = math.fsum(self.seconds.values())
        return self.seconds[part] / total if total else 0.0


def slot_columns(
    uses: Sequence[Use], runs: Sequence[TrainRun], measured: Sequence[Measurement]
) -> dict[str, Any]:
    """Columns of a row; empty when nothing had a slot."""
    if not uses:
        return {}
    total = {what: math.fsum(e - b for name, b, e in uses if name == what) for what, _, _ in uses}
    judged = [seed.facts for part in measured for seed in part.per_seed if seed.facts is not None]
    facts = [run.facts for run in runs]
    trained = math.fsum(f.wall_s for f in facts)
    answered = math.fsum(f.wall_s for f in judged)
    before = math.fsum(f.start_wall_s for f in judged)
    slot_s = math.fsum(total.values())
    measured_s = min(slot_s, trained + answered)
    starting_s = max(0.0, total.get("training", 0.0) - trained) + before
    return {
        "slot_s": slot_s,
        "slot_measured_s": measured_s,
        "slot_starting_s": min(slot_s - measured_s, starting_s),
        "measured_cpu_s": math.fsum(f.cpu_s for f in [*facts, *judged]),
    }


def as_detail(uses: Sequence[Use]) -> list[list[Any]]:
    return [[what, round(began, 3), round(ended, 3)] for what, began, ended in uses]


def where_time_goes(view: View) -> SlotTime | None:
    """Of a whole campaign; None before anything had a slot, and for records that do not say."""
    rows = [row for row in view.rows() if row.slot_s]
    events = view.events("campaign")
    starts = [row.t_started for row in events if row.operator in ("start", "resume") and row.t_started]
    slots = max((_slots(row) for row in events), default=0)
    if not rows or not starts or not slots:
        return None
    trials = [row for row in rows if row.event == "trial"]
    others = [row for row in rows if row.event != "trial"]
    seconds = {
        "measured": _sum(trials, "slot_measured_s"),
        "starting": _sum(trials, "slot_starting_s"),
        "confirmation": _sum(others, "slot_s"),
    }
    seconds["checks"] = _sum(trials, "slot_s") - seconds["measured"] - seconds["starting"]
    seconds["waiting"], seconds["idle"] = _free(view.rows(), rows, slots)
    cpu = math.fsum(w.cpu_seconds(row) for row in trials)
    work = _sum(trials, "measured_cpu_s")
    ordered = {part: max(0.0, seconds[part]) for part in PARTS}
    return SlotTime(slots, ordered, len(trials), cpu / work if work else None)


def _slots(row: Row) -> int:
    found = json.loads(row.detail_json)
    return int(found.get("slots", 0)) if isinstance(found, dict) else 0


def _sum(rows: Sequence[Row], column: str) -> float:
    return math.fsum(getattr(row, column) or 0.0 for row in rows)


def _free(rows: Sequence[Row], used: Sequence[Row], slots: int) -> tuple[float, float]:
    """Seconds of free slots while proposers were at work, and of the others; only while the campaign ran."""
    changes: list[
        tuple[float, int, int, int]
    ] = []  # when, change of busy slots, of proposers, of running campaigns

    def span(began: float, ended: float, busy: int = 0, asked: int = 0, open_: int = 0) -> None:
        if ended > began:
            changes.append((began, busy, asked, open_))
            changes.append((ended, -busy, -asked, -open_))

    for row in used:
        for _, began, ended in json.loads(row.detail_json).get("slots", []):
            span(began, ended, busy=1)
    for row in rows:
        if row.event == "trial" and row.t_started and row.propose_s:
            began = row.t_started.timestamp()
            span(began, began + row.propose_s, asked=1)
    for began, ended in _sittings(rows):
        span(began, ended, open_=1)
    waiting = idle = 0.0
    busy = asked = open_now = 0
    last = 0.0
    for when, more_busy, more_asked, more_open in sorted(changes):
        if open_now > 0:
            free = max(0, slots - busy)
            waiting += min(free, asked) * (when - last)
            idle += max(0, free - asked) * (when - last)
        busy, asked, open_now = busy + more_busy, asked + more_asked, open_now + more_open
        last = when
    return waiting, idle


def _sittings(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """From each start or resume of the campaign to its end, or to the last thing recorded before the next one."""
    found: list[tuple[float, float]] = []
    began: float | None = None
    last = 0.0
    for row in rows:
        if row.event == "campaign" and row.operator in ("start", "resume") and row.t_started:
            if began is not None:
                found.append((began, last))
            began = last = row.t_started.timestamp()
        at = row.t_finished or row.t_started
        last = max(last, at.timestamp()) if at else last
    return [*found, (began, last)] if began is not None else found


def line(t: SlotTime) -> str:
    """`measured 31 %, starting 40 %, …; a trial costs 2.4 times its measured work`."""
    told = ", ".join(f"{part} {w.percent(t.share(part), 0, sign=False)}" for part in PARTS)
    times = f"; a trial costs {t.times:.1f} times its measured work" if t.times else ""
    return f"{told} of {w.count(t.slots, 'slot')}{times}"


def segments(t: SlotTime) -> list[tuple[str, float, float]]:
    """Part, where it begins and how wide it is, in per cent, in the order of `line`."""
    begins = [100 * math.fsum(t.share(p) for p in PARTS[:at]) for at in range(len(PARTS))]
    return [
        (part, round(begin, 2), round(100 * t.share(part), 2))
        for part, begin in zip(PARTS, begins, strict=True)
    ]


def bar(t: SlotTime) -> str:
    """One character for each fortieth of the slots' time, a shade for each part, in the order of `line`."""
    ends = [round(WIDTH * math.fsum(t.share(p) for p in PARTS[: at + 1])) for at in range(len(PARTS))]
    return "".join(
        shade * (end - begin) for shade, begin, end in zip(SHADES, [0, *ends[:-1]], ends, strict=True)
    ).ljust(WIDTH)[:WIDTH]
