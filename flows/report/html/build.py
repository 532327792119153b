"""Build the report page: `build_report(view, spec, blob, out_path, meta)` -> the path written.

Use: `bakeoff report RUN`; also after every campaign. `render` gives the text without writing it.
Limits: the page stays under `limit_bytes` at any number of trials by leaving out, in this order, the
diffs of the least important trials, long notes, and log excerpts; what is missing is said in place.
A browser from 2023 or later is needed (DecompressionStream); without JavaScript the head of the page,
with the verdict and the champions, still reads.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from flows.report import formatting as w
from flows.report import slot_time
from flows.report.campaign_digest import Digest, digest, headline, loads, title_line
from flows.report.html.compress import columns, diff_order, fit_diffs, fit_texts, squeeze, tidy
from flows.report.overfitting import overfitting_text
from flows.report.prune_checks import prunes_text
from lineage.records import Row
from lineage.safe_text import one_line

if TYPE_CHECKING:
    from lineage.environment_spec import EnvironmentSpec
    from lineage.queries import View

LIMIT_BYTES = 1_900_000
SCRIPTS = ("core", "charts", "curve", "tree", "table", "panel", "figures", "main")


@dataclass(frozen=True)
class Meta:
    """What the page needs besides lineage. `reload_s` > 0 makes an open page reload itself.

    `certificate`: name of the file beside the page, empty while there is none.
    """

    run: str = ""
    version: str = ""
    generated: datetime | None = None
    anchor: str = ""
    apply_command: str = ""
    certify_command: str = ""
    certificate: str = ""
    layers: tuple[str, ...] = ()
    not_held: tuple[str, ...] = ()
    reload_s: int = 0


def build_report(
    view: View,
    spec: EnvironmentSpec,
    blob: Callable[[str], bytes],
    out_path: str | Path,
    meta: Meta | None = None,
    *,
    limit_bytes: int = LIMIT_BYTES,
) -> Path:
    """Write the page beside its final name and move it there, so that a reader never sees half of one."""
    path = Path(out_path)
    text = render(view, spec, blob, meta or Meta(), limit_bytes=limit_bytes)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path


def render(
    view: View,
    spec: EnvironmentSpec,
    blob: Callable[[str], bytes],
    meta: Meta,
    *,
    limit_bytes: int = LIMIT_BYTES,
) -> str:
    rows = view.trials()
    facts = digest(view, spec)
    script, style = _script(), _asset("style.css")
    table = squeeze({"columns": columns(rows), **_about(view, spec, facts, meta)})
    left = limit_bytes - len(table) - len(script) - len(style) - 40_000
    texts, chars = fit_texts(rows, int(left * 0.6))
    wanted = diff_order(rows, [row.trial for row in (facts.incumbent, facts.leader) if row])
    blocks, missing = fit_diffs(wanted, blob, left - len(texts))
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            spec=spec,
            d=facts,
            meta=meta,
            title=_tight(title_line(spec, facts)),
            headline=_tight(headline(spec, facts)),
            tiles=[tuple(map(_tight, tile)) for tile in _tiles(spec, facts)],
            champions=[_champion(spec, facts, row) for row in reversed(facts.champions)],
            gap=_tight(overfitting_text(view, spec)),
            w=w,
            pruning=prunes_text(facts.prunes),
            slot_line=slot_time.line(facts.slot_time) if facts.slot_time else "",
            slot_parts=slot_time.segments(facts.slot_time) if facts.slot_time else [],
            generated=(meta.generated or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
            csp=_policy(script, style),
            style=Markup(style),
            script=Markup(script),
            table=Markup(table),
            texts=Markup(texts),
            cuts=",".join(map(str, chars)),
            blocks=[(",".join(map(str, of)), Markup(packed)) for of, packed in blocks],
            missing=missing,
        )
    )


def _about(view: View, spec: EnvironmentSpec, d: Digest, meta: Meta) -> dict[str, object]:
    def named(row: Row | None) -> str | None:
        return row.trial if row else None

    return {
        "campaign": d.campaign,
        "run": meta.run,
        "reload": meta.reload_s,
        "env": {
            "name": spec.name,
            "metric": spec.score.metric,
            "unit": spec.score.unit,
            "digits": spec.score.digits,
            "sign": spec.sign,
            "min_gain": spec.evaluation.min_gain,
            "gates": [gate.model_dump() for gate in spec.gates],
        },
        "noise": tidy(d.noise_sd),
        "baseline": named(d.baseline),
        "incumbent_now": named(d.incumbent),
        "leader": named(d.leader),
        "champions": [row.trial for row in d.champions],
        "best": [[trial, tidy(score)] for _, trial, score in view.best_so_far()],
        "roles": [asdict(group) for group in d.roles],
        "makers": [{**asdict(group), "cost_per_keep": group.cost_per_keep} for group in d.makers],
        "arms": [asdict(group) for group in d.arms],
        "forecasts": asdict(d.forecasts),
        "spent": {**asdict(d.spent), "tokens": d.spent.tokens},
        "confirmations": [_confirmation(row) for row in d.fresh.values()],
        "events": [_event(row) for row in (*view.events("campaign"), *view.events("intervention"))],
    }


def _confirmation(row: Row) -> dict[str, object]:
    """The last confirmation of a trial: its fresh replicates and the incumbent's beside them."""
    facts = loads(row.detail_json)
    theirs = facts.get("incumbent_scores")
    return {
        "trial": row.trial,
        "over": row.incumbent,
        "score": tidy(row.score),
        "ours": [tidy(x) for x in row.scores],
        "theirs": [tidy(x) for x in theirs if isinstance(x, int | float)] if isinstance(theirs, list) else [],
        "reason": str(facts.get("reason") or "")[:40],
    }


