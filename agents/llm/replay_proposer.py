"""A recorded campaign, offline: the same proposals from the stored exchanges, without a key.

`ReplayProposer(records_of(view), fetch)` hands out, role by role and in the order they were made, what
the recorded sessions ended in: a Proposal with the same edits, or the same fault. `fetch(sha)` gives the
bytes behind a hash. A row without an exchange (a catalogue's) is rebuilt from its stored diff. The
parent is found again by its id, or by its source hash when ids differ in the new campaign.

Limits: every role of the record must take part, or a role waits for a parent that never comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agents.edits.search_replace import from_unified_diff
from agents.llm.transcript import read_exchange
from agents.protocol import ProposalRequest
from lineage import errors
from lineage.errors import NothingLeft, ProposerFault, ProposerOutage, ProposerUnusable
from lineage.queries import View
from lineage.records import Proposal, Row, Status, Usage

PARENT_LOOK_S = 0.5  # a replayed role looks this often whether its parent, of another role, is there

_FAULTS: dict[str, type[ProposerFault]] = {
    name: getattr(errors, name)
    for name in ("ProposerRefused", "ProposerUnusable", "BudgetSpent", "NothingLeft")
}


@dataclass(frozen=True)
class Recorded:
    """What is needed of one recorded trial."""

    role: str
    trial: str
    row: Row
    parent_sha256: str | None


def records_of(view: View) -> list[Recorded]:
    """The proposals of a campaign in the order of their trials; baselines and stopped trials left out."""
    rows = view.trials()
    sources = {row.trial: row.source_sha256 for row in rows}
    return [
        Recorded(row.role or "", row.trial or "", row, row.parent_sha256 or sources.get(row.parent))
        for row in sorted(rows, key=lambda r: r.trial or "")
        if row.status not in (Status.BASELINE, Status.HARNESS_ABORT) and row.cause != "abandoned"
    ]


class ReplayProposer:
    """Thread-safe, and keeps nothing: its position in the record follows from the role's trials in the request's lineage."""

    name = "replay"

    def __init__(self, records: Iterable[Recorded], fetch: Callable[[str], bytes]) -> None:
        self._fetch = fetch
        self._of_role: dict[str, list[Recorded]] = {}
        for record in records:
            self._of_role.setdefault(record.role, []).append(record)

    def propose(self, request: ProposalRequest) -> Proposal:
        """The role's next recorded proposal.

        Raises its recorded fault, NothingLeft at the end, and ProposerOutage while the parent, another
        role's trial, is still under way here: roles may run in another order than they did then.
        """
        role = request.role.name
        done = sum(record.role == role for record in records_of(request.view))
        if done >= len(self._of_role.get(role, ())):
            raise NothingLeft(f"the record holds no further proposal of role {role!r}")
        record = self._of_role[role][done]
        proposal = self._recorded(record)
        parent = _parent(record, proposal.parent, request.view)
        if parent is None:
            raise self._no_parent(record, proposal.parent, request.view)
        return proposal.model_copy(update={"parent": parent})

    def _no_parent(self, record: Recorded, parent: str, view: View) -> ProposerFault:
        """An outage when the parent is still to come in this campaign, else unusable."""
        text = f"trial {record.trial} was built on {parent}, whose source is not in this campaign yet"
        for role, records in self._of_role.items():
            done = sum(r.role == role for r in records_of(view))
            if any(r.trial == parent for r in records[done:]):
                return ProposerOutage(text, retry_after=PARENT_LOOK_S)
        return ProposerUnusable(f"{text}; replay with the same roles")

    def _recorded(self, record: Recorded) -> Proposal:
        sha = record.row.exchange_sha256
        data = self._fetch(sha) if sha else b""
        if not data:
            return self._from_diff(record)
        exchange = read_exchange(data)
        fault = exchange["fault"]
        if fault is not None:
            kind = _FAULTS.get(fault["type"], ProposerUnusable)
            raise kind(fault["message"], usage=Usage(), exchange=data)
        # The old tokens were paid for once; a replay costs nothing.
        fields = {**exchange["proposal"], "usage": Usage(price_table="replay"), "exchange": data.decode()}
        # The row's parent is where the edits went: a new leader, if one overtook what they were written on.
        fields["parent"] = record.row.parent or fields["parent"]
        return Proposal.model_validate(fields)

    def _from_diff(self, record: Recorded) -> Proposal:
        row = record.row
        if not row.diff_sha256:
            raise ProposerUnusable(
                f"trial {record.trial} was recorded without an exchange and without a diff"
            )
        return Proposal(
            role=record.role,
            proposer=row.proposer or "replay",
            parent=row.parent or "",
            hypothesis=row.hypothesis or "",
            expected_delta=row.expected_delta,
            edits=from_unified_diff(self._fetch(row.diff_sha256).decode()),
            edit_kind=row.edit_kind or "",
            operator=row.operator or "",
            notes=row.notes or "",
            model=row.model or "",
        )


def _parent(record: Recorded, recorded: str, view: View) -> str | None:
    """The id, in the campaign that runs now, of the recorded parent; None when it is not there."""
    wanted = record.parent_sha256
    same = view.trial(recorded)
    if same is not None and (wanted in (None, same.source_sha256) or same.status is Status.BASELINE):
        return recorded
    twins = [row.trial for row in view.trials() if wanted is not None and row.source_sha256 == wanted]
    return twins[0] if twins else None
