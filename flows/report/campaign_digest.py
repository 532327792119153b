"""The result of a campaign as one frozen record: the figures that the page, terminal and mail all show.

Use: `digest(view, spec)` -> Digest; `headline(spec, d)` -> the one sentence that says who won.
Limits: everything is recomputed from lineage rows, nothing is read from disk; one pass over the trials.
A gain is counted as real only when a confirmation event says so; one measurement never is.
"""

from __future__ import annotations

import json
import math
import statistics
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from flows.report import formatting as w
from flows.report.prune_checks import Prunes, prunes
from flows.report.slot_time import SlotTime, where_time_goes
from lineage.queries import cost_unknown, made_by
from lineage.records import Row, Status
from lineage.safe_text import one_line
from lineage.script_task import TRUST_MEANS

if TYPE_CHECKING:
    from lineage.environment_spec import EnvironmentSpec
    from lineage.queries import View

DRIFT = 0.01  # difference of the two gains, as a fraction, from which the sentence gives both


@dataclass(frozen=True)
class Costs:
    """Money, tokens and seconds. `failed_cpu_s` went into trials that never got a score."""

    usd: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cache_read: int = 0
    tokens_cache_write: int = 0
    cpu_s: float = 0.0
    failed_cpu_s: float = 0.0
    engine_cpu_s: float = 0.0
    wall_s: float | None = None

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out + self.tokens_cache_read + self.tokens_cache_write


@dataclass(frozen=True)
class Forecasts:
    """Expected against measured change, over trials that had both. `rank` is Spearman's correlation."""

    n: int = 0
    right_sign: int = 0
    rank: float | None = None
    mean_expected: float = 0.0
    mean_measured: float = 0.0


@dataclass(frozen=True)
class RoleFigures:
    """One role (or arm): what it tried, what came of it, what it cost."""

    key: str
    n: int
    keeps: int
    confirmed: int
    valid: int
    best_gain: float | None
    usd: float
    tokens: int
    cpu_s: float
    hit_low: float
    hit_high: float
    unpriced: int = 0  # trials of a coding agent that did not report its dollars

    @property
    def cost_per_keep(self) -> float | None:
        """Dollars per keep; None where a keep or a cost is missing."""
        return self.usd / self.keeps if self.keeps and not self.unpriced else None

    @property
    def hit_rate(self) -> float:
        return self.keeps / self.n if self.n else 0.0


@dataclass(frozen=True)
class FailureKind:
    status: str
    cause: str
    n: int
    example: Row


@dataclass(frozen=True)
class Digest:
    """A campaign's result. `trials` and `valid` count what was tried, without the baseline."""

    campaign: str
    trials: int
    open_trials: int
    keeps: int
    confirmed: int
    valid: int
    statuses: Mapping[str, int]
    baseline: Row | None
    incumbent: Row | None
    leader: Row | None
    champions: tuple[Row, ...]
    fresh: Mapping[str, Row]
    means: Mapping[str, float]
    unsealed: tuple[str, ...]
    sealed: Mapping[str, Row]
    noise_sd: float | None
    noise_runs: int
    noise_throttled: int
    failures: tuple[FailureKind, ...]
    roles: tuple[RoleFigures, ...]
    arms: tuple[RoleFigures, ...]
    makers: tuple[RoleFigures, ...]
    spent: Costs
    forecasts: Forecasts
    started: datetime | None
    finished: datetime | None
    ended_why: str
    forked_from: str = ""
    side_by_side: float | None = None
    prunes: Prunes = field(default_factory=Prunes)
    slot_time: SlotTime | None = None
    isolation: Mapping[str, int] = field(default_factory=dict)
    evaluators: Mapping[str, int] = field(default_factory=dict)
    environments: Mapping[str, int] = field(default_factory=dict)
    machines: Mapping[str, int] = field(default_factory=dict)

    @property
    def noise_from(self) -> str:
        """The runs behind the noise figure: `10 baseline runs, 2 of them throttled`."""
        told = f"{self.noise_runs} baseline runs"
        return f"{told}, {self.noise_throttled} of them throttled" if self.noise_throttled else told

    def score_of(self, row: Row | None) -> float | None:
        """A trial's best estimate: the mean on fresh seeds where it was confirmed, else its first measurement.

        The first measurement selected the trial, so it is biased upwards; the fresh seeds did not.
        """
        if row is None:
            return None
        return self.means.get(row.trial or "", row.score)

    @property
    def unpriced(self) -> int:
        """Proposals of coding agents that did not report their dollars."""
        return sum(group.unpriced for group in self.makers)

    @property
    def improved(self) -> bool:
        """A trial other than the baseline was confirmed and is the incumbent."""
        return (
            self.incumbent is not None
            and self.baseline is not None
            and self.incumbent.trial != self.baseline.trial
        )

    @property
    def unconfirmed_leader(self) -> Row | None:
        """The leader, when it is a single measurement: neither the baseline nor confirmed."""
        known = {row.trial for row in (self.incumbent, self.baseline, *self.champions) if row is not None}
        return self.leader if self.leader is not None and self.leader.trial not in known else None


