"""Data of a script that has no prepare.py: the files of its source that are data, in the layout of prepared data.

Use: `prepare_in_place(environment, target)` fills a folder as prepare.py would; `split(task, files)` says which files are
source. Files that match `[task] evaluation_data` go to `public/`, which only the evaluator's sandbox has; the others that
match `[task] data` to `train/`, which every sandbox has read-only. Both keep the repository's paths, so that a script
finds them where it looks for them. Limits: the files are copied; there is no sealed split without a prepare.py.
"""

from __future__ import annotations

import json
import shutil
from hashlib import file_digest, sha256
from pathlib import Path

from lineage.environment_spec import Task
from lineage.script_task import matches

LAYOUT = "repository"  # known to `evaluators.judge.script_files`


def is_data(task: Task, path: str) -> bool:
    """Is this file of a script's source data, and so neither edited nor copied into each trial?"""
    return matches(path, task.evaluation_data) or (matches(path, task.data) and not path.endswith(".py"))


def data_files(task: Task, source: Path) -> list[tuple[str, Path]]:
    """Relative path and place of every data file of a source, in order."""
    return [
        (relative, path)
        for path in sorted(source.rglob("*"))
        if "__pycache__" not in path.parts
        and is_data(task, relative := path.relative_to(source).as_posix())
        and path.is_file()
    ]


def facts_of_data(task: Task, source: Path) -> str:
    """Changes when a data file does, by its size or time, or when another sandbox is to see it."""
    facts = [(name, path.stat()) for name, path in data_files(task, source)]
    parts = [
        f"{name} {matches(name, task.evaluation_data)} {one.st_size} {one.st_mtime_ns}" for name, one in facts
    ]
    return sha256("\n".join(parts).encode()).hexdigest()


def prepare_in_place(name: str, task: Task, source: Path, target: Path) -> None:
    """Copy the data files of `source` under `target`, and write their manifest."""
    files: dict[str, dict[str, str | int]] = {}
    target.mkdir(parents=True)
    for relative, path in data_files(task, source):
        part = "public" if matches(relative, task.evaluation_data) else "train"
        place = target / part / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        with place.open("rb") as handle:
            digest = file_digest(handle, "sha256").hexdigest()
        files[f"{part}/{relative}"] = {"sha256": digest, "bytes": place.stat().st_size}
    manifest = {
        "environment": name,
        "version": "1",
        "source": "the repository's own files",
        "layout": LAYOUT,
        "files": files,
    }
    (target / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True), "utf-8")
