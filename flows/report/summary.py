"""A campaign's result in sentences: the morning summary (Markdown) and the lines at the end of a run.

Use: `morning_summary(view, spec, links)` for a mail, a Prefect artifact or a webhook body;
`end_text(view, spec, links)` for the terminal.
Limits: every sentence is derived from lineage by a rule in this file, no model writes it. Hypotheses
are candidate text: they are cut, and their Markdown, links and mentions are made inert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows.report import formatting as w
from flows.report.campaign_digest import Digest, FailureKind, digest, headline, in_sds, loads
from flows.report.overfitting import overfitting_text
from lineage.records import Row, Status
from lineage.safe_text import for_markdown

if TYPE_CHECKING:
    from lineage.environment_spec import EnvironmentSpec
    from lineage.queries import View

LISTED = 5
ENOUGH_TRIALS = 8  # trials of a role before the absence of keeps is reported
DRY_SPELL = 20  # trials without a keep before a campaign is called dry


@dataclass(frozen=True)
class Links:
    """Where a campaign's things are; empty ones are left out of the text."""

    run: str = ""
    report: str = ""
    diff: str = ""
    apply_command: str = ""
    anchor: str = ""


def morning_summary(view: View, spec: EnvironmentSpec, links: Links = Links(), why: str = "") -> str:
    """The whole summary as Markdown; sections without content are left out."""
    d = digest(view, spec)
    trials = view.trials()
    parts = [
        f"# {spec.name}: {_subject(spec, d)}",
        headline(spec, d) + (f" It ended: {why or d.ended_why}." if why or d.ended_why else ""),
        _section("What won", won(spec, d)),
        _section("What was learnt", learnt(view, spec, d)),
        _section("What kept failing", failing(d)),
        _section("What it cost", [cost(d).removeprefix("Cost: ")]),
        _section("What to try next", next_steps(trials, spec, d)),
        _section("Where things are", _where(links)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def end_text(view: View, spec: EnvironmentSpec, links: Links = Links(), why: str = "") -> str:
    """A few plain lines for the end of a run: tried, won, by how much against the noise, where."""
    d = digest(view, spec)
    lines = [headline(spec, d)]
    outcome = f"{w.count(d.trials, 'trial')} besides the baseline: {w.count(d.keeps, 'keep')}, {d.confirmed} confirmed"
    failed = d.trials - d.valid
    if failed:
        worst = ", ".join(f"{f.cause} {f.n}" for f in d.failures[:4])
        outcome += f"; {failed} without a valid score ({worst})"
    lines.append(outcome + ".")
    if d.noise_sd is not None:
        lowered = d.baseline.throttled_runs if d.baseline is not None else 0
        slow = f"; in {w.count(lowered, 'run')} of them the device's clocks were lowered" if lowered else ""
        lines.append(f"Measured noise: {w.score_text(spec, d.noise_sd)} (sd of {d.noise_from}{slow}).")
    lines.append(cost(d))
    if why or d.ended_why:
        lines.append(f"Ended: {why or d.ended_why}.")
    for name, value in (
        ("run", links.run),
        ("diff", links.diff),
        ("report", links.report),
        ("apply", links.apply_command),
        ("anchor", links.anchor),
    ):
        if value:
            lines.append(f"{name + ':':<8}{value}")
    return "\n".join(lines)


def won(spec: EnvironmentSpec, d: Digest) -> list[str]:
    base = d.baseline.score if d.baseline else None
    lines = []
    for row in list(reversed(d.champions))[:LISTED]:
        lines.append(
            f"**{row.trial}** ({row.role}): {_measured(spec, d, row, base)}. {for_markdown(row.hypothesis or '')}"
        )
    if len(d.champions) > LISTED:
        lines.append(f"{len(d.champions) - LISTED} earlier champions are in the report.")
    if d.unconfirmed_leader is not None:
        row = d.unconfirmed_leader
        text = _measured(spec, d, row, base)
        lines.append(
            f"Measured once, not confirmed: **{row.trial}** ({row.role}), {text}. {for_markdown(row.hypothesis or '')}"
        )
    return lines


def _measured(spec: EnvironmentSpec, d: Digest, row: Row, base: float | None) -> str:
    score = d.score_of(row)
    text = w.score_text(spec, score)
    if row.trial in d.fresh and row.score is not None:
        text += f" on fresh seeds ({w.score_text(spec, row.score)} when first measured)"
    gain = w.relative(spec, score, base)
    text += f", {w.better_or_worse(gain)} than the baseline" if gain is not None else ""
    sds = in_sds(spec, score, base, d.noise_sd)
    text += f", {sds:.1f} noise sd" if sds is not None else ""
    if row.p_value is not None:
        text += f", {w.p_text(row.p_value)}"
    if row.sealed_score is not None:
        text += f"; on the sealed split {w.score_text(spec, row.sealed_score)}"
        told = w.sealed_gain(d.sealed[row.trial]) if row.trial is not None and row.trial in d.sealed else ""
        text += f", {told}" if told else ""
    elif row.trial in d.unsealed:
        text += "; its score on the sealed split is missing, `bakeoff resume` measures it"
    return text


def learnt(view: View, spec: EnvironmentSpec, d: Digest) -> list[str]:
    """Counts with their intervals: which roles and kinds of edit paid, which did not, how good forecasts were."""
    lines = []
    paid = [g for g in d.roles if g.keeps][:3]
    if paid:
        told = (
            f"{g.key} {g.keeps} of {g.n} ({w.percent(g.hit_low, 0, sign=False)} to {w.percent(g.hit_high, 0, sign=False)})"
            for g in paid
        )
        lines.append("Keeps by role, with 95 % intervals: " + ", ".join(told) + ".")
    dry = [g for g in d.roles if not g.keeps and g.n >= ENOUGH_TRIALS]
    if dry:
        lines.append("No keep from " + ", ".join(f"{g.key} ({g.n} trials)" for g in dry) + ".")
    kinds = [rate for rate in view.hit_rates("edit_kind") if rate.n >= ENOUGH_TRIALS]
    if len(kinds) > 1:
        best = max(kinds, key=lambda rate: (rate.keeps / rate.n, rate.key))
        least = min(kinds, key=lambda rate: (rate.keeps / rate.n, rate.key))
        if best.key != least.key:
            lines.append(
                f"Kind of edit that paid most: {for_markdown(best.key)}, {best.keeps} of {best.n}; "
                f"least: {for_markdown(least.key)}, {least.keeps} of {least.n}."
            )
    f = d.forecasts
    if f.n >= ENOUGH_TRIALS:
        rank = "" if f.rank is None else f"; rank correlation with the outcome {w.number(f.rank, 2)}"
        lines.append(f"Forecasts: {f.right_sign} of {f.n} had the right direction{rank}.")
    overfit = overfitting_text(view, spec)
    return [*lines, overfit] if overfit else lines


def failing(d: Digest) -> list[str]:
    failed = sum(f.n for f in d.failures)
    lines = [_failure(f, failed) for f in d.failures[:LISTED]]
    if d.spent.cpu_s and d.spent.failed_cpu_s:
        share = d.spent.failed_cpu_s / d.spent.cpu_s
        lines.append(
            f"{w.percent(share, 0, sign=False)} of the candidates' CPU time went into trials without a valid score."
        )
    return lines


def _failure(f: FailureKind, failed: int) -> str:
    said = (
        str(loads(f.example.detail_json).get("label") or "")
        or (f.example.error_excerpt or "").strip().rpartition("\n")[2]
    )
    text = f"**{f.cause}** ({f.status}): {f.n} of {failed}"
    return text + (f"; last {f.example.trial}: {for_markdown(said, 160)}" if said else "")


def cost(d: Digest) -> str:
    s = d.spent
    parts = []
    if s.usd or s.tokens:
        parts.append(f"{w.money(s.usd)} for {s.tokens:,} tokens")
    if unknown := d.unpriced:
        parts.append(f"{w.count(unknown, 'proposal')} of a coding agent at unknown cost")
    if s.cpu_s:
        parts.append(f"{w.seconds(s.cpu_s)} of CPU time")
    if s.wall_s is not None:
        parts.append(f"{w.seconds(s.wall_s)} on the clock")
    each = f"; {w.money(s.usd / d.keeps)} a keep" if s.usd and d.keeps and not d.unpriced else ""
    return "Cost: " + (", ".join(parts) or "nothing recorded") + each + "."


def next_steps(trials: Sequence[Row], spec: EnvironmentSpec, d: Digest) -> list[str]:
    """Rules, not opinions: near misses to repair, a leader to confirm, a role to rest, a dry spell to end."""
    lines = []
    if d.unconfirmed_leader is not None:
        lines.append(f"Confirm {d.unconfirmed_leader.trial}: it leads by one measurement only.")
    for row in near_misses(trials, spec, d):
        said = str(loads(row.detail_json).get("label") or "") or ", ".join(
            f"{key} {value}" for key, value in list(loads(row.numbers_json).items())[:4]
        )
        broke = for_markdown(row.cause or str(row.status)) + (f": {for_markdown(said, 160)}" if said else "")
        lines.append(f"Repair {row.trial} ({row.role}): {w.score_text(spec, row.score)} would lead; {broke}.")
    if d.failures and d.failures[0].n >= 5 and d.failures[0].n * 4 >= d.trials:
        lines.append(
            f"Every fourth trial or more ended as {d.failures[0].cause}: a cheaper check or a clearer brief would save it."
        )
    since = next((i for i, row in enumerate(reversed(trials)) if row.status == Status.KEEP), len(trials))
    if since >= DRY_SPELL:
        lines.append(
            f"No keep in the last {since} trials: change the roster, the model or the surfaces before spending more."
        )
    for group in d.roles:
        if not group.keeps and group.n >= 2 * ENOUGH_TRIALS:
            lines.append(
                f"Rest {group.key}: no keep in {group.n} trials (at most {w.percent(group.hit_high, 0, sign=False)} by the interval)."
            )
            break
    if not lines and d.improved:
        lines.append("Continue from the champion with `bakeoff resume`, or merge it and calibrate again.")
    return lines or ["Give it more trials: there is not enough here to say more."]


def near_misses(trials: Sequence[Row], spec: EnvironmentSpec, d: Digest) -> list[Row]:
    """Trials whose score would lead but that broke a hard limit: the ones worth one more edit."""
    best = d.score_of(d.leader or d.incumbent or d.baseline)
    if best is None:
        return []
    barred = (
        Status.SIZE_BLOCKED,
        Status.DISQUALIFIED,
        Status.TRAIN_BUDGET_OVERRUN,
        Status.EVAL_BUDGET_OVERRUN,
    )
    found = [
        row
        for row in trials
        if row.status in barred
        and row.cause in ("oversize", "gate_missed", "cpu_cap", "wall_cap")
        and row.score is not None
        and spec.sign * (row.score - best) > 0
    ]
    return sorted(found, key=lambda row: -spec.sign * (row.score or 0.0))[:3]


def _subject(spec: EnvironmentSpec, d: Digest) -> str:
    if d.improved and d.incumbent is not None and d.baseline is not None:
        gain = w.relative(spec, d.score_of(d.incumbent), d.baseline.score)
        return f"{w.better_or_worse(gain)}, confirmed" if gain is not None else "a confirmed champion"
    return "nothing confirmed" if d.trials else "nothing tried"


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"## {title}", "", *(f"- {line}" for line in lines)]) if lines else ""


def _where(links: Links) -> list[str]:
    named = (
        ("Run", links.run),
        ("Report", links.report),
        ("Diff", links.diff),
        ("Apply the winner", links.apply_command),
        ("Lineage anchor", links.anchor),
    )
    return [f"{name}: `{value}`" for name, value in named if value]
