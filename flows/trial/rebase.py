"""A proposal that was overtaken while it was written: moved onto the new leader, or dropped where the two conflict.

A model writes for minutes, and with more trials under way than slots the next proposal is ready before the trial
that trains has ended. If that one becomes the leader, an edit of the old leader can hardly win: the same edit of the
new one can. Only a proposal on what led while it was written is moved; another parent was chosen on purpose.
What came before what is the order of the events: a confirmation has no times of its own.
"""

from __future__ import annotations

from flows.engine.engine import Engine
from flows.engine.stage_records import TrialRef
from lineage.errors import EditRefused
from lineage.records import Proposal

FIXED = ("replay", "scripted")  # their parents are part of what is replayed


def base_of(engine: Engine, ref: TrialRef, proposal: Proposal) -> str:
    """The trial whose program the edits are for now: the proposal's parent, or the leader that overtook it."""
    if engine.config.settings.proposer in FIXED:
        return proposal.parent
    view = engine.view()
    led = view.led_since(ref.trial)
    overtaken = proposal.parent in led[:-1] and view.ended_since(led[-1], ref.trial)
    return led[-1] if overtaken else proposal.parent


def moved(refused: EditRefused, base: str, proposal: Proposal) -> EditRefused:
    """The refusal of an edit that was moved to `base`: says so, and names the base in its numbers as `leader`."""
    told = f"written on {proposal.parent} and moved to {base}, which overtook it meanwhile: {refused}"
    return EditRefused(refused.cause, told, {**refused.numbers, "leader": base})
