"""A recorded campaign, offline: the same proposals from the stored exchanges, without a key.

`ReplayProposer(records_of(view), fetch)` hands out, role by role and in the order they were made, what
the recorded sessions ended in: a Proposal with the same edits, or the same fault. `fetch(sha)` gives the
bytes behind a hash. A row without an exchange (a catalogue's) is rebuilt from its stored diff. The
parent is found again by its id, or by its source hash when ids differ in the new campaign.

`rerun(record, request)` goes further: it feeds the recorded replies through the session loop and its
tools, and so shows that the edits follow from what the model said. Limits: what `check` answered then
is not replayed, and a campaign that runs its roles in another order may lack a parent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agents.calls import CallFault, ModelCall, Reply
from agents.edits import from_unified_diff
from agents.exchange import read_exchange, recorded_replies
from agents.ledger import Ledger
from agents.prices import FREE, Prices
from agents.prompt import render
from agents.protocol import ProposalRequest
from agents.session import SessionSettings, run_session
from lineage import errors
from lineage.errors import NothingLeft, ProposerFault, ProposerUnusable
from lineage.queries import View
from lineage.records import Proposal, Row, Status, Usage

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
    """Thread-safe; remembers only how far each role has come."""

    name = "replay"

    def __init__(self, records: Iterable[Recorded], fetch: Callable[[str], bytes]) -> None:
        self._fetch = fetch
        self._left: dict[str, list[Recorded]] = {}
        for record in records:
            self._left.setdefault(record.role, []).append(record)
        self._lock = threading.Lock()

    def propose(self, request: ProposalRequest) -> Proposal:
        """The role's next recorded proposal. Raises its recorded fault, or NothingLeft at the end."""
        with self._lock:
            queue = self._left.get(request.role.name)
            if not queue:
                raise NothingLeft(f"the record holds no further proposal of role {request.role.name!r}")
            record = queue.pop(0)
        proposal = self._recorded(record)
        return proposal.model_copy(update={"parent": _parent(record, proposal.parent, request.view)})

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


def _parent(record: Recorded, recorded: str, view: View) -> str:
    """The id, in the campaign that runs now, of the recorded parent."""
    wanted = record.parent_sha256
    same = view.trial(recorded)
    if same is not None and (wanted is None or same.source_sha256 in (None, wanted)):
        return recorded
    twins = [row.trial for row in view.trials() if wanted is not None and row.source_sha256 == wanted]
    if twins and twins[0]:
        return twins[0]
    raise ProposerUnusable(
        f"trial {record.trial} was built on {recorded}, whose source is not in this campaign yet; "
        "replay with the same roles and one trial at a time"
    )


# ---- the conversation again --------------------------------------------------------------------


class RecordedChat:
    """A chat that answers with recorded replies in order, whatever it is asked."""

    def __init__(self, name: str, host: str, replies: Sequence[Reply]) -> None:
        self.name, self.host = name, host
        self._replies = list(replies)

    def send(self, call: ModelCall, seconds: float, stop: threading.Event) -> Reply:
        if not self._replies:
            raise CallFault("blocked", "the recording ends here")
        return self._replies.pop(0)


def rerun(record: dict[str, Any], request: ProposalRequest) -> Proposal:
    """The Proposal that the recorded replies lead to when they go through the tools again."""
    chat = RecordedChat(record["proposer"], record["host"], recorded_replies(record))
    prices = Prices("replay", "recorded", {record["model"]: FREE})
    settings = SessionSettings(model=record["model"], max_turns=max(1, len(record["turns"])))
    return run_session(chat, request, render(request), settings, Ledger(), prices, "rerun")
