"""Numbers and names as people read them, in one place for the terminal, the page and the mail.

Use: `score_text(spec, 3.1)` -> '3.1000 s'; `relative(spec, 2.9, 3.1)` -> 0.0645 (positive is better).
Limits: English, plain text, no colours; a missing number is always the same dash.
"""

from __future__ import annotations

import json
from typing import Any

from lineage.environment_spec import EnvironmentSpec
from lineage.records import STAGES, Row, Status
from lineage.safe_text import one_line

DASH = "–"
VALID = frozenset({Status.BASELINE, Status.KEEP, Status.DISCARD})
NOT_CONFIRMED = {
    "futile": "ended early, too little evidence of a gain",
    "not_shown": "a gain was not shown",
    "gate": "a gate fails",
    "failed": "a fresh run had no score",
    "not_learnt": "it scores as well without its training data",
    "unlawful": "a fresh run broke a rule",
    "incumbent_failed": "the program that it was run beside failed, not this one",
}
STAGE_SECONDS = tuple(f"{stage}_s" for stage in STAGES)


def number(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:,.{digits}f}".replace("-", "−")


def score_text(spec: EnvironmentSpec, value: float | None, *, unit: bool = True) -> str:
    text = number(value, spec.score.digits)
    return f"{text} {spec.score.unit}" if unit and spec.score.unit and value is not None else text


def relative(spec: EnvironmentSpec, value: float | None, reference: float | None) -> float | None:
    """Gain of `value` over `reference` as a fraction of it; positive is better, None when undefined."""
    if value is None or reference is None or reference == 0:
        return None
    return spec.sign * (value - reference) / abs(reference)


def percent(fraction: float | None, digits: int = 2, *, sign: bool = True) -> str:
    if fraction is None:
        return DASH
    return f"{100 * fraction:{'+' if sign else ''}.{digits}f} %".replace("-", "−")


def signed(spec: EnvironmentSpec, value: float | None) -> str:
    """A difference of scores in the score's own units and sign."""
    return DASH if value is None else f"{value:+,.{spec.score.digits}f}".replace("-", "−")


def gained(spec: EnvironmentSpec, difference: float | None) -> str:
    """A difference of scores, positive where it is for the better whichever way the score improves."""
    return DASH if difference is None else signed(spec, spec.sign * difference)


def better_or_worse(fraction: float) -> str:
    return f"{percent(abs(fraction), sign=False)} {'better' if fraction >= 0 else 'worse'}"


def seconds(value: float | None) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    if value is None:
        return DASH
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(value: float | None) -> str:
    if value is None:
        return DASH
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:.{2 if value < 100 * scale else 0}f} {unit}"
    return f"{value:.0f} B"


def money(usd: float | None) -> str:
    if usd is None:
        return DASH
    return f"${usd:,.2f}" if usd >= 0.01 or usd == 0 else f"${usd:.4f}"


def count(value: int, noun: str, plural: str = "") -> str:
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def p_text(p: float | None) -> str:
    if p is None:
        return DASH
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def why_not_confirmed(row: Row) -> str:
    """The reason that a confirmation event records, in words; empty when it has none."""
    try:
        return NOT_CONFIRMED.get(str(json.loads(row.detail_json).get("reason")), "")
    except (ValueError, AttributeError):
        return ""


def verdict_text(row: Row) -> str:
    """Of a confirmation event: `confirmed, p < 0.0001`; `unconfirmed, p = 0.67: a gain was not shown`."""
    why = why_not_confirmed(row) + (f" ({row.cause})" if row.cause else "")
    text = f"{row.verdict or 'not decided'}, {p_text(row.p_value)}" + (f": {why}" if why else "")
    return text + failures_of(row)


def failures_of(row: Row) -> str:
    """Of a confirmation event: how often the incumbent failed on fresh seeds, with the interval; empty if it never did."""
    try:
        found = json.loads(row.detail_json).get("incumbent_failure_rate")
    except (ValueError, AttributeError):
        return ""
    if not isinstance(found, list) or len(found) != 5:
        return ""
    failed, runs, _, low, high = found
    ends = f"{percent(low, 0, sign=False)} to {percent(high, 0, sign=False)}"
    return f"; {row.incumbent} failed in {failed:.0f} of {runs:.0f} fresh runs (95 % interval {ends})"


