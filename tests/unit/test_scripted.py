"""The scripted proposer hands out each item once, to the role it is meant for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agents.llm.scripted import ScriptedProposer
from agents.protocol import ProposalRequest
from lineage.errors import NothingLeft, ProposerRefused
from lineage.records import Edit, Proposal
from lineage.spec import Role


def request(role: str) -> ProposalRequest:
    leader = SimpleNamespace(trial="t0007")
    view: Any = SimpleNamespace(leader=lambda: leader, baseline=lambda: None)
    return ProposalRequest(
        spec=cast(Any, None),
        role=Role(name=role, surfaces=("s",), brief=""),
        view=view,
        files_of=lambda _: {},
        seed=1,
    )


def item(role: str = "", parent: str = "", hypothesis: str = "h") -> Proposal:
    edit = Edit(path="a.py", search="x", replace="y")
    return Proposal(role=role, proposer="", parent=parent, hypothesis=hypothesis, edits=(edit,))


def test_blanks_are_filled_and_roles_kept_apart() -> None:
    proposer = ScriptedProposer([item("opt", hypothesis="first"), item(parent="t0001", hypothesis="second")])
    other = proposer.propose(request("arch"))
    assert (other.role, other.parent, other.proposer, other.hypothesis) == (
        "arch",
        "t0001",
        "scripted",
        "second",
    )
    mine = proposer.propose(request("opt"))
    assert (mine.role, mine.parent, mine.hypothesis) == ("opt", "t0007", "first")
    with pytest.raises(NothingLeft, match="opt"):
        proposer.propose(request("opt"))


def test_faults_are_raised_and_functions_called() -> None:
    proposer = ScriptedProposer([ProposerRefused("no"), lambda r: item(hypothesis=f"for {r.role.name}")])
    with pytest.raises(ProposerRefused):
        proposer.propose(request("a"))
    assert proposer.propose(request("a")).hypothesis == "for a"


def test_parallel_asks_get_each_item_once() -> None:
    proposer = ScriptedProposer([item(hypothesis=str(i)) for i in range(60)])
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda _: proposer.propose(request("a")).hypothesis, range(60)))
    assert sorted(said, key=int) == [str(i) for i in range(60)]
