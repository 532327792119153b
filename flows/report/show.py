"""What `bakeoff show`, `diff` and `environments` print, as rich renderables and as JSON.

Use: `campaign_view(view, spec)`, `trial_view(view, spec, row)`, `campaign_json`, `trial_json`, `diff_view(trial_diff(row, blob))`,
`environments_table(rows)`; `find_trial(view, text)` for what a person typed.
Limits: pure; nothing is read but the view and the `blob` callable. All candidate text is stripped of
control characters and never read as console markup.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.report import formatting as w
from flows.report import slot_time
from flows.report.campaign_digest import Digest, FailureKind, RoleFigures, digest, headline, in_sds, loads
from flows.report.device_facts import devices_text
from flows.report.prune_checks import prunes_text
from flows.report.terminal.live_view import glyph
from lineage.errors import StoreError, UnknownName
from lineage.records import STAGES, Row, Status
from lineage.safe_text import for_terminal, one_line
from lineage.script_task import NOT_APPLICABLE, TRUST_MEANS

if TYPE_CHECKING:
    from lineage.environment_spec import EnvironmentSpec
    from lineage.queries import View

RECENT = 15
SOFT = "bright_black"
DIFF_STYLES = (("+++", "bold"), ("---", "bold"), ("@@", "cyan"), ("+", "green"), ("-", "red"))


def find_trial(view: View, text: str) -> Row:
    """The trial a person means: `t0042`, `42`, `#42`, `best`, `leader`, `baseline`, `last`. Raises UnknownName."""
    named = {
        "best": view.row_of_incumbent,
        "champion": view.row_of_incumbent,
        "leader": view.row_of_leader,
        "baseline": view.baseline,
    }
    wanted = text.strip().lstrip("#")
    if wanted in named:
        row = named[wanted]()
    elif wanted == "last":
        row = next(iter(view.trials()[-1:]), None)
    else:
        row = view.trial(wanted)
        if row is None and wanted.isdigit():
            row = view.trial(f"t{int(wanted):04d}")
    if row is None:
        known = [*named, "last", *(r.trial or "" for r in view.trials())]
        raise UnknownName("trial", text, known, f"campaign {view.campaign} has {view.count()} trials")
    return row


def _table(*columns: tuple[str, str], expand: bool = False) -> Table:
    table = Table(expand=expand, box=None, padding=(0, 2, 0, 0), header_style=SOFT, pad_edge=False)
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "right" else "left")
    return table


def _pairs(pairs: Sequence[tuple[str, str | Text | None]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, value in pairs:
        if value is not None and str(value) not in ("", w.DASH):
            grid.add_row(Text(name, style=SOFT), value if isinstance(value, Text) else Text(value))
    return grid


def _heading(text: str) -> Text:
    return Text("\n" + text, style="bold")


def campaign_view(view: View, spec: EnvironmentSpec, *, recent: int = RECENT) -> RenderableType:
    d = digest(view, spec)
    parts: list[RenderableType] = [
        Text(headline(spec, d), style="bold green" if d.improved else "bold"),
        _pairs(_campaign_facts(spec, d)),
    ]
    trials = view.trials()
    if trials:
        shown = trials[-recent:] if recent > 0 else trials
        parts += [
            _heading(f"Last {len(shown)} of {w.count(len(trials), 'trial')}"),
            trials_table(shown, spec, d),
        ]
    if d.roles:
        parts += [_heading("Roles"), roles_table(d.roles, "role")]
    if len(d.makers) > 1:
        parts += [_heading("Proposers"), roles_table(d.makers, "proposer")]
    if d.failures:
        parts += [_heading("Failures"), failures_table(d)]
    return Group(*parts)


def _campaign_facts(spec: EnvironmentSpec, d: Digest) -> list[tuple[str, str | Text | None]]:
    lucky = d.unconfirmed_leader
    noise = f"{w.score_text(spec, d.noise_sd)} (sd of {d.noise_from})" if d.noise_sd is not None else None
    return [
        ("campaign", d.campaign),
        ("forked from", d.forked_from),
        (
            "trials",
            f"{d.trials:,}: {w.count(d.keeps, 'keep')}, {d.confirmed} confirmed"
            + (f", {d.open_trials} open" if d.open_trials else ""),
        ),
        ("baseline", w.score_text(spec, d.baseline.score) if d.baseline else None),
        (
            "confirmed best",
            f"{d.incumbent.trial} {w.score_text(spec, d.score_of(d.incumbent))}"
            if d.improved and d.incumbent
            else None,
        ),
        (
            "measured once",
            f"{lucky.trial} {w.score_text(spec, lucky.score)}, not confirmed" if lucky else None,
        ),
        ("noise", noise),
        ("spent", f"{w.money(d.spent.usd)}, {d.spent.tokens:,} tokens" if d.spent.tokens else None),
        ("unknown cost", f"{w.count(d.unpriced, 'proposal')} of a coding agent" if d.unpriced else None),
        (
            "compute",
            f"{w.seconds(d.spent.cpu_s)} CPU, {w.seconds(d.spent.wall_s)} on the clock"
            if d.spent.cpu_s
            else None,
        ),
        ("time", slot_time.line(d.slot_time) if d.slot_time else None),
        ("", slot_time.bar(d.slot_time) if d.slot_time else None),
        ("pruning", prunes_text(d.prunes)),
        ("isolation", ", ".join(d.isolation)),
        ("trust", f"{spec.trust}: {TRUST_MEANS[spec.trust]}"),
        ("", _left_out(spec)),
        ("ended", d.ended_why),
    ]


def _left_out(spec: EnvironmentSpec) -> str | None:
    """What a measurement of this environment cannot have."""
    if spec.task.kind != "script":
        return None
    return NOT_APPLICABLE + ("" if spec.has_sealed_split else ", sealed split")


def trials_table(rows: Sequence[Row], spec: EnvironmentSpec, d: Digest) -> Table:
    table = _table(
        ("", ""),
        ("trial", ""),
        ("role", ""),
        ("outcome", ""),
        ("score", "right"),
        ("vs baseline", "right"),
        ("parent", ""),
        ("hypothesis", ""),
        expand=True,
    )
    for column, wrap in zip(table.columns, (0, 0, 0, 0, 0, 0, 0, 1), strict=True):
        column.no_wrap, column.overflow = True, "ellipsis"
        column.ratio = 1 if wrap else None
    base = d.baseline.score if d.baseline else None
    for row in rows:
        gain = None if row.status == Status.BASELINE else w.relative(spec, row.score, base)
        table.add_row(
            glyph(row),
            Text(row.trial or "", style="bold" if row.verdict == "confirmed" else ""),
            Text(one_line(w.author(row), 18)),
            Text(w.outcome(row)),
            Text(w.score_text(spec, row.score, unit=False)),
            Text(
                w.percent(gain),
                style="green" if gain is not None and gain > 0 and row.status == Status.KEEP else "",
            ),
            Text(row.parent or w.DASH, style=SOFT),
            Text(one_line(row.hypothesis or "", 240), style=SOFT),
        )
    return table


def roles_table(figures: Sequence[RoleFigures], what: str) -> Table:
    table = _table(
        (what, ""),
        ("trials", "right"),
        ("valid", "right"),
        ("keeps", "right"),
        ("hit rate, 95 %", "right"),
        ("best", "right"),
        ("CPU", "right"),
        ("cost", "right"),
        ("a keep", "right"),
    )
    for g in figures:
        interval = f"{w.percent(g.hit_rate, 1, sign=False)} ({w.percent(g.hit_low, 0, sign=False)} to {w.percent(g.hit_high, 0, sign=False)})"
        unknown = f"{g.unpriced} unknown" if g.unpriced else ""
        cost = " + ".join(filter(None, (w.money(g.usd) if g.usd else "", unknown))) or w.DASH
        table.add_row(
            Text(one_line(g.key, 40)),
            str(g.n),
            str(g.valid),
            str(g.keeps),
            interval,
            w.percent(g.best_gain),
            w.seconds(g.cpu_s or None),
            cost,
            w.money(g.cost_per_keep) if g.cost_per_keep else w.DASH,
        )
    return table


def failures_table(d: Digest) -> Table:
    table = _table(
        ("n", "right"), ("cause", ""), ("status", ""), ("last", ""), ("what it said", ""), expand=True
    )
    last = table.columns[-1]
    last.no_wrap, last.overflow, last.ratio = True, "ellipsis", 1
    for f in d.failures[:10]:
        said = (
            str(loads(f.example.detail_json).get("label") or "")
            or (f.example.error_excerpt or "").strip().rpartition("\n")[2]
        )
        table.add_row(
            str(f.n),
            Text(one_line(f.cause, 32)),
            Text(f.status),
            Text(f.example.trial or ""),
            Text(one_line(said, 160), style=SOFT),
        )
    return table


def trial_view(view: View, spec: EnvironmentSpec, row: Row, *, diff: str | None = None) -> RenderableType:
    base = view.baseline()
    again = next((r for r in reversed(view.events("confirmation")) if r.trial == row.trial), None)
    title = Text.assemble((row.trial or "", "bold"), f"  {w.author(row)}  ", glyph(row), f" {w.outcome(row)}")
    label = str(loads(row.detail_json).get("label") or "")
    parts: list[RenderableType] = [title, Text(for_terminal(row.hypothesis or "no hypothesis recorded"))]
    if label:
        parts.append(Text(one_line(label), style="green" if row.status in w.VALID else "red"))
    parts += [_heading("Measured"), _pairs(_trial_numbers(spec, row, base, again))]
    parts += [_heading("Stages"), _stages(row)]
    if row.error_excerpt and row.status not in w.VALID:
        parts += [_heading("Log (untrusted)"), Text(for_terminal(row.error_excerpt).rstrip(), style=SOFT)]
    parts += [_heading("Lineage"), _pairs(_trial_lineage(view, row))]
    parts += [_heading("Record"), _pairs(_trial_record(row))]
    if diff is not None:
        parts += [_heading("Diff"), diff_view(diff)]
    return Group(*parts)


def _trial_numbers(
    spec: EnvironmentSpec, row: Row, base: Row | None, again: Row | None
) -> list[tuple[str, str | Text | None]]:
    gain = w.relative(spec, row.score, base.score if base and base.trial != row.trial else None)
    pairs: list[tuple[str, str | Text | None]] = [
        ("score", w.score_text(spec, row.score)),
        ("seeds", ", ".join(w.number(x, spec.score.digits) for x in row.scores)),
        ("against baseline", w.percent(gain)),
        ("against parent then", w.gained(spec, row.delta_parent)),
        (f"against leader then{_leader_then(row)}", w.gained(spec, row.delta_best)),
        ("forecast", w.gained(spec, row.expected_delta)),
    ]
    for source in (row.quantities_json, row.numbers_json):
        pairs += [
            (one_line(str(k), 40), one_line(str(v), 120))
            for k, v in loads(source).items()
            if k != spec.score.metric
        ]
    if again is not None:
        pairs.append(("verdict", w.verdict_text(again)))
    pairs.append(("sealed split", w.score_text(spec, row.sealed_score)))
    if row.sealed_gain is not None:
        ends = f"{w.signed(spec, row.sealed_low)} to {w.signed(spec, row.sealed_high)}"
        looks = w.count(row.sealed_looks or 0, "look")
        pairs.append(
            ("sealed gain", f"{w.signed(spec, row.sealed_gain)} ({ends}; {looks}), {row.sealed_verdict}")
        )
    return pairs


def _leader_then(row: Row) -> str:
    """The leader that the label was decided against, with its score of that moment."""
    leader = loads(row.detail_json).get("leader")
    return f" ({leader.get('trial')})" if isinstance(leader, dict) else ""


def _stages(row: Row) -> Text:
    text = Text()
    reached = (
        STAGES.index(row.stage) if row.stage in STAGES and row.status not in w.VALID else len(STAGES) - 1
    )
    for at, stage in enumerate(STAGES):
        took = getattr(row, f"{stage}_s")
        failed = at == reached and row.status not in w.VALID
        style = SOFT if at > reached else "red" if failed else ""
        mark = "○" if at > reached else "✗" if failed else "●"
        text.append(
            f"{mark} {stage} {w.seconds(took) if took is not None else ''}".rstrip() + "   ", style=style
        )
    return text


def _trial_lineage(view: View, row: Row) -> list[tuple[str, str | Text | None]]:
    chain = [r.trial or "" for r in view.chain(row.trial or "")]
    path = " > ".join(chain if len(chain) <= 8 else [*chain[:2], "…", *chain[-5:]])
    children = [r.trial or "" for r in view.children(row.trial or "")]
    listed = ", ".join(children[:12]) + (f" and {len(children) - 12} more" if len(children) > 12 else "")
    written_on = loads(row.detail_json).get("rebased_from")
    moved = f"{one_line(str(written_on), 40)}, overtaken before it could train" if written_on else None
    return [("from", path), ("written on", moved), ("children", listed)]


def _trial_record(row: Row) -> list[tuple[str, str | Text | None]]:
    return [
        ("proposer", " ".join(filter(None, (row.proposer, row.model)))),
        ("edit", " ".join(filter(None, (row.edit_kind, row.operator)))),
        ("agent", agent_text(row)),
        ("research", research_text(row)),
        ("cost", cost_text(row)),
        ("CPU", w.seconds(w.cpu_seconds(row) or None)),
        ("peak memory", w.size(row.peak_bytes)),
        *devices_text(row),
        ("artifact", w.size(row.artifact_bytes)),
        ("isolation", row.isolation),
        ("trust", row.trust if row.event == "trial" else None),
        *(
            (n.removesuffix("_sha256"), getattr(row, n))
            for n in (
                "source_sha256",
                "diff_sha256",
                "prompt_sha256",
                "exchange_sha256",
                "measurement_sha256",
                "evaluator_sha256",
            )
        ),
        ("started", row.t_started.isoformat(" ", "seconds") if row.t_started else None),
    ]


def research_text(row: Row) -> str | None:
    """What a proposal took from the open web; None where it searched nothing."""
    found = loads(row.detail_json).get("research")
    if not isinstance(found, dict):
        return None
    sources = [one_line(str(page), 120) for page in found.get("sources") or ()]
    shown = f": {', '.join(sources[:8])}" if sources else ""
    more = f" and {len(sources) - 8} more" if len(sources) > 8 else ""
    return f"the open web, {int(found.get('searches') or 0)} searches, not reproducible{shown}{more}"


def agent_text(row: Row) -> str | None:
    """The coding agent that made a trial: version, box, length, how it ended; None where none did."""
    agent = loads(row.detail_json).get("agent")
    if not isinstance(agent, dict):
        return None
    boxed = "in a proven box" if agent.get("box") == "proven" else "trusted, without a box"
    turns = w.count(int(agent["turns"]), "turn") if agent.get("turns") else ""
    checks = w.count(int(agent.get("checks") or 0), "check")
    refused = ", ".join(agent.get("refused_hosts") or ())
    parts = (
        " ".join(filter(None, (agent.get("name"), agent.get("version")))),
        boxed,
        w.seconds(agent.get("seconds")),
        turns,
        checks,
        f"ended: {agent.get('ended')}",
        f"asked for {refused} in vain" if refused else "",
    )
    return one_line(", ".join(filter(None, parts)), 300)


def cost_text(row: Row) -> str | None:
    """Dollars and tokens of a proposal; `unknown` where a coding agent did not report them."""
    tokens = row.tokens_in + row.tokens_out + row.tokens_cache_read + row.tokens_cache_write
    agent = loads(row.detail_json).get("agent")
    if not isinstance(agent, dict):
        return f"{w.money(row.usd)}, {tokens:,} tokens" if tokens else None
    dollars = w.money(row.usd) if agent.get("cost") == "reported" else "dollars unknown"
    counted = f"{tokens:,} tokens" if agent.get("tokens") == "reported" else "tokens unknown"
    return f"{dollars}, {counted}" + ("" if agent.get("cost") == "reported" else " (its time is capped)")


def trial_diff(row: Row, blob: Callable[[str], bytes]) -> str:
    """The canonical diff of a trial against its parent; a sentence where there is none."""
    if not row.diff_sha256:
        reason = (
            "it is the recipe as shipped"
            if row.status == Status.BASELINE
            else "the record has no sources"
            if row.status in w.VALID
            else f"{w.outcome(row)}: its edit never became a program"
        )
        return f"# {row.trial} has no diff: {reason}\n"
    try:
        return blob(row.diff_sha256).decode("utf-8", "replace")
    except StoreError as error:
        return f"# the diff of {row.trial} is not in the store: {error}\n"


def diff_view(text: str) -> Text:
    out = Text()
    for line in for_terminal(text).splitlines():
        style = next((style for start, style in DIFF_STYLES if line.startswith(start)), "")
        out.append(line + "\n", style=style)
    return out


def environments_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One line per environment; `rows` are what `bakeoff environments --json` prints."""
    if not rows:
        return Text("no environment found; a folder with an environment.toml under recipes/ is one")
    table = _table(
        ("environment", ""),
        ("score", ""),
        ("gates", ""),
        ("roles", "right"),
        ("on", ""),
        ("data", ""),
        ("what it is", ""),
        expand=True,
    )
    last = table.columns[-1]
    last.no_wrap, last.overflow, last.ratio = True, "ellipsis", 1
    for row in rows:
        better = "lower" if row["direction"] == "min" else "higher"
        gates = ", ".join(_gate(gate) for gate in row.get("gates", ()))
        table.add_row(
            Text(f"  --variant {row['variant']}" if row.get("variant") else str(row["name"]), style="bold"),
            Text(f"{row['metric']}, {better}"),
            Text(gates or w.DASH),
            str(len(row.get("roles", ()))),
            _hardware(row),
            Text("ready", style="green") if row.get("prepared") else Text("not prepared", style="yellow"),
            Text(one_line(str(row.get("title", "")), 120), style=SOFT),
        )
    missing = [str(row.get("called") or row["name"]) for row in rows if not row.get("prepared")]
    hint = Text(f"\nPrepare data with: bakeoff prepare {missing[0]}", style=SOFT) if missing else Text("")
    return Group(table, hint)


