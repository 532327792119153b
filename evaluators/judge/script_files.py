"""Which files a script's two sandboxes hold: the recipe with its protected files restored, and what the evaluator sees.

Use: `for_training(task, files, start)` for the sandbox that trains, `for_evaluation(task, files, start)` for the one that
scores; `protected_check(...)` records what was restored. `start` are the files of the start recipe, which nobody edits;
None while the start itself runs. `released(...)` lays out the data of a run. Limits: a protected file is the start's
byte for byte; one that the start has not cannot be there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evaluators.judge.candidate_folders import stage
from evaluators.judge.judge_hashes import manifest
from lineage.environment_spec import Task
from lineage.ids import tree_hash
from lineage.records import Check
from lineage.script_task import matches

Files = Mapping[str, bytes]
IN_PLACE = "repository"  # a manifest's layout: the data lie where the repository has them


def protected(task: Task, files: Files) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if matches(name, task.protected)}


def for_training(task: Task, files: Files, start: Files | None) -> dict[str, bytes]:
    """The candidate's files, the protected ones as the start has them."""
    own = {name: data for name, data in files.items() if not matches(name, task.protected)}
    return own | protected(task, files if start is None else start)


def for_evaluation(task: Task, files: Files, start: Files | None) -> dict[str, bytes]:
    """The protected files alone, or with the candidate's beside them."""
    whole = for_training(task, files, start)
    return whole if task.evaluator_sees == "recipe" else protected(task, whole)


def protected_check(task: Task, files: Files, start: Files | None) -> Check:
    """Which protected files the runs had, by hash, and how many of the candidate's were put back."""
    kept = protected(task, files if start is None else start)
    other = {name for name in {*kept, *protected(task, files)} if kept.get(name) != files.get(name)}
    detail = f"{len(kept)} protected files as the start has them, tree {tree_hash(kept)[:12]}; {len(other)} put back"
    numbers: dict[str, int | float | str] = {
        "worst": len(other),
        "files": len(kept),
        "sha256": tree_hash(kept),
    }
    return Check(name="protected", passed=True, numbers=numbers, detail=detail)


def is_in_place(data: Path) -> bool:
    """Do the data lie where the repository has them, rather than in a folder that prepare.py wrote?"""
    return bool(manifest(data).get("layout") == IN_PLACE)


def staged(source: Path, target: Path, *, link: bool) -> Path:
    """A copy of a folder of prepared data, empty where there is none."""
    if source.is_dir():
        return stage(source, target, link=link)
    target.mkdir(parents=True)
    return target
