"""What a comparison refuses before it runs anything, the order of its cells, and what a fork takes over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.roles import ARMS
from flows.engine.proposers import build_proposer
from flows.engine.settings import Settings
from flows.environments.loading import load_environment
from flows.experiments.compare import order, plan_cells, read_comparison
from flows.experiments.fork import inherited
from lineage.errors import SpecInvalid, UsageError
from lineage.store.objects import open_store

SETTINGS = Settings(environment="airbench_mini")


@pytest.mark.parametrize(
    ("arms", "repeats", "more", "says"),
    [
        (["specialists", "randon"], 1, {}, "no arm named 'randon'; did you mean 'random'"),
        (["specialists"], 1, {}, "needs at least two arms"),
        (["single", "single"], 1, {}, "each named once"),
        (["specialists", "random"], 0, {}, "--repeats 0: each arm runs at least once"),
        (["specialists", "random"], 1, {"proposer": "anthropic"}, "arm random: the proposer anthropic cannot"),
        (["specialists", "single"], 1, {"proposer": "scripted"}, "--proposer scripted: its proposals are fixed"),
        (["specialists", "single"], 1, {"environment": "airbench"}, "no environment named 'airbench'"),
        (["specialists", "single"], 1, {"roles": ("opt",)}, "no role named 'opt'"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_in_a_sentence_and_nothing_is_written(
    tmp_path: Path, arms: list[str], repeats: int, more: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        plan_cells(str(tmp_path / "c"), SETTINGS.model_copy(update=more), arms, repeats)
    assert not (tmp_path / "c").exists()


def test_a_store_without_a_comparison_is_told_apart(tmp_path: Path) -> None:
    open_store(tmp_path, create=True)
    with pytest.raises(UsageError, match="no comparison in this store; begin one with: bakeoff compare"):
        read_comparison(str(tmp_path))


def test_every_arm_has_every_place_in_the_order_once() -> None:
    places = [order(ARMS, repeat) for repeat in range(1, len(ARMS) + 1)]
    assert all(sorted(place) == sorted(ARMS) for place in places)
    assert all(len(set(column)) == len(ARMS) for column in zip(*places, strict=True))
    assert order(ARMS, len(ARMS) + 1) == list(ARMS)


def test_a_model_cannot_play_the_random_arm_in_a_campaign_either() -> None:
    settings = SETTINGS.model_copy(update={"proposer": "anthropic", "arm": "random"})
    with pytest.raises(UsageError, match="leave this arm out, or use --proposer catalogue"):
        build_proposer(settings, load_environment("airbench_mini"))


def test_a_fork_takes_over_the_settings_that_fit() -> None:
    old = SETTINGS.model_copy(
        update={"trials": 7, "roles": ("opt",), "seed": 3, "proposer": "replay", "script": "r"}
    )
    new = inherited(old, {"trials": None, "seed": 4, "roles": ("aug", "opt")})
    assert (new.trials, new.seed, new.roles) == (7, 4, ("aug", "opt"))
    assert (new.proposer, new.script) == ("catalogue", "")
    assert inherited(old, {}).roles == ("opt",)
    assert inherited(old, {"arm": "single"}).roles == ()
    with pytest.raises(SpecInvalid, match="setting trials = 0"):
        inherited(old, {"trials": 0})
