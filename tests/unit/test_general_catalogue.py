"""A recipe without techniques/: entries that fit any training loop, ranges by name, and what `calibrate` says of them."""

from __future__ import annotations

import random
from pathlib import Path

import judged_environments as je
import pytest
import quick
import workbench as wb

from agents.catalogue.apply_technique import apply_technique, draw
from agents.catalogue.general_catalogue import entries, general, range_for
from agents.catalogue.recipe_constants import Number
from agents.catalogue.what_to_tune import lines, tunable
from agents.edits.role_surface import check_surface
from lineage.environment_spec import EnvironmentSpec, Role

HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\nimport torch.optim as optim\n\n"
LOOP = """
torch.manual_seed(0)
x = torch.randn(64, 5)
y = (x[:, 0] > 0).long()
net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
criterion = nn.CrossEntropyLoss()
optimizer = {optimizer}
for step in range(20):
    optimizer.zero_grad()
    hidden = F.relu(net[0](x))
    loss = criterion(net[2](hidden), y) + 0.1 * net(x).square().mean()
    loss.backward()
    optimizer.step()
final = loss.item()
"""
OPTIMIZERS = (
    "optim.SGD(net.parameters(), lr=0.1)",
    "torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)",
    "optim.Adam(net.parameters(), lr=0.01)",
    "optim.Adadelta(net.parameters(), lr=1.0)",
)


def spec_of(**surface: object) -> EnvironmentSpec:
    return wb.blobs(surfaces=[{"name": "all", "title": "all", "units": {"fit.py": ["*"]}, **surface}])


ROLE = Role(name="tuner", surfaces=("all",), brief="x" * 40)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("allow_new", [["*"], []], ids=["constants", "numbers"])
def test_every_entry_gives_a_program_that_trains(optimizer: str, allow_new: list[str]) -> None:
    units = ["*"] if allow_new else ["optimizer", "criterion", "net", "<module code>"]
    files = {"fit.py": (HEAD + LOOP.format(optimizer=optimizer)).encode()}
    spec = spec_of(allow_new=allow_new, units={"fit.py": units})
    before: dict[str, object] = {}
    exec(files["fit.py"].decode(), before)
    found = general(spec, files).techniques
    names = {technique.name for technique in found}
    assert {"clipping", "falling_rate", "lookahead", "gelu", "gelu_modules", "label_smoothing"} <= names
    assert names & {"momentum", "nesterov", "adamw", "nadam", "adamw_from_adadelta", "adamw_from_sgd"}
    for technique in found:
        values = draw(technique, files, random.Random(1), True, {}, {})
        after = apply_technique(technique, files, values).files
        ran: dict[str, object] = {}
        exec(after["fit.py"].decode(), ran)
        assert isinstance(ran["final"], float)
        assert ran["final"] != before["final"] or technique.name == "clipping", technique.name
        if allow_new:
            check_surface(spec, ROLE, files, after)
        else:
            assert not technique.constants, "a number in the code where no name may be added"


def test_every_entry_was_tried_above() -> None:
    seen = set()
    for optimizer in OPTIMIZERS:
        files = {"fit.py": (HEAD + LOOP.format(optimizer=optimizer)).encode()}
        seen |= {technique.name for technique in general(spec_of(), files).techniques}
    assert seen == {entry.name for entry in entries()}


@pytest.mark.parametrize(
    ("name", "value", "low", "high", "multiple"),
    [
        ("fit.py:HIDDEN", 128, 64, 256, 32),
        ("fit.py:Config.n_embd", 96, 48, 192, 16),
        ("fit.py:Config.n_layer", 4, 2, 8, 1),
        ("fit.py:--batch-size", 64, 16, 256, 1),
        ("fit.py:--lr", 0.1, 0.01, 1.0, 1),
        ("fit.py:fit(epochs)", 8, 2, 32, 1),
        ("fit.py:WEIGHT_DECAY", 0.01, 1e-6, 0.5, 1),
    ],
)
def test_a_number_s_name_says_how_far_it_may_move(
    name: str, value: float, low: float, high: float, multiple: int
) -> None:
    found = range_for(Number(name, float(value), isinstance(value, int)))
    assert found is not None and (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.multiple == multiple
    assert range_for(Number("fit.py:OFFSET", 3.0, True)) is None


def test_what_is_found_and_what_is_not_is_said(tmp_path: Path) -> None:
    files = {"fit.py": b"def fit(model, lr=0.1):\n    return model\n"}
    owned = spec_of(units={"fit.py": ["fit"]})
    (one,) = tunable(owned, [ROLE], tmp_path / "techniques", files)
    assert one.numbers == ("fit.py:fit(lr) = 0.1",) and one.general
    (other,) = tunable(spec_of(units={"fit.py": ["other"]}), [ROLE], tmp_path / "techniques", files)
    assert not other.numbers and "found nothing to move" in lines([other])[0]


def test_calibrate_says_it_and_run_refuses_a_recipe_without_anything(tmp_path: Path) -> None:
    made = je.text(tmp_path / "recipes", own=False)
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    quick.bakeoff("prepare", "spelling", env=env, cwd=tmp_path)
    said = quick.bakeoff("calibrate", "spelling", "--runs", "2", env=env, cwd=tmp_path)
    assert "role tuner: the embedded proposer can move 1 number (settings.py:PAIRS = 3)" in said.stderr
    assert "there is no techniques/ here" in said.stderr
    (made / "source" / "settings.py").write_text("PAIRS = 1 + 2\n")
    refused = quick.call("run", "spelling", "--run", "r", "--trials", "1", env=env, cwd=tmp_path)
    assert refused.returncode == 2 and "found nothing to move" in refused.stderr
    assert not (tmp_path / "r").exists()
