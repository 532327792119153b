"""Every technique of every recipe: it applies once, compiles, stays in its surface, and knows itself.

A new `recipes/NAME/techniques/*.toml` is picked up by itself.
"""

from __future__ import annotations

import ast
import importlib.util
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agents.catalogue.apply_technique import Applied, apply_technique, draw
from agents.catalogue.recipe_constants import numbers
from agents.catalogue.technique import Technique, load_catalogue
from agents.catalogue.transform import NotApplicable
from agents.edits.normal_form import ast_hash
from agents.edits.role_surface import check_surface
from agents.edits.search_replace import apply_edits, edits_between
from flows.environments.loading import Environment, list_environments, load_environment
from lineage.environment_spec import Role

LEAST = 20  # techniques that an environment with a catalogue has
ENVIRONMENTS = {
    name: load_environment(name)
    for name, folder in list_environments().items()
    if (folder / "techniques").is_dir() and (folder / "source").is_dir()
}
CATALOGUES = {name: load_catalogue(env.techniques) for name, env in ENVIRONMENTS.items()}
CASES = [(name, t.name) for name, catalogue in CATALOGUES.items() for t in catalogue.techniques]


def role_for(environment: Environment, technique: Technique) -> Role:
    return Role(name="tester", surfaces=(technique.surface,), brief="", max_changed_lines=200)


def applied(environment: Environment, technique: Technique, first: bool = True, seed: int = 1) -> Applied:
    files = environment.source()
    ranges = CATALOGUES[environment.spec.name].ranges
    return apply_technique(technique, files, draw(technique, files, random.Random(seed), first, ranges, {}))


def find(case: tuple[str, str]) -> tuple[Environment, Technique]:
    technique = CATALOGUES[case[0]].get(case[1])
    assert technique is not None
    return ENVIRONMENTS[case[0]], technique


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_technique(case: tuple[str, str]) -> None:
    environment, technique = find(case)
    before = environment.source()
    after = applied(environment, technique)

    for path, data in after.files.items():
        compile(data, path, "exec")
    assert ast_hash(after.files) != ast_hash(before)

    report = check_surface(environment.spec, role_for(environment, technique), before, after.files)
    declared = {*technique.touches, *(c.key for c in technique.constants)}
    added = {unit for unit in report.units if _is_new(unit, before)}
    extra = {u for u in report.units if u not in declared and not u.endswith(":<imports>")} - added
    assert not extra, f"{technique.name} changes {sorted(extra)}; add to `touches`"
    unused = {t for t in technique.touches if t not in report.units}
    assert not unused, f"{technique.name} never changes {sorted(unused)}"
    assert not report.flags, report.flags

    edits = edits_between(before, after.files)
    assert apply_edits(before, edits) == after.files

    again = numbers(after.files)
    if technique.repeatable:
        more = draw(technique, after.files, random.Random(2), False, CATALOGUES[case[0]].ranges, {})
        assert any(more[key] != again[key].value for key in more)
    else:
        values = draw(technique, after.files, random.Random(2), True, CATALOGUES[case[0]].ranges, {})
        with pytest.raises(NotApplicable):
            apply_technique(technique, after.files, values)


def _is_new(unit: str, before: dict[str, bytes]) -> bool:
    """A definition or constant that the start does not have."""
    path, _, key = unit.partition(":")
    name = key.split(".")[0]
    if path not in before:
        return True
    tree = ast.parse(before[path])
    tops = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    members = {
        f"{n.name}.{m.name}"
        for n in tree.body
        if isinstance(n, ast.ClassDef)
        for m in n.body
        if isinstance(m, ast.FunctionDef)
    }
    if "." in key:
        return name not in tops or (not key.endswith(">") and key not in members)
    return name not in tops


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_no_technique_uses_a_name_that_is_not_defined(name: str, tmp_path: Path) -> None:
    """What a linter sees in all the programs at once: undefined names, names used before they exist."""
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    assert ruff is not None, "ruff is in requirements.lock: install what it names"
    for technique in CATALOGUES[name].techniques:
        after = applied(ENVIRONMENTS[name], technique, first=False, seed=3)
        folder = tmp_path / technique.name
        folder.mkdir()
        for path, data in after.files.items():
            (folder / path).write_bytes(data)
    command = [
        ruff,
        "check",
        "--isolated",
        "--select",
        "F821,F822,F823,F811,E9",
        "--output-format",
        "concise",
        ".",
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_a_catalogue_is_worth_its_name(name: str) -> None:
    catalogue, spec = CATALOGUES[name], ENVIRONMENTS[name].spec
    structural = [t for t in catalogue.techniques if not t.repeatable]
    assert len(structural) >= LEAST
    surfaces = {surface.name for surface in spec.surfaces}
    assert {t.surface for t in catalogue.techniques} == surfaces, "every surface has techniques"
    present = numbers(ENVIRONMENTS[name].source())
    for key, span in catalogue.ranges.items():
        if key in present:
            assert span.low <= present[key].value <= span.high, f"{key} starts outside its range"


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_imports_are_ones_that_the_recipe_may_make(name: str) -> None:
    spec = ENVIRONMENTS[name].spec
    siblings = {path.removesuffix(".py") for path in ENVIRONMENTS[name].source()}
    for technique in CATALOGUES[name].techniques:
        for change in technique.edits:
            if change.do == "import":
                (node,) = ast.parse(change.code.strip()).body
                assert isinstance(node, ast.Import | ast.ImportFrom)
                module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                root = (module or "").split(".")[0]
                allowed = root in siblings or root in spec.packages or root in sys.stdlib_module_names
                assert allowed, f"{technique.name} imports {module}"
                assert importlib.util.find_spec(root) or root in siblings
