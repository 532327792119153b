"""Roles that have proposers of their own, alone or as a pool with weights, within one campaign.

The draw from a pool follows from the trial's seed, so a resumed trial asks the one that it asked before. One that has
nothing left for the role leaves the trial to the others. What made a proposal is in the proposal itself.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

from agents.protocol import ProposalRequest, Proposer
from lineage.errors import NothingLeft
from lineage.records import Proposal, Usage

Pool = Sequence[tuple[Proposer, float]]


class RoleProposers:
    """`default` is asked for every role without a pool."""

    name = "mixed"

    def __init__(self, default: Proposer, pools: Mapping[str, Pool]) -> None:
        self._default, self._pools = default, dict(pools)
        members: list[Any] = [default, *(one for pool in pools.values() for one, _ in pool)]
        self._members = list(dict.fromkeys(members))
        boxes = [one.box for one in self._members if hasattr(one, "box")]
        costly = [one for one in self._members if hasattr(one, "worst_call")]
        if boxes:
            self.box = boxes[0]
        if costly:  # a proposer without this attribute costs nothing
            self.worst_call = lambda: _worst([one.worst_call() for one in costly])

    def propose(self, request: ProposalRequest) -> Proposal:
        order = drawn(self._pools.get(request.role.name) or [(self._default, 1.0)], request.seed)
        for one in order[:-1]:
            with contextlib.suppress(NothingLeft):
                return one.propose(request)
        return order[-1].propose(request)

    def close(self) -> None:
        for one in self._members:
            close = getattr(one, "close", None)
            if close is not None:
                close()


def drawn(pool: Pool, seed: int) -> list[Proposer]:
    """The pool in a drawn order, each place by weight among those that are left."""
    rng, left, order = random.Random(seed), list(pool), list[Proposer]()
    while left:
        at = rng.choices(range(len(left)), weights=[weight for _, weight in left])[0]
        order.append(left.pop(at)[0])
    return order


def _worst(calls: Sequence[Usage]) -> Usage:
    return max(calls, key=lambda usage: (usage.usd, usage.tokens_in + usage.tokens_out))
