"""Variants of an environment by name: their tables, their constants, their data, and what refuses them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import quick

from flows.environments.loading import load_environment
from flows.environments.prepared_data import check_data, prepare
from flows.environments.variants import variants
from flows.machine.folders import REPO
from lineage.errors import DataMissing, UnknownName, UsageError


@pytest.mark.parametrize("name", ["airbench_mini", "parameter_golf", "nanochat_d12"])
def test_every_variant_is_an_environment_of_its_own(name: str) -> None:
    base = load_environment(name)
    assert variants(base.folder)
    for variant in variants(base.folder):
        found = load_environment(name, variant)
        change = tomllib.loads((base.folder / "variants" / f"{variant}.toml").read_text("utf-8"))
        assert found.spec.name == f"{name}_{variant}"
        assert found.spec.surfaces == base.spec.surfaces
        assert found.data == base.data or found.data.name.rpartition("-")[0] == change["data"]
        for key, value in change.get("budget", {}).items():
            assert getattr(found.spec.budget, key) == value
        if "fixed" in change:
            fixed: dict[str, object] = {}
            exec(found.source()["fixed.py"], fixed)
            assert {key: fixed[key] for key in change["fixed"]} == change["fixed"]
            assert base.source()["fixed.py"] != found.source()["fixed.py"]


def test_a_variant_that_is_not_there_is_named() -> None:
    with pytest.raises(UnknownName, match=r"no variant of nanochat_d12 named 'tpu'; .*known: 1xh100, 24gb"):
        load_environment("nanochat_d12", "tpu")


def test_data_of_its_own_name_the_command_that_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path))
    fashion = load_environment("airbench_mini", "fashion")
    with pytest.raises(
        DataMissing, match=r"run: bakeoff prepare airbench_mini --variant fashion -- --fashion PATH$"
    ):
        check_data(fashion)
    with pytest.raises(UsageError, match="airbench_mini_fashion has data of its own; run: bakeoff prepare"):
        prepare(fashion, quiet=True)
    golf = load_environment("parameter_golf", "1xh100")
    with pytest.raises(DataMissing, match=r"run: bakeoff prepare parameter_golf --variant 1xh100$"):
        check_data(golf)


@pytest.mark.slow
def test_a_variant_is_prepared_and_run_by_its_name(tmp_path: Path) -> None:
    place = quick.make(tmp_path / "recipes")
    (place / "variants").mkdir()
    (place / "variants" / "tiny.toml").write_text('title = "Tiny"\n\n[fixed]\nSTEPS_SHOWN = 3\n', "utf-8")
    (place / "source" / "fixed.py").write_text("STEPS_SHOWN = 1  # of a run\n", "utf-8")
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    quick.bakeoff("prepare", "quick", "--variant", "tiny", env=env, cwd=tmp_path)
    told = ("--run", "r", "--trials", "1", "--no-confirm", "--plain")
    quick.bakeoff("run", "quick", "--variant", "tiny", *told, env=env, cwd=tmp_path)
    shown = json.loads(quick.call("show", "r", "--json", env=env, cwd=tmp_path).stdout)
    assert shown["environment"] == "quick_tiny" and shown["trials"] == 1


def test_the_list_has_variants_and_says_what_each_needs(tmp_path: Path) -> None:
    env = quick.environ(tmp_path / "home", REPO / "recipes")
    rows = json.loads(quick.call("environments", "--json", env=env, cwd=tmp_path).stdout)
    golf = {row["variant"]: row for row in rows if row["called"].startswith("parameter_golf")}
    assert set(golf) == {"", "1xh100", "24gb"}
    assert (golf[""]["gpus"], golf["1xh100"]["gpus"], golf["24gb"]["gpus_here"]) == (8, 1, 0)
    assert golf["1xh100"]["called"] == "parameter_golf --variant 1xh100"
    text = quick.call("environments", env={**env, "COLUMNS": "220"}, cwd=tmp_path).stdout
    assert "needs 8 GPUs; this machine has none" in text and "--variant 24gb" in text
