"""Rules of the house that no linter knows: sizes, docstrings, what stands in the README exists."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import trees
import yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("flows", "agents", "evaluators", "lineage")
MAX_FILE, MAX_FUNCTION = 600, 60


def python_files(*folders: str) -> list[Path]:
    return sorted(
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if "__pycache__" not in path.parts
    )


def test_files_and_functions_stay_small() -> None:
    """600 lines are an alarm, not a target: a file is never split for its length alone."""
    long: list[str] = []
    for path in python_files(*PACKAGES, "recipes", "tests"):
        text = path.read_text("utf-8")
        if text.count("\n") > MAX_FILE:
            long.append(f"{path} has {text.count(chr(10))} lines; does it have one job?")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                # the body alone: a command's signature is its list of options
                length = (node.end_lineno or node.lineno) - node.body[0].lineno + 1
                if length > MAX_FUNCTION:
                    long.append(f"{path}:{node.lineno} {node.name} has {length} lines")
    assert not long, "\n".join(long)


def test_every_module_says_what_it_is_for() -> None:
    silent: list[str] = []
    for path in python_files(*PACKAGES):
        tree = ast.parse(path.read_text("utf-8"))
        if not ast.get_docstring(tree):
            silent.append(f"{path} has no module docstring")
        if path.name == "__init__.py" and len(tree.body) != 1:
            silent.append(f"{path} must contain a docstring and nothing else")
    assert not silent, "\n".join(silent)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tree_in_each_readme_equals_the_disk(package: str) -> None:
    _, inside, _ = trees.shown(package)
    assert inside == trees.expected(package), "run: python -m tests.trees"


OLD_NAMES = {"CHANGELOG.md", "LOG.md"}  # a history names what was there then
USERS_OWN = {"judge.py"}  # in an environment's folder


def _is_module(dotted: str) -> bool:
    parts = dotted.split(".")
    return (ROOT / "/".join(parts)).is_dir() or any(
        (ROOT / "/".join(parts[:length])).with_suffix(".py").is_file() for length in range(2, len(parts) + 1)
    )


def test_what_texts_name_is_there() -> None:
    """Files in the Markdown of the project, and modules by their dotted name there and in docstrings."""
    files = python_files(*PACKAGES, "recipes", "tests")
    texts = [path for path in ROOT.rglob("*.md") if not {".venv", "runs"} & set(path.parts)]
    wrong: list[str] = []
    for path in [*files, *(text for text in texts if text.name not in OLD_NAMES)]:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            named = re.findall(r"`([\w./]+\.py)`", line) if path.suffix == ".md" else []
            for name in named:
                there = any(("/" + file.as_posix()).endswith("/" + name) for file in files)
                if not there and "NAME" not in name and name not in USERS_OWN:
                    wrong.append(f"{path}:{number} names {name}, which is not there")
            for dotted in re.findall(rf"`((?:{'|'.join(PACKAGES)})(?:\.\w+)+)`", line):
                if not _is_module(dotted):
                    wrong.append(f"{path}:{number} names {dotted}, which is not there")
    assert not wrong, "\n".join(wrong)


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
