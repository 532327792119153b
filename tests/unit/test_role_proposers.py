"""Proposers by role: which one is asked, by what draw, and how `campaign.toml` says so."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from agents.protocol import ProposalRequest
from flows.engine.proposers import as_named
from flows.engine.role_proposers import RoleProposers
from flows.engine.settings import Settings, load_settings
from lineage.errors import NothingLeft, SpecInvalid, UnknownName, UsageError
from lineage.records import Edit, Proposal, Usage
from tests.fakes import lab


class Named:
    def __init__(self, name: str, left: bool = True) -> None:
        self.name, self.left = name, left

    def propose(self, request: ProposalRequest) -> Proposal:
        if not self.left:
            raise NothingLeft(f"{self.name} has nothing left")
        edit = Edit(path="optim.py", search="LR", replace="RATE")
        return Proposal(
            role=request.role.name, proposer=self.name, parent="t0000", hypothesis="x", edits=(edit,)
        )


class Costly(Named):
    def worst_call(self) -> Usage:
        return Usage(usd=0.5)


def test_a_role_has_its_own_and_the_others_the_default() -> None:
    both = RoleProposers(Named("a"), {"opt": [(Named("b"), 1.0)]})
    assert both.propose(lab.request(role=lab.OPT)).proposer == "b"
    assert both.propose(lab.request(role=lab.ARCH)).proposer == "a"
    assert not hasattr(both, "worst_call") and not hasattr(both, "box")


def test_a_pool_is_drawn_by_weight_and_the_same_again_for_the_same_trial() -> None:
    pool = RoleProposers(Named("a"), {"opt": [(Costly("b"), 3.0), (Named("c"), 1.0)]})
    drawn = [pool.propose(lab.request(role=lab.OPT, seed=seed)).proposer for seed in range(400)]
    assert drawn == [pool.propose(lab.request(role=lab.OPT, seed=seed)).proposer for seed in range(400)]
    assert 260 < Counter(drawn)["b"] < 340
    assert pool.worst_call().usd == 0.5


def test_one_with_nothing_left_leaves_the_trial_to_the_others() -> None:
    pool = RoleProposers(Named("a"), {"opt": [(Named("b", left=False), 9.0), (Named("c"), 1.0)]})
    assert {pool.propose(lab.request(role=lab.OPT, seed=s)).proposer for s in range(20)} == {"c"}
    empty = RoleProposers(Named("a"), {"opt": [(Named("b", left=False), 1.0), (Named("c", left=False), 1.0)]})
    with pytest.raises(NothingLeft):
        empty.propose(lab.request(role=lab.OPT))


def test_campaign_toml_names_them_by_role(tmp_path: Path) -> None:
    file = tmp_path / "campaign.toml"
    file.write_text(
        '[campaign]\ntrials = 3\n\n[proposer]\nagent = "claude"\nminutes = 5\n\n'
        '[roles]\nopt = "claude:haiku"\narch = { catalogue = 1, "opencode" = 2.5 }\naug = ["catalogue", "codex"]\n'
    )
    settings, _ = load_settings({"environment": "x"}, file, env={})
    assert (settings.proposer, settings.agent, settings.agent_minutes) == ("command", "claude", 5)
    assert settings.proposers == {
        "opt": {"claude:haiku": 1.0},
        "arch": {"catalogue": 1.0, "opencode": 2.5},
        "aug": {"catalogue": 1.0, "codex": 1.0},
    }
    assert as_named(settings, "claude:haiku").model == "haiku"
    assert as_named(settings, "catalogue").proposer == "catalogue"
    assert as_named(settings, "opencode").agent == "opencode"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[roles]\nopt = { catalogue = 0 }\n", "weight above 0"),
        ("[roles]\nopt = []\n", "at least one name"),
        ('[proposer]\nagent = "claude"\nspeed = 3\n', "[proposer] has no key 'speed'"),
        ('[proposer]\nagent = "claude"\ncommand = ["x"]\n', "agent and command are both given"),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "campaign.toml"
    file.write_text(text)
    with pytest.raises(SpecInvalid) as caught:
        load_settings({"environment": "x"}, file, env={})
    assert says in str(caught.value)


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'claude'"):
        as_named(Settings(environment="x"), "cluade:opus")
    with pytest.raises(UsageError, match="none is given"):
        as_named(Settings(environment="x"), "command")
