"""The interface of a proposer: the request it gets and the proposal it returns.

A proposer turns lineage into one edit: `propose(ProposalRequest) -> Proposal`. It is called in a
thread, several times at once, and keeps no state beside lineage, so a campaign that is
killed and resumed continues unchanged. It raises a `lineage.errors.ProposerFault`
when it has no edit to give. It never writes: not to the store, not to a recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from agents.edits.search_replace import Files
from lineage.environment_spec import EnvironmentSpec, Role
from lineage.records import Allowance, Check, Proposal, Usage

if TYPE_CHECKING:
    from lineage.queries import View

NO_LIMIT = Allowance()


@dataclass(frozen=True)
class ProposalRequest:
    """One question to a proposer.

    `files_of(trial)` gives the source snapshot of a trial. `seed` decides every random choice.
    `in_flight` has the normal-form hashes (`agents.edits.normal_form.ast_hash`) of programs that run right
    now. `check` runs the preflight ladder on a draft (None where that is not offered). `deadline`
    is a `time.monotonic` value. `arm` is the campaign's control condition. `trial` is the id that the
    answer will get. `knowledge` are the environment's notes by path, `lessons` a text distilled from earlier campaigns.
    `allowance` limits what the answer may cost; `paid` is called with the whole cost so far after each reply.
    """

    spec: EnvironmentSpec
    role: Role
    view: View
    files_of: Callable[[str], Files]
    seed: int
    in_flight: frozenset[str] = frozenset()
    steering: str = ""
    check: Callable[[Files], list[Check]] | None = None
    deadline: float | None = None
    arm: str = "specialists"
    trial: str = ""
    allowance: Allowance = NO_LIMIT
    paid: Callable[[Usage], None] | None = None
    knowledge: Mapping[str, bytes] = field(default_factory=dict)
    lessons: str = ""


class Proposer(Protocol):
    """Anything with a name that answers a request; must be safe to call from several threads."""

    @property
    def name(self) -> str: ...

    def propose(self, request: ProposalRequest) -> Proposal: ...