def digest(view: View, spec: EnvironmentSpec) -> Digest:
    trials = view.trials()
    baseline = view.baseline()
    noise_sd, noise_runs, noise_throttled = _noise(view.events("calibration"), baseline, trials)
    started, finished, why = _span(view.events("campaign"), trials)
    reference = baseline.score if baseline else None
    champions = tuple(view.rows_of_champions())
    confirmed = {row.trial for row in champions}
    return Digest(
        campaign=view.campaign,
        trials=sum(row.status != Status.BASELINE for row in trials),
        prunes=prunes(trials, spec.sign),
        slot_time=where_time_goes(view),
        open_trials=len(view.open_trials()),
        keeps=sum(row.status == Status.KEEP for row in trials),
        confirmed=len(confirmed),
        valid=sum(row.status in w.VALID and row.status != Status.BASELINE for row in trials),
        statuses=dict(Counter(str(row.status) for row in trials)),
        baseline=baseline,
        incumbent=view.row_of_incumbent(),
        leader=view.row_of_leader(),
        champions=champions,
        fresh={row.trial or "": row for row in view.events("confirmation")},
        means=dict(view.ranking.fresh),
        unsealed=tuple(trial for _, trial in view.ranking.unsealed),
        sealed={row.trial or "": row for row in view.events("sealed")},
        noise_sd=noise_sd,
        noise_runs=noise_runs,
        noise_throttled=noise_throttled,
        failures=_failures(trials),
        roles=_groups(trials, spec, reference, confirmed, "role"),
        arms=_groups(trials, spec, reference, confirmed, "arm"),
        makers=_groups(trials, spec, reference, confirmed, "maker"),
        spent=_spent(trials, view.events("campaign")),
        forecasts=forecasts(trials),
        started=started,
        finished=finished,
        ended_why=why,
        forked_from=_origin(view.events("campaign")),
        side_by_side=confirmed_gain(view, spec, champions[-1]) if champions else None,
        isolation=_tally(row.isolation for row in trials),
        evaluators=_tally(row.evaluator_sha256 for row in trials),
        environments=_tally(row.environment_sha256 for row in trials),
        machines=_tally(row.machine for row in trials),
    )


def headline(spec: EnvironmentSpec, d: Digest) -> str:
    """What won, by how much on the sealed split, and whether it is beyond the measured noise; alarms come first."""
    alarms = [text for row in d.sealed.values() if (text := w.contradiction(row))]
    best = d.sealed.get(d.incumbent.trial or "") if d.incumbent is not None else None
    told = w.sealed_gain(best) if best is not None else ""
    champion = [f"{best.trial} is {told}."] if best is not None and told else []
    trust = [] if spec.trust == "judged" else [f"Trust: {spec.trust}, {TRUST_MEANS[spec.trust]}."]
    return " ".join([*alarms, *champion, _public_headline(spec, d), *trust])


def title_line(spec: EnvironmentSpec, d: Digest) -> str:
    """The headline in one line: who won, by how much on fresh seeds and on the sealed split. Details are in `headline`."""
    best, base = d.incumbent, d.baseline
    if not d.improved or best is None or base is None:
        return headline(spec, d)
    alarm = "ALARM, see below. " if any(w.contradiction(event) for event in d.sealed.values()) else ""
    gain = w.relative(spec, d.score_of(best), base.score)
    text = f"{alarm}Confirmed on fresh seeds: {best.trial} ({w.author(best)})"
    text += f", {w.better_or_worse(gain)} than the baseline" if gain is not None else ""
    sealed = d.sealed.get(best.trial or "")
    short = w.sealed_short(sealed) if sealed is not None else ""
    return f"{text}; {short}." if short else f"{text}."


