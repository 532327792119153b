"""Settings: sources in order, and one clear sentence for each bad value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import ParameterTypeError
from typer.main import get_command

from flows.cli import app
from flows.engine.settings import Settings, load_settings
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


def test_every_setting_is_an_option_of_run_and_a_parameter_of_the_deployed_campaign() -> None:
    """A setting is declared once; what a person can give on the command line, a schedule can give, too."""
    from flows.campaign.run_in_work_pools import campaign

    names = set(Settings.model_fields)
    command: Any = get_command(app)
    of_run = {param.name for param in command.commands["run"].params}
    assert names <= of_run, names - of_run
    assert names - {"arm", "script"} <= {param.name for param in command.commands["compare"].params}
    assert names - {"environment", "variant", "script"} <= {p.name for p in command.commands["fork"].params}
    schema = campaign.parameters
    assert set(schema.properties) == names | {"store", "tag", "take_over"}
    assert schema.required == ["environment"]
    assert schema.properties["trials"]["minimum"] == 1
    assert "CPU hours" in schema.properties["cpu_hours"]["description"]
    checked = campaign.validate_parameters({"environment": "x", "usd": "2.5", "roles": ["a"]})
    assert (checked["usd"], tuple(checked["roles"]), checked["trials"]) == (2.5, ("a",), 24)
    with pytest.raises(ParameterTypeError, match="trials"):
        campaign.validate_parameters({"environment": "x", "trials": 0})


def test_lists_and_tables_can_be_given_as_text() -> None:
    env = {"BAKEOFF_FREE_MODELS": "one, two", "BAKEOFF_MODELS": '{"opt": "big"}'}
    settings, _ = load_settings({"environment": "x"}, None, env)
    assert settings.free_models == ("one", "two")
    assert settings.models == {"opt": "big"}
    with pytest.raises(SpecInvalid, match=r"prices = 'cheap' \(command line\): not valid JSON"):
        load_settings({"environment": "x", "prices": "cheap"}, None, {})


def test_the_old_name_of_the_time_zone_is_read(tmp_path: Path) -> None:
    old = '{"environment": "x", "zone": "Europe/Berlin"}'
    assert Settings.model_validate_json(old).timezone == "Europe/Berlin"
    file = tmp_path / "campaign.toml"
    file.write_text('environment = "x"\nzone = "Europe/Berlin"\n')
    settings, source = load_settings({"timezone": "Asia/Tokyo"}, file, {})
    assert (settings.timezone, source["timezone"]) == ("Asia/Tokyo", "command line")