def _hardware(row: Mapping[str, Any]) -> Text:
    needed, here = int(row.get("gpus", 0)), int(row.get("gpus_here", 0))
    if not needed:
        return Text("CPU")
    if here >= needed:
        return Text(w.count(needed, "GPU"), style="green")
    return Text(f"needs {w.count(needed, 'GPU')}; this machine has {here or 'none'}", style="yellow")


def _gate(gate: Mapping[str, Any]) -> str:
    low, high = gate.get("at_least"), gate.get("at_most")
    return f"{gate['quantity']} {'≥' if low is not None else '≤'} {low if low is not None else high:,.10g}"


def campaign_json(view: View, spec: EnvironmentSpec) -> dict[str, Any]:
    """The facts of `campaign_view`, for machines."""
    d = digest(view, spec)
    base = d.baseline.score if d.baseline else None

    def brief(row: Row | None) -> dict[str, Any] | None:
        if row is None:
            return None
        return {
            "trial": row.trial,
            "role": row.role,
            "score": row.score,
            "fresh_score": d.means.get(row.trial or ""),
            "gain": w.relative(spec, d.score_of(row), base),
            "noise_sds": in_sds(spec, d.score_of(row), base, d.noise_sd),
            "p_value": row.p_value,
            "sealed_score": row.sealed_score,
            "sealed_gain": row.sealed_gain,
            "sealed_interval": [row.sealed_low, row.sealed_high],
            "sealed_verdict": row.sealed_verdict,
            "trust": row.trust,
            "hypothesis": row.hypothesis,
        }

    return {
        "campaign": d.campaign,
        "environment": spec.name,
        "metric": spec.score.metric,
        "direction": spec.score.direction,
        "unit": spec.score.unit,
        "trust": spec.trust,
        "not_applicable": _left_out(spec),
        "headline": headline(spec, d),
        "trials": d.trials,
        "open": d.open_trials,
        "statuses": dict(d.statuses),
        "confirmed": d.confirmed,
        "improved": d.improved,
        "baseline": brief(d.baseline),
        "incumbent": brief(d.incumbent),
        "leader": brief(d.leader),
        "champions": [brief(row) for row in d.champions],
        "champions_not_sealed": list(d.unsealed),
        "noise_sd": d.noise_sd,
        "noise_runs": d.noise_runs,
        "noise_throttled": d.noise_throttled,
        "roles": [_figures_json(g) for g in d.roles],
        "proposers": [_figures_json(g) for g in d.makers],
        "failures": [_failure_json(f) for f in d.failures],
        "spent": {**asdict(d.spent), "tokens": d.spent.tokens},
        "forecasts": asdict(d.forecasts),
        "pruning": asdict(d.prunes),
        "slot_time": asdict(d.slot_time) if d.slot_time else None,
        "isolation": dict(d.isolation),
        "evaluators": dict(d.evaluators),
        "started": d.started.isoformat() if d.started else None,
        "finished": d.finished.isoformat() if d.finished else None,
        "ended": d.ended_why,
        "forked_from": d.forked_from or None,
    }


def _figures_json(figures: RoleFigures) -> dict[str, Any]:
    return {**asdict(figures), "hit_rate": figures.hit_rate, "cost_per_keep": figures.cost_per_keep}


def _failure_json(kind: FailureKind) -> dict[str, Any]:
    return {"status": kind.status, "cause": kind.cause, "n": kind.n, "last": kind.example.trial}


def trial_json(view: View, row: Row) -> dict[str, Any]:
    """The row as stored, its JSON columns opened, with its place in the lineage."""
    values = row.model_dump(mode="json")
    for name in ("numbers", "quantities", "detail"):
        values[name] = loads(values.pop(f"{name}_json"))
    values["chain"] = [r.trial for r in view.chain(row.trial or "")]
    values["children"] = [r.trial for r in view.children(row.trial or "")]
    return values
