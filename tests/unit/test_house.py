"""Rules of the house that no linter knows: sizes, docstrings, what stands in the README exists."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("flows", "agents", "evaluators", "lineage")
MAX_FILE, MAX_FUNCTION = 400, 60


def python_files(*folders: str) -> list[Path]:
    return sorted(
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if "__pycache__" not in path.parts
    )


@pytest.mark.parametrize(
    "path", python_files(*PACKAGES, "recipes", "tests"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.count("\n") <= MAX_FILE, f"{path} has {text.count(chr(10))} lines; split it by purpose"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # the body alone: a command's signature is its list of options
            length = (node.end_lineno or node.lineno) - node.body[0].lineno + 1
            assert length <= MAX_FUNCTION, f"{path}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.parametrize("path", python_files(*PACKAGES), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree), f"{path} has no module docstring"
    if path.name == "__init__.py":
        assert len(tree.body) == 1, f"{path} must hold a docstring and nothing else"


def test_recipes_are_programs_not_packages() -> None:
    assert not list((ROOT / "recipes").rglob("__init__.py"))


def test_top_level_is_what_the_design_fixed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    folders = {line.split("/")[0] for line in tracked.stdout.splitlines() if "/" in line}
    assert folders <= {"flows", "agents", "recipes", "evaluators", "lineage", "tests", ".ci", "docs"}


def test_every_deployment_names_a_flow_that_exists() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    for deployment in deployments:
        path, _, name = deployment["entrypoint"].partition(":")
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        assert any(isinstance(n, ast.AsyncFunctionDef) and n.name == name for n in tree.body), deployment[
            "entrypoint"
        ]


def test_the_lock_names_everything_exactly_once() -> None:
    lines = [
        line
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    names = [line.split("==")[0].lower() for line in lines]
    assert all("==" in line for line in lines)
    assert len(names) == len(set(names))
    assert "torch==2.13.0" in lines
