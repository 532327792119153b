"""A comparison of arms as a person reads it, and as JSON.

Use: `comparison_view(comparison)` for rich, `comparison_json(comparison)` for machines; `ArmComparison` is what both print.
Limits: pure; the figures come from `flows.experiments.arm_results`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.experiments.arm_results import LEVEL, ArmResult, Estimate, Played, coverage, failed
from flows.report import formatting as w
from lineage.environment_spec import EnvironmentSpec

SOFT = "bright_black"
SURE = 6  # fewest repeats whose interval can cover the truth 95 times in 100


@dataclass(frozen=True)
class ArmComparison:
    """A comparison as it stands. `unfinished`: campaigns that have not ended, which no figure counts."""

    root: str
    spec: EnvironmentSpec
    proposer: str
    trials: int
    repeats: int
    results: Sequence[ArmResult]
    played: Sequence[Played]
    unfinished: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def first(self) -> str:
        return self.results[0].arm


def comparison_view(comparison: ArmComparison) -> RenderableType:
    """Headline, the tables, and what the intervals can and cannot say."""
    spec, first = comparison.spec, comparison.first
    title = (
        f"{spec.name}: {w.count(len(comparison.results), 'arm')}, {w.count(comparison.trials, 'trial')} per campaign, "
        f"{w.count(comparison.repeats, 'repeat')}, proposer {comparison.proposer}"
    )
    parts: list[RenderableType] = [
        Text(title, style="bold"),
        Text(
            f"Gains are in per cent of the start's {spec.score.metric}, positive is better; an uplift is a difference of "
            f"gains in points, within repeats; [{100 * LEVEL:.0f} % bootstrap intervals over repeats].",
            style=SOFT,
        ),
        _heading("Final gain"),
        _outcomes(comparison, f"uplift on {first}"),
        _heading("Area under the best measured so far"),
        _areas(comparison, f"uplift on {first}"),
        _heading("What was tried, and what it cost"),
        _search(comparison),
        _heading("Trials without a valid score, by quarter of the campaign"),
        _quarters(comparison),
        Text(
            "\nclusters: effective number of kinds of hypothesis, mean of the campaigns; cross-role: keeps that build on "
            "another role's trial, of those that build on a trial; CPU-h: candidates' in trials, without confirmations.",
            style=SOFT,
        ),
        Text(""),
    ]
    return Group(*parts, *(Text(line) for line in reading(comparison)))


def reading(comparison: ArmComparison) -> list[str]:
    """What to make of the tables, in sentences."""
    lines = [
        _verdict(result, comparison.first) for result in comparison.results[1:] if result.uplift is not None
    ]
    fewest = min((r.n for r in comparison.results if r.n), default=0)
    if 1 < fewest < SURE:
        lines.append(
            f"An interval over {fewest} repeats is no wider than their range, which contains the true median "
            f"{100 * coverage(fewest):.0f} times in 100: take {SURE} repeats or more for a claim."
        )
    if any(r.measured for r in comparison.results):
        lines.append("* marks gains that were measured once and not confirmed; they are biased upwards.")
    if comparison.unfinished:
        lines.append(
            f"Not finished and not counted: {', '.join(comparison.unfinished)}. The same command continues them."
        )
    return [*lines, *comparison.notes]


def _verdict(result: ArmResult, first: str) -> str:
    gap = result.uplift
    assert gap is not None
    size = f"{100 * abs(gap.mean):.1f} points {'more' if gap.mean >= 0 else 'less'} than {first}"
    if gap.low is None:
        return f"{result.arm}: {size} in the one repeat that both have; one repeat shows nothing."
    if gap.beyond_zero:
        return f"{result.arm}: {size}; the interval leaves out zero."
    return f"{result.arm}: {size}; the interval contains zero, so no difference is shown."


def interval(estimate: Estimate | None, unit: str = " %", mark: str = "") -> str:
    """`+4.1 % [+2.0, +6.3]`, `+4.1 %` from one repeat, a dash from none."""
    if estimate is None:
        return w.DASH
    text = _signed(estimate.mean) + unit + mark
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{_signed(estimate.low)}, {_signed(estimate.high)}]"


def _signed(fraction: float) -> str:
    return w.percent(fraction, 1).removesuffix(" %")


def _heading(text: str) -> Text:
    return Text("\n" + text, style="bold")


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style=SOFT, pad_edge=False)
    for at, name in enumerate(columns):
        table.add_column(name, justify="left" if at == 0 else "right", no_wrap=True)
    return table


def _outcomes(comparison: ArmComparison, uplift: str) -> Table:
    table = _table("arm", "n", "confirmed", "gain", uplift)
    for r in comparison.results:
        table.add_row(
            Text(r.arm, style="bold"),
            str(r.n),
            f"{r.confirmed} of {r.n}" if r.n else w.DASH,
            interval(r.gain, mark="*" if r.measured else ""),
            "reference" if r.arm == comparison.first else interval(r.uplift, ""),
        )
    return table


def _areas(comparison: ArmComparison, uplift: str) -> Table:
    table = _table("arm", "area", uplift)
    for r in comparison.results:
        own = r.arm == comparison.first
        table.add_row(
            Text(r.arm, style="bold"), interval(r.area), "reference" if own else interval(r.area_uplift, "")
        )
    return table


def _search(comparison: ArmComparison) -> Table:
    """`cross-role`: keeps on another role's trial, of those on a trial. CPU without that of confirmations."""
    table = _table("arm", "keeps", "clusters", "cross-role", "CPU-h", "cost")
    for r in comparison.results:
        table.add_row(
            Text(r.arm, style="bold"),
            f"{r.keeps} of {r.trials:,} ({w.percent(r.keep_rate, 1, sign=False)})" if r.n else w.DASH,
            w.DASH if r.effective_clusters is None else f"{r.effective_clusters:.1f}",
            f"{r.cross_role} of {r.crossable}" if r.crossable else w.DASH,
            f"{r.cpu_hours:.2f}" if r.n else w.DASH,
            w.money(r.usd if r.n else None),
        )
    return table


def _quarters(comparison: ArmComparison) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style=SOFT, pad_edge=False)
    for name in ("arm", "first", "second", "third", "last"):
        table.add_column(name)
    for r in comparison.results:
        table.add_row(Text(r.arm, style="bold"), *map(_mix, r.quarters))
    return table


def _mix(quarter: dict[str, int]) -> str:
    """`3 of 8: disqualified 2, rejected 1`"""
    if not quarter:
        return w.DASH
    mix = failed(quarter)
    words = ", ".join(f"{word} {n}" for word, n in mix.items())
    return f"{sum(mix.values())} of {sum(quarter.values())}" + (f": {words}" if words else "")


def comparison_json(comparison: ArmComparison) -> dict[str, object]:
    """Everything above, for machines; fractions of 1, missing is None."""
    return {
        "run": comparison.root,
        "environment": comparison.spec.name,
        "metric": comparison.spec.score.metric,
        "proposer": comparison.proposer,
        "trials": comparison.trials,
        "repeats": comparison.repeats,
        "first": comparison.first,
        "level": LEVEL,
        "arms": [{**asdict(r), "keep_rate": r.keep_rate} for r in comparison.results],
        "campaigns": [asdict(p) for p in comparison.played],
        "unfinished": list(comparison.unfinished),
        "reading": reading(comparison),
    }