def _public_headline(spec: EnvironmentSpec, d: Digest) -> str:
    base, best, lucky = d.baseline, d.incumbent, d.unconfirmed_leader
    if base is None:
        return "No baseline has been measured yet." if d.trials else "Nothing has been tried yet."
    if d.improved and best is not None:
        score = d.score_of(best)
        gain = w.relative(spec, score, base.score)
        text = f"Confirmed on fresh seeds: {best.trial} ({w.author(best)}) scores {w.score_text(spec, score)} where the "
        text += f"baseline scores {w.score_text(spec, base.score)}"
        text += f", {w.better_or_worse(gain)}" if gain is not None else ""
        if gain is not None and d.side_by_side is not None and abs(gain - d.side_by_side) > DRIFT:
            text += f", {w.better_or_worse(d.side_by_side)} side by side"
        if best.p_value is None:
            return text + "."
        again = d.fresh.get(best.trial or "")
        against = again.incumbent if again is not None else None
        than = f" against {against}" if against and against != base.trial else ""
        return f"{text} ({w.p_text(best.p_value)}{than})."
    if lucky is not None:
        gain = w.relative(spec, lucky.score, base.score)
        text = f"Nothing confirmed. The best single measurement still standing is {lucky.trial} ({w.author(lucky)})"
        text += f", {w.better_or_worse(gain)} than the baseline" if gain is not None else ""
        beyond = in_sds(spec, lucky.score, base.score, d.noise_sd)
        return text + (
            f", {beyond:.1f} noise sd; it may be luck." if beyond is not None else "; it may be luck."
        )
    return f"No trial beat the baseline, {w.score_text(spec, base.score)}."


def in_sds(
    spec: EnvironmentSpec, value: float | None, reference: float | None, sd: float | None
) -> float | None:
    """Improvement in units of the measured noise; positive is better."""
    if value is None or reference is None or not sd:
        return None
    return spec.sign * (value - reference) / sd


def detail(row: Row) -> dict[str, object]:
    """`detail_json` as a mapping; an unreadable one is empty rather than fatal for a page."""
    return loads(row.detail_json)


