"""Settings: sources in order, and one clear sentence for each bad value."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.engine.settings import load_settings
from lineage.errors import SpecInvalid


def test_later_sources_win_and_are_named(tmp_path: Path) -> None:
    file = tmp_path / "campaign.toml"
    file.write_text('[campaign]\nenvironment = "airbench_mini"\ntrials = 5\nslots = 3\nseed = 1\n')
    settings, source = load_settings({"trials": 7, "hours": None}, file, {"BAKEOFF_SLOTS": "4"})
    assert (settings.trials, settings.slots, settings.seed, settings.hours) == (7, 4, 1, None)
    assert (source["trials"], source["slots"], source["seed"], source["hours"]) == (
        "command line",
        "BAKEOFF_SLOTS",
        str(file),
        "default",
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"trials": 0}, ["trials", "0", "command line", "greater than or equal to 1"]),
        ({"until": "25:00"}, ["until", "25:00"]),
        ({"proposer": "gpt"}, ["proposer", "gpt", "catalogue"]),
        ({"usd": -1.0}, ["usd", "-1.0"]),
        ({"roles": ("opt", "opt")}, ["roles", "the same role twice"]),
        ({"wings": 2}, ["wings", "command line"]),
    ],
)
def test_bad_values_are_named_with_their_source(flags: dict[str, object], words: list[str]) -> None:
    with pytest.raises(SpecInvalid) as error:
        load_settings({"environment": "airbench_mini", **flags}, None, {})
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_file_that_is_not_toml_or_not_there(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("trials = = 3")
    with pytest.raises(SpecInvalid, match=r"broken\.toml: not valid TOML"):
        load_settings({}, broken, {})
    with pytest.raises(SpecInvalid, match=r"absent\.toml: cannot be read"):
        load_settings({}, tmp_path / "absent.toml", {})


def test_trials_at_once_leaves_room_for_a_slow_proposer() -> None:
    base = {"environment": "airbench_mini", "slots": 2}
    assert load_settings(base, None, {})[0].trials_at_once(2) == 2
    assert load_settings({**base, "proposer": "anthropic"}, None, {})[0].trials_at_once(2) == 3
    assert load_settings({**base, "in_flight": 5}, None, {})[0].trials_at_once(2) == 5
