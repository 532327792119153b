"""What a trial's proposal may cost and what it has cost, in the store, so that it holds wherever the trial runs.

The campaign reserves an `Allowance` in the claim on a trial's id, before the trial starts. After each reply of a model
the process that asked records the cost so far (`paid-<session>-<number>`), so a session that is killed has still been
paid for: the trial's row counts it, and until that row exists the campaign counts the whole allowance.
Limits: a reply that was under way at the moment of the kill is in no record.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from typing import Any

from pydantic import Field

from flows.engine.engine import Engine
from flows.engine.live_events import Note
from flows.engine.stage_records import TrialRef
from lineage.errors import StoreUnavailable
from lineage.queries import View
from lineage.records import Allowance, Proposal, Record, Row, Usage
from lineage.store.results import get_result, list_results, put_result

COUNTS = ("calls", "tokens_in", "tokens_out", "tokens_cache_read", "tokens_cache_write", "usd", "searches")


class Submission(Record):
    """The claim on a trial id: written once, before anything of the trial happens."""

    trial: str
    role: str
    at: datetime
    allowance: Allowance = Allowance()
    # left out where there is none, so that the bytes of claims stored before stay what they are
    client_proposal: str = Field(
        "", description="the client's proposal that it takes", exclude_if=lambda value: not value
    )


def allowed(engine: Engine, ref: TrialRef) -> dict[str, Any]:
    """What a request to the proposer says about money: what is left of the trial's allowance, and whom to tell."""
    if not hasattr(engine.proposer, "worst_call"):
        return {}  # it costs nothing
    raw = get_result(engine.store, ref.campaign, ref.trial, "submit")
    claim = Submission.model_validate_json(raw) if raw is not None else None
    allowance = claim.allowance if claim is not None else Allowance()
    used = paid_by(engine, ref.trial)
    if used.usd and allowance.usd is not None:
        allowance = allowance.model_copy(update={"usd": max(0.0, allowance.usd - used.usd)})
    if allowance.tokens is not None:
        tokens = used.tokens_in + used.tokens_out + used.tokens_cache_read + used.tokens_cache_write
        allowance = allowance.model_copy(update={"tokens": max(0, allowance.tokens - tokens)})
    session, replies = os.urandom(4).hex(), 0

    def paid(usage: Usage) -> None:
        nonlocal replies
        replies += 1
        name = f"paid-{session}-{replies:04d}"
        try:
            put_result(engine.store, ref.campaign, ref.trial, name, usage.model_dump_json().encode())
        except StoreUnavailable as away:  # the session goes on; its row says what it cost
            engine.emit(Note(f"{ref.trial}: a reply's cost was not recorded: {away}"))

    return {"allowance": allowance, "paid": paid}


def paid_by(engine: Engine, trial: str) -> Usage:
    """What all sessions of a trial have cost so far, killed ones too."""
    newest: dict[str, str] = {}
    for name in list_results(engine.store, engine.config.id, trial):
        if name.startswith("paid-"):
            newest[name.rsplit("-", 1)[0]] = name  # sorted, and each holds the session's whole cost
    total = Usage()
    for name in newest.values():
        raw = get_result(engine.store, engine.config.id, trial, name)
        if raw is not None:
            total = total + Usage.model_validate_json(raw)
    return total


def cost_of(engine: Engine, view: View, trial: str, said: Usage) -> Usage:
    """What the trial's row says it cost: every session of it, without those that an outage row told already."""
    if not hasattr(engine.proposer, "worst_call"):
        return said
    paid, told = paid_by(engine, trial), Usage()
    for row in view.events("campaign"):
        if row.operator == "outage" and json.loads(row.detail_json).get("trial") == trial:
            told = told + _usage(row)
    best = {name: max(getattr(said, name), getattr(paid, name) - getattr(told, name)) for name in COUNTS}
    return said.model_copy(update=best)


def reserved(engine: Engine, view: View, known: dict[str, Usage]) -> dict[str, Usage]:
    """Open trial to what it counts for: its proposal's cost once there is one, its whole allowance until then.

    `known` remembers the proposals that were read.
    """
    counted: dict[str, Usage] = {}
    for row in view.open_trials():
        trial = row.trial or ""
        if trial not in known:
            raw = get_result(engine.store, engine.config.id, trial, "propose")
            if raw is not None:
                said = Proposal.model_validate_json(raw).usage
                known[trial] = cost_of(engine, view, trial, said)
        if trial in known:
            counted[trial] = known[trial]
            continue
        claim = get_result(engine.store, engine.config.id, trial, "submit")
        limit = Submission.model_validate_json(claim).allowance if claim is not None else Allowance()
        counted[trial] = Usage(usd=limit.usd or 0.0, tokens_in=limit.tokens or 0)
    return counted


def _usage(row: Row) -> Usage:
    return Usage(**{name: getattr(row, name) for name in COUNTS if name not in ("calls", "searches")})
