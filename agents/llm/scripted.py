"""A proposer that says what it was told to say: for tests, demonstrations and replays.

`ScriptedProposer(items)` hands out its items in order, each one once. An item is a Proposal, a
ProposerFault to raise, or a function from the request to a Proposal. A Proposal whose `role`,
`parent` or `proposer` is empty gets the request's role, the leader and this proposer's name. An item
with a role is given to that role only. When nothing fits any more it raises `NothingLeft`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from agents.protocol import ProposalRequest
from lineage.errors import NothingLeft, ProposerFault
from lineage.records import Proposal

Item = Proposal | ProposerFault | Callable[[ProposalRequest], Proposal]


class ScriptedProposer:
    """Thread-safe; remembers only how far the script has gone."""

    def __init__(self, items: Sequence[Item], name: str = "scripted") -> None:
        self._name = name
        self._left: list[Item] = list(items)
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._name

    def _take(self, role: str) -> Item:
        with self._lock:
            for index, item in enumerate(self._left):
                if not isinstance(item, Proposal) or item.role in ("", role):
                    return self._left.pop(index)
        raise NothingLeft(f"the script holds no further item for role {role!r}")

    def propose(self, request: ProposalRequest) -> Proposal:
        item = self._take(request.role.name)
        if isinstance(item, ProposerFault):
            raise item
        proposal = item if isinstance(item, Proposal) else item(request)
        blanks: dict[str, str] = {}
        if not proposal.role:
            blanks["role"] = request.role.name
        if not proposal.proposer:
            blanks["proposer"] = self._name
        if not proposal.parent:
            leader = request.view.row_of_leader() or request.view.baseline()
            blanks["parent"] = (leader.trial or "") if leader else ""
        return proposal.model_copy(update=blanks)
