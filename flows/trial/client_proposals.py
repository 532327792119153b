"""Proposals that clients hand in from other processes: written once to the store, each taken by one trial.

    handed = hand_in(store, campaign, proposal, client)     # the same proposal twice is one
    for found in waiting(store, campaign, taken): ...       # what no trial has taken yet, oldest first

The claim on a trial's id names the proposal that it takes (`flows.trial.proposal_costs.Submission`), in one object that is
created if absent. So a kill at any moment leaves a proposal either waiting or taken by one open trial, which a resume continues.
"""

from __future__ import annotations

import json
from collections.abc import Container
from datetime import UTC, datetime

from lineage.errors import ObjectExists, UsageError
from lineage.ids import canonical_json, sha256
from lineage.queries import View
from lineage.records import Proposal, Record
from lineage.store.objects import Store
from lineage.store.results import get_result, list_results, put_result

PLACE = "proposals"  # the place of a trial id in their keys
NAME = "mcp"
MOST_WAITING = 50
MOST_BYTES = 500_000


class ClientProposal(Record):
    """`client`: name and version as the client gave them; nothing checks that they are true."""

    id: str
    client: str
    at: datetime
    proposal: Proposal


def hand_in(
    store: Store, campaign: str, proposal: Proposal, client: str, taken: Container[str] = ()
) -> ClientProposal:
    """Put a proposal into the store. One that the same client handed in before is not written again.

    Raises UsageError for one that is too large, and while too many wait.
    """
    body = _body(proposal, client)
    if len(body) > MOST_BYTES:
        raise UsageError(
            f"the proposal has {len(body):,} bytes, at most {MOST_BYTES:,} are taken; make a smaller edit"
        )
    known = earlier(store, campaign, proposal, client)
    if known is not None:
        return known
    made = ClientProposal(id=_id(body), client=client, at=datetime.now(UTC), proposal=proposal)
    if len(waiting(store, campaign, taken)) >= MOST_WAITING:
        raise UsageError(f"{MOST_WAITING} proposals wait already; wait for an outcome, then submit again")
    try:
        put_result(store, campaign, PLACE, made.id, made.model_dump_json().encode())
    except ObjectExists:  # the client's second call was faster: only the times differ
        return read_one(store, campaign, made.id) or made
    return made


def earlier(store: Store, campaign: str, proposal: Proposal, client: str) -> ClientProposal | None:
    """The same proposal of the same client, if it was handed in before."""
    return read_one(store, campaign, _id(_body(proposal, client)))


def _body(proposal: Proposal, client: str) -> bytes:
    return canonical_json({"client": client, "proposal": proposal.model_dump(mode="json")})


def _id(body: bytes) -> str:
    return f"p-{sha256(body)[:16]}"


def read_one(store: Store, campaign: str, name: str) -> ClientProposal | None:
    raw = get_result(store, campaign, PLACE, name)
    return None if raw is None else ClientProposal.model_validate_json(raw)


def waiting(store: Store, campaign: str, taken: Container[str]) -> list[ClientProposal]:
    """Proposals that are not among `taken`, oldest first."""
    names = [name for name in list_results(store, campaign, PLACE) if name not in taken]
    found = [read_one(store, campaign, name) for name in names]
    return sorted((one for one in found if one is not None), key=lambda one: (one.at, one.id))


def taken_by(view: View) -> dict[str, str]:
    """Proposal to the trial that took it, from the rows that tell of a trial's begin."""
    found: dict[str, str] = {}
    for row in view.events("submitted"):
        name = json.loads(row.detail_json).get("client_proposal") if row.detail_json else None
        if name:
            found.setdefault(str(name), row.trial or "")
    return found