def _event(row: Row) -> dict[str, object]:
    at = row.t_started or row.t_finished
    return {
        "kind": row.event,
        "t": at.timestamp() if at else None,
        "trial": row.trial,
        "what": row.operator or "",
        "why": one_line(row.notes or "", 300),
    }


def _tiles(spec: EnvironmentSpec, d: Digest) -> list[tuple[str, str, str]]:
    """(name, value, small print) for the head of the page."""
    base = d.baseline.score if d.baseline else None
    tiles = []
    if d.incumbent is not None:
        score = d.score_of(d.incumbent)
        gain = w.relative(spec, score, base)
        small = "the baseline" if not d.improved else f"{d.incumbent.trial}, {w.percent(gain)}"
        tiles.append(("Confirmed best", w.score_text(spec, score), small))
    if d.unconfirmed_leader is not None:
        row = d.unconfirmed_leader
        tiles.append(("Measured once", w.score_text(spec, row.score), f"{row.trial}, not confirmed"))
    if d.improved and d.incumbent is not None and d.incumbent.sealed_score is not None:
        tiles.append(("Sealed split", w.score_text(spec, d.incumbent.sealed_score), "never shown to agents"))
    if d.noise_sd is not None:
        runs = f"sd of {d.noise_from}" if d.noise_runs else "sd of the baseline"
        tiles.append(("Noise", w.score_text(spec, d.noise_sd), runs))
    rate = w.percent(d.keeps / d.trials, 1, sign=False) if d.trials else w.DASH
    tiles.append(("Trials", f"{d.trials:,}", f"{w.count(d.keeps, 'keep')} ({rate}), {d.confirmed} confirmed"))
    failed = d.trials - d.valid
    tiles.append(
        ("No valid score", f"{failed:,}", w.count(len(d.failures), "cause") if failed else "none failed")
    )
    spent = f"{d.spent.tokens:,} tokens" if d.spent.tokens else "no model call recorded"
    tiles.append(("Spent", w.money(d.spent.usd), spent))
    if d.spent.cpu_s:
        tiles.append(
            ("Compute", w.seconds(d.spent.cpu_s), f"CPU time; {w.seconds(d.spent.wall_s)} on the clock")
        )
    elif d.spent.wall_s:
        tiles.append(("Duration", w.seconds(d.spent.wall_s), "on the clock"))
    return tiles


def _champion(spec: EnvironmentSpec, d: Digest, row: Row) -> dict[str, str]:
    base = d.baseline.score if d.baseline else None
    fresh = d.fresh.get(row.trial or "")
    step = w.signed(spec, row.gain)
    if row.gain_low is not None and row.gain_high is not None:
        step += (
            f" ({w.number(row.gain_low, spec.score.digits)} to {w.number(row.gain_high, spec.score.digits)})"
        )
    return {
        "trial": row.trial or "",
        "role": w.author(row),
        "once": w.score_text(spec, row.score, unit=False),
        "fresh": w.score_text(spec, d.score_of(row), unit=False) if fresh is not None else w.DASH,
        "runs": str(len(fresh.scores)) if fresh is not None and fresh.scores else "",
        "gain": w.percent(w.relative(spec, d.score_of(row), base)),
        "over": (fresh.incumbent if fresh is not None else None) or w.DASH,
        "step": step,
        "p": w.DASH if row.p_value is None else f"{row.p_value:.2g}",
        "sealed": w.score_text(spec, row.sealed_score, unit=False),
        "hypothesis": one_line(row.hypothesis or "", 240),
    }


def _tight(text: str) -> str:
    """Keep a number and its unit on one line."""
    text = re.sub(r"(?<=\d) (?=(?:%|s|min|h|sd|kB|MB|GB|[CG]PU-s)\b|%)", "\u00a0", text)
    return text.replace("PU-s", "PU-\u2060s")  # a word joiner: no line ends at the hyphen


@cache
def _asset(name: str) -> str:
    return files("flows.report.html.assets").joinpath(name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    body = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    return '(async () => {\n"use strict";\n' + body + "\n})();"


def _policy(script: str, style: str) -> str:
    """Only this very script and style may run: markup that slipped through escaping would stay dead text."""

    def allow(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {allow(script)}; style-src {allow(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FunctionLoader(lambda name: _asset(name))
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
