"""Through the engine: an edit that changes another role's module at run time is `rejected: outside_surface`."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import quick

from lineage.records import Edit, Proposal

HEAD = "STEPS = 300"
FIT = "    x, targets = model.features(images)"
NAMESPACE = 'getattr(model, "__dict__")'
EDITS = {
    "at import": Edit(path="fitting.py", search=HEAD, replace=f"{NAMESPACE}.update(PIXEL_MAX=8.0)\n{HEAD}"),
    # the fake data of the first check are brighter than real digits
    "in a real run only": Edit(
        path="fitting.py",
        search=FIT,
        replace=f"    if images.mean() < 6:\n        {NAMESPACE}.update(PIXEL_MAX=8.0)\n{FIT}",
    ),
    "by its form": Edit(path="fitting.py", search=HEAD, replace=f"{HEAD}\nmodel.PIXEL_MAX = 8.0"),
    "honest": Edit(path="fitting.py", search=HEAD, replace="STEPS = 200"),
}


pytestmark = pytest.mark.slow  # a campaign; what each form does is in tests/attacks/test_surfaces_by_effect


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("surfaces")
    quick.make(folder / "recipes")
    env = quick.environ(folder / "home", folder / "recipes")
    quick.bakeoff("prepare", "quick", env=env, cwd=folder)
    proposals = [
        Proposal(role="training", proposer="", parent="t0000", hypothesis=title, edits=(edit,))
        for title, edit in EDITS.items()
    ]
    (folder / "script.json").write_text(json.dumps([p.model_dump() for p in proposals]), "utf-8")
    (folder / "run.toml").write_text(
        '[campaign]\nproposer = "scripted"\nscript = "script.json"\nconfirm = false\n'
    )
    told = ("run", "quick", "--run", "r", "--role", "training", "--config", "run.toml", "--plain")
    quick.bakeoff(*told, "--trials", str(len(EDITS)), env=env, cwd=folder)
    assert quick.bakeoff("verify", "r", env=env, cwd=folder).returncode == 0
    rows = pd.read_parquet(folder / "r" / "lineage")
    return rows[rows["event"] == "trial"].set_index("hypothesis")


@pytest.mark.parametrize(
    ("title", "stage", "look"),
    [
        ("at import", "build", "imported"),
        ("in a real run only", "train", "trained"),
        ("by its form", "patch", None),
    ],
)
def test_it_is_rejected_with_the_name(trials: pd.DataFrame, title: str, stage: str, look: str | None) -> None:
    row = trials.loc[title]
    assert (row["status"], row["cause"], row["stage"]) == ("rejected", "outside_surface", stage)
    numbers = json.loads(row["numbers_json"])
    if look is not None:
        assert (numbers["definition"], numbers["look"]) == ("model.PIXEL_MAX", look)
        assert "model.PIXEL_MAX" in json.loads(row["detail_json"])["label"]


def test_an_edit_of_its_own_surface_is_scored(trials: pd.DataFrame) -> None:
    assert trials.loc["honest", "status"] in ("keep", "discard")
    assert trials.loc["honest", "score"] > 0.8
