"""What the README promises exists: every status, cause and command it must name, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

from flows.cli import app
from flows.environments.loading import list_environments
from lineage.records import CAUSES, Status

README = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")


def test_every_status_and_cause_is_explained() -> None:
    for status in Status:
        assert f"`{status.value}`" in README, status
    for cause in CAUSES:
        assert re.search(rf"`{cause}(:<\w+>)?`", README), cause


def test_every_command_in_the_readme_exists() -> None:
    group = typer.main.get_command(app)
    known = set(group.commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"\bbakeoff ([a-z][a-z-]+)", README))
    assert named <= known, named - known


def test_every_environment_is_listed() -> None:
    for name in list_environments():
        assert f"`{name}`" in README, name


def test_nothing_was_left_to_fill_in() -> None:
    assert "<!--" not in README


def test_every_key_of_an_environment_is_in_the_recipes_readme() -> None:
    """Made from the models by `python -m flows.environments.key_table`."""
    from flows.environments import key_table

    text = key_table.README.read_text("utf-8")
    assert key_table.put_in(text) == text, "run: python -m flows.environments.key_table"
    for key in ("audits", "gates[].at_least", "budget.gpus", "evaluation.prune", "evaluation.prune_surfaces"):
        assert f"| `{key}` |" in text
    for key in ("evaluation.min_units", "surfaces[].new_files", "task.metrics[].pattern", "task.text_bytes"):
        assert f"| `{key}` |" in text
    rows = [line for line in key_table.table().splitlines() if line.startswith("| `")]
    assert all(len(line.split(" | ")) >= 4 and not line.endswith("|  |") for line in rows)
