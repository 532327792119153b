"""A proposal that was overtaken while it was written: moved onto the new leader, or dropped where the two conflict.

A model writes for minutes, and with more trials under way than slots the next proposal is ready before the trial
that trains has ended. If that one becomes the leader, an edit of the old leader can hardly win: the same edit of the
new one can. Only a proposal on what led when it was begun is moved; another parent was chosen on purpose.
"""

from __future__ import annotations

from datetime import datetime

from evaluators.standing import book_of
from flows.engine import Engine
from flows.standing import book
from flows.words import TrialRef
from lineage.errors import EditRefused
from lineage.queries import View
from lineage.records import Proposal

FIXED = ("replay", "scripted")  # their parents are part of what is replayed


def base_of(engine: Engine, ref: TrialRef, proposal: Proposal) -> str:
    """The trial whose program the edits are for now: the proposal's parent, or the leader that overtook it."""
    if engine.config.settings.proposer in FIXED:
        return proposal.parent
    view = engine.view()
    leader = book(engine.config, view).leader()
    if leader is None or leader[0] == proposal.parent:
        return proposal.parent
    begun = next((row.t_started for row in view.open_trials() if row.trial == ref.trial), None)
    if begun is None:
        return proposal.parent
    overtook = view.trial(leader[0])
    late = overtook is not None and overtook.t_finished is not None and overtook.t_finished > begun
    return leader[0] if late and _leader_at(engine, view, begun) == proposal.parent else proposal.parent


def _leader_at(engine: Engine, view: View, moment: datetime) -> str | None:
    before = [
        row for row in view.milestones() if (at := row.t_finished or row.t_started) is None or at <= moment
    ]
    leader = book_of(before, engine.config.plan).leader()
    return leader[0] if leader is not None else None


def moved(refused: EditRefused, base: str, proposal: Proposal) -> EditRefused:
    """The refusal of an edit that was moved to `base`: says so, and names the base in its numbers as `leader`."""
    told = f"written on {proposal.parent} and moved to {base}, which overtook it meanwhile: {refused}"
    return EditRefused(refused.cause, told, {**refused.numbers, "leader": base})