def sealed_gain(event: Row) -> str:
    """Of a sealed event: `1.40 % better than the start on the sealed split (95 % interval 0.30 % to 2.50 %; generalises),
    4.74 % better by the same runs on the public one (3.10 % to 6.38 %)`; empty where it records no gain.
    """
    sealed, public = _relative(event, "sealed_relative"), _relative(event, "public_relative")
    if sealed is None or public is None or event.sealed_level is None:
        return ""
    return (
        f"{better_or_worse(sealed[0])} than the start on the sealed split ({100 - 200 * event.sealed_level:.3g} % interval "
        f"{_span(sealed)}; {_sealed_word(event)}), {better_or_worse(public[0])} by the same runs on the public one ({_span(public)})"
    )


def sealed_short(event: Row) -> str:
    """Of a sealed event: `1.40 % better on the sealed split (generalises)`; empty where it records no gain."""
    sealed = _relative(event, "sealed_relative")
    if sealed is None:
        return ""
    return f"{better_or_worse(sealed[0])} on the sealed split ({_sealed_word(event)})"


def _sealed_word(event: Row) -> str:
    """The verdict; of a champion that broke a rule on the sealed split, what it is instead."""
    broken = event.sealed_verdict == "reversed" and _sealed_fault(event)
    return "no champion" if broken else str(event.sealed_verdict)


def contradiction(event: Row) -> str:
    """Of a sealed event: why its champion is doubtful; empty when nothing is against it."""
    if not _detail(event).get("contradicted") and event.sealed_verdict != "reversed":
        return ""
    what = title_lost(event) if event.sealed_verdict == "reversed" else "the sealed split contradicts it"
    return f"ALARM: {event.trial} was confirmed, and {what}: {sealed_gain(event)}."


def title_lost(event: Row) -> str:
    """Of a sealed event whose champion lost its title: why; a gate that is missed there is no reversed gain."""
    return _sealed_fault(event) or "the sealed split reverses its gain"


def _sealed_fault(event: Row) -> str:
    """Which gate is missed on the sealed split, or which rule is broken there; empty when none is."""
    fault = str(_detail(event).get("fault") or "")
    return one_line(fault.removeprefix("gate_missed: "), 160)


def _detail(event: Row) -> dict[str, Any]:
    """`detail_json` as a mapping; empty where it cannot be read."""
    try:
        found = json.loads(event.detail_json)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _relative(event: Row, name: str) -> tuple[float, float | None, float | None] | None:
    found = _detail(event).get(name)
    return (found[0], found[1], found[2]) if isinstance(found, list) and len(found) == 3 else None


def _span(found: tuple[float, float | None, float | None]) -> str:
    return f"{percent(found[1])} to {percent(found[2])}"


def outcome(row: Row) -> str:
    """`keep, confirmed` / `crash: nan` / `rejected: outside_surface` / `discard, throttled`."""
    words = str(row.status or "running")
    if row.cause and row.cause != words:
        words += f": {row.cause}"
    if row.verdict:
        words += f", {row.verdict}"
    if row.throttled_runs:
        words += ", throttled"
    return words


def author(row: Row) -> str:
    """The specialist; a dash for the baseline, which belongs to no role."""
    if row.status is Status.BASELINE:
        return DASH
    return row.role or row.proposer or DASH


def cpu_seconds(row: Row) -> float:
    return (row.build_cpu_s or 0.0) + (row.train_cpu_s or 0.0) + (row.evaluate_cpu_s or 0.0)


def wall_seconds(row: Row) -> float:
    return sum(float(getattr(row, name) or 0.0) for name in STAGE_SECONDS)


def relative_delta(row: Row) -> float | None:
    """Change against the leader as of recording, as a fraction of it; negative means a lower score."""
    if row.delta_best is None or row.score is None:
        return None
    reference = row.score - row.delta_best
    return row.delta_best / abs(reference) if reference else None


def trial_name(row: Row, spec: EnvironmentSpec) -> str:
    """`airbench_mini · opt · t0042 · keep −3.1 %`, or the cause where there is no score."""
    parts = [spec.name, row.role or "-", row.trial or "-"]
    outcome = str(row.status or "open")
    change = relative_delta(row)
    if change is not None:
        outcome += f" {percent(change, 1)}"
    elif row.cause:
        outcome += f" ({row.cause})"
    return " · ".join([*parts, outcome])
