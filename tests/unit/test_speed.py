"""Caps that fit the machine: within bounds, for the minis only, recorded, and explained when they do not help."""

from __future__ import annotations

from pathlib import Path

import pytest
import workbench as wb
from test_calibrate import calibration

from flows.environments.loading import list_environments, read_environment
from flows.machine import machine_speed
from flows.measure.calibrate import calibrate, fitted_here, save
from lineage.errors import UsageError

SLOW = 2.4 * machine_speed.USUAL_S


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path))


def test_the_caps_of_a_mini_grow_within_its_bounds_and_nothing_else_changes() -> None:
    spec = read_environment(list_environments()["golf_mini"]).spec
    slow = machine_speed.fitted(spec, SLOW)
    assert (slow.budget.train_cpu_s, slow.budget.start_cpu_s, slow.budget.fitted_by) == (80, 120, 2)
    assert machine_speed.fitted(spec, 99.0).budget.train_cpu_s == 3 * spec.budget.train_cpu_s
    assert machine_speed.fitted(spec, 0.5 * machine_speed.USUAL_S) == spec == machine_speed.fitted(spec, None)
    changed = {
        name
        for name in type(spec.budget).model_fields
        if getattr(spec.budget, name) != getattr(slow.budget, name)
    }
    assert changed == {*machine_speed.CAPS, "fitted_by"}
    assert slow.model_copy(update={"budget": spec.budget}) == spec


def test_a_full_size_environment_keeps_its_caps_and_its_hash() -> None:
    full = [read_environment(path).spec for path in list_environments().values()]
    full = [spec for spec in full if spec.hardware == "cuda"]
    assert len(full) >= 3
    for spec in full:
        assert machine_speed.fitted(spec, 99.0) == spec
        assert not {"fit_to_machine", "fitted_by"} & set(spec.model_dump()["budget"])


def test_campaigns_have_the_caps_of_the_stored_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = read_environment(list_environments()["golf_mini"])
    monkeypatch.setattr(machine_speed, "measure", lambda: SLOW)
    fitted, seconds = fitted_here(environment, again=True)
    save(calibration(environment="golf_mini", reference_s=seconds), environment)
    monkeypatch.setattr(machine_speed, "measure", lambda: 9 * SLOW)  # busy now
    assert fitted_here(environment) == (fitted, seconds)
    assert fitted_here(environment, stored_only=True) == (fitted, seconds)
    save(calibration(environment="golf_mini", reference_s=seconds, machine="another"), environment)
    assert fitted_here(environment, stored_only=True) == (environment, None)
    assert fitted_here(environment)[0].spec.budget.fitted_by == 3


def test_a_start_over_its_own_cap_says_by_how_much_and_what_to_do(tmp_path: Path) -> None:
    honest = wb.CLASSIFIER["train.py"].replace("def train(data, out, seed)", "def rehearse(data, out)")
    files = {**wb.CLASSIFIER, "train.py": f"{honest}\ndef train(data, out, seed):\n    while True: pass\n"}
    budget = {**wb.BUDGET, "train_cpu_s": 0.5, "train_wall_s": 200, "smoke_wall_s": 100, "fit_to_machine": 2}
    bench = wb.classification(tmp_path, budget=budget)
    (tmp_path / "scratch").mkdir(exist_ok=True)
    with pytest.raises(UsageError) as told:
        calibrate(bench, {name: text.encode() for name, text in files.items()}, 2, 1)
    text = str(told.value)
    assert "over its cap of 0.5" in text and "this machine takes" in text and "of at most 2" in text, text
    assert "raise budget.train_cpu_s" in text


def test_the_fixed_work_is_measured_and_short() -> None:
    """Beside many busy processes it took 5 times its usual time."""
    assert machine_speed.USUAL_S / 20 < machine_speed.measure() < machine_speed.USUAL_S * 50