def loads(text: str) -> dict[str, object]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a proportion; (0, 1) when nothing was tried.

    >>> [round(x, 3) for x in wilson(3, 20)]
    [0.052, 0.36]
    """
    if n == 0:
        return 0.0, 1.0
    p, zz = hits / n, z * z
    centre, spread = p + zz / (2 * n), z * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + zz / n)), min(1.0, (centre + spread) / (1 + zz / n))


def forecasts(trials: Sequence[Row]) -> Forecasts:
    pairs = [
        (row.expected_delta, row.delta_parent)
        for row in trials
        if row.expected_delta is not None and row.delta_parent is not None and row.status in w.VALID
    ]
    if not pairs:
        return Forecasts()
    expected, measured = [a for a, _ in pairs], [b for _, b in pairs]
    return Forecasts(
        n=len(pairs),
        right_sign=sum(a * b > 0 for a, b in pairs),
        rank=_rank_correlation(expected, measured),
        mean_expected=statistics.fmean(expected),
        mean_measured=statistics.fmean(measured),
    )


def _rank_correlation(a: list[float], b: list[float]) -> float | None:
    if len(a) < 3 or len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return statistics.correlation(_ranks(a), _ranks(b))


def _ranks(values: list[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and values[order[stop]] == values[order[start]]:
            stop += 1
        for i in order[start:stop]:
            ranks[i] = (start + stop - 1) / 2  # ties share their mean rank
        start = stop
    return ranks


def _noise(
    calibrations: Sequence[Row], baseline: Row | None, trials: Sequence[Row]
) -> tuple[float | None, int, int]:
    for row in [*reversed(calibrations), *([baseline] if baseline else []), *reversed(trials)]:
        if row.noise_sd is not None:
            return row.noise_sd, len(row.scores), row.throttled_runs
    return None, 0, 0


def _span(campaign: Sequence[Row], trials: Sequence[Row]) -> tuple[datetime | None, datetime | None, str]:
    starts = [row.t_started for row in [*campaign, *trials] if row.t_started]
    ends = [at for row in [*campaign, *trials] if (at := row.t_finished or row.t_started)]
    last = campaign[-1] if campaign else None
    why = (last.notes or "") if last is not None and last.operator in ("end", "stop") else ""
    return min(starts, default=None), max(ends, default=None), one_line(why)


def _worked_s(campaign: Sequence[Row], trials: Sequence[Row]) -> float | None:
    """Wall seconds in which the campaign ran: from each start or resume to the last event before the next."""
    moments = sorted(at for row in [*campaign, *trials] for at in (row.t_started, row.t_finished) if at)
    begins = [row.t_started for row in campaign if row.operator in ("start", "resume") and row.t_started]
    begins = sorted(begins) or moments[:1]
    last = [moments[bisect_left(moments, later) - 1] for later in begins[1:]] + moments[-1:]
    return (
        sum(((end - at).total_seconds() for at, end in zip(begins, last, strict=True)), 0.0)
        if begins
        else None
    )


def _origin(events: Sequence[Row]) -> str:
    """The trial that a forked campaign started from, in words; empty for a campaign of its own."""
    told = loads(events[0].detail_json).get("forked_from") if events else None
    if not isinstance(told, dict):
        return ""
    return one_line(f"{told.get('trial')} of {told.get('campaign')} in {told.get('run')}", 300)


def _failures(trials: Sequence[Row]) -> tuple[FailureKind, ...]:
    latest: dict[tuple[str, str], Row] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for row in trials:
        if row.status in w.VALID:
            continue
        key = (str(row.status), row.cause or str(row.status))
        counts[key] += 1
        latest[key] = row
    return tuple(FailureKind(*key, n, latest[key]) for key, n in counts.most_common())


def _groups(
    trials: Sequence[Row], spec: EnvironmentSpec, reference: float | None, champions: set[str | None], by: str
) -> tuple[RoleFigures, ...]:
    members: dict[str, list[Row]] = defaultdict(list)
    for row in trials:
        if row.status != Status.BASELINE:
            members[made_by(row) if by == "maker" else str(getattr(row, by) or "")].append(row)
    members.pop("", None)
    groups = []
    for key, rows in members.items():
        keeps = [row for row in rows if row.status == Status.KEEP]
        gains = [g for row in keeps if (g := w.relative(spec, row.score, reference)) is not None]
        low, high = wilson(len(keeps), len(rows))
        groups.append(
            RoleFigures(
                key=key,
                n=len(rows),
                keeps=len(keeps),
                confirmed=sum(row.trial in champions for row in rows),
                valid=sum(row.status in w.VALID for row in rows),
                best_gain=max(gains, default=None),
                usd=math.fsum(row.usd for row in rows),
                tokens=sum(_tokens(row) for row in rows),
                cpu_s=math.fsum(w.cpu_seconds(row) for row in rows),
                hit_low=low,
                hit_high=high,
                unpriced=sum(cost_unknown(row) for row in rows),
            )
        )
    return tuple(sorted(groups, key=lambda g: (-g.keeps, -g.hit_rate, g.key)))


def _tokens(row: Row) -> int:
    return row.tokens_in + row.tokens_out + row.tokens_cache_read + row.tokens_cache_write


def _spent(trials: Sequence[Row], events: Sequence[Row]) -> Costs:
    """`events` are the campaign's own: sessions that an outage cut off were paid for and are no trials."""
    paid = [*trials, *events]
    return Costs(
        usd=math.fsum(row.usd for row in paid),
        tokens_in=sum(row.tokens_in for row in paid),
        tokens_out=sum(row.tokens_out for row in paid),
        tokens_cache_read=sum(row.tokens_cache_read for row in paid),
        tokens_cache_write=sum(row.tokens_cache_write for row in paid),
        cpu_s=math.fsum(w.cpu_seconds(row) for row in trials),
        failed_cpu_s=math.fsum(w.cpu_seconds(row) for row in trials if row.status not in w.VALID),
        engine_cpu_s=math.fsum(row.engine_cpu_s or 0.0 for row in trials),
        wall_s=_worked_s(events, trials),
    )


def _tally(values: Iterable[str | None]) -> dict[str, int]:
    return dict(Counter(v for v in values if v).most_common())


def confirmed_gain(view: View, spec: EnvironmentSpec, champion: Row) -> float:
    """The champion's gain over the start, from what was measured side by side; a fraction, positive is better.

    A score in seconds drifts with the machine, so the start's figure of some hours ago is no reference: each
    confirmation ran the champion beside the program before it, and those ratios are chained back to the start.
    """
    fresh = {row.trial: row for row in view.events("confirmation") if row.verdict == "confirmed"}
    start = view.baseline()
    ratio, trial = 1.0, champion.trial
    while trial in fresh:
        row = fresh.pop(trial)
        beside = None if row.score is None or row.gain is None else row.score - spec.sign * row.gain
        if not beside or row.score is None:  # an imported record, or a score of zero: no ratio to chain
            return w.relative(spec, champion.score, start.score if start else None) or 0.0
        ratio *= row.score / beside
        trial = row.incumbent
    return spec.sign * (ratio - 1.0) * (1.0 if start is None or (start.score or 0.0) >= 0 else -1.0)
