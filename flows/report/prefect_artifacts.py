"""What the Prefect UI shows beside the timeline: a score card per role and the campaign's table.

Keys are per role, not per trial, so that each is one card with a history instead of thousands of
cards. Diffs are cut at a few KB; the store has the whole diff. A server fault never fails a trial.
"""

from __future__ import annotations

import json
import re

from prefect.artifacts import acreate_markdown_artifact

from flows.engine.engine import Engine
from flows.engine.live_events import Note
from flows.report.formatting import percent, relative_delta
from lineage.errors import StoreError
from lineage.queries import View
from lineage.records import Row
from lineage.store.blobs import get_blob

DIFF_LIMIT = 4000
TABLE_ROWS = 500


def key(*parts: str) -> str:
    """Prefect artifact keys are lower case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


async def publish_trial(engine: Engine, row: Row) -> None:
    try:
        await acreate_markdown_artifact(
            key=key("trial", engine.config.id, row.role or "none"),
            markdown=trial_markdown(engine, row),
            description=f"{row.trial}: {row.status}" + (f" ({row.cause})" if row.cause else ""),
        )
    except Exception as error:  # display only: the row is already in the store
        engine.emit(Note(f"Prefect artifact of {row.trial} was not written: {error!r}"[:300]))


def trial_markdown(engine: Engine, row: Row) -> str:
    spec = engine.config.spec
    change = relative_delta(row)
    lines = [f"# {row.trial} · {row.role} · {row.status}", "", row.hypothesis or ""]
    lines += ["", "| | |", "|---|---|"]
    if row.score is not None:
        lines.append(f"| {spec.score.metric} ({spec.score.unit}) | {row.score:.{spec.score.digits}f} |")
    if change is not None:
        leader = json.loads(row.detail_json).get("leader") or {}
        lines.append(f"| against the leader {leader.get('trial', '')} | {percent(change, 1)} |")
    lines += [f"| {name} | {value} |" for name, value in json.loads(row.quantities_json).items()]
    lines += [f"| {name} | {value} |" for name, value in json.loads(row.numbers_json).items()]
    if row.cause:
        lines.append(f"| cause | {row.cause} |")
    lines.append(f"| store | {engine.root} |")
    if row.diff_sha256:
        lines += ["", "```diff", _diff(engine, row.diff_sha256), "```"]
    return "\n".join(lines)


def _diff(engine: Engine, sha: str) -> str:
    try:
        text = get_blob(engine.store, sha).decode(errors="replace")
    except StoreError as error:
        return f"(not readable: {error})"
    fenced = text.replace("```", "'''")
    return (
        fenced
        if len(fenced) <= DIFF_LIMIT
        else fenced[:DIFF_LIMIT] + f"\n... {len(fenced) - DIFF_LIMIT} more characters in the store"
    )


def campaign_markdown(engine: Engine, view: View, why: str) -> str:
    """The campaign's table of trials, who leads, and how it ended."""
    spec = engine.config.spec
    lines = [f"# {engine.config.id}", "", f"Ended: {why}. Store: {engine.root}", ""]
    leaderboard = view.ranking
    leader = leaderboard.leader()
    lines += [f"Confirmed best: {leaderboard.incumbent}. Leader: {leader[0] if leader else 'none'}.", ""]
    lines += [f"| trial | role | status | {spec.score.metric} | hypothesis |", "|---|---|---|---|---|"]
    for row in view.trials()[-TABLE_ROWS:]:
        quoted = view.quoted(row.trial or "")
        score = f"{quoted:.{spec.score.digits}f}" if quoted is not None else "–"
        outcome = f"{row.status}" + (f" ({row.cause})" if row.cause else "")
        hypothesis = (row.hypothesis or "").replace("|", "\\|")[:120]
        lines.append(f"| {row.trial} | {row.role} | {outcome} | {score} | {hypothesis} |")
    return "\n".join(lines)


async def publish_campaign(engine: Engine, why: str) -> None:
    view = engine.view()
    try:
        await acreate_markdown_artifact(
            key=key("campaign", engine.config.id),
            markdown=campaign_markdown(engine, view, why),
            description=f"{view.count()} trials",
        )
    except Exception as error:  # display only
        engine.emit(Note(f"Prefect artifact of the campaign was not written: {error!r}"[:300]))
