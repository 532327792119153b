"""Data of a script that has no prepare.py: the files of its source that are data, in the layout of prepared data.

Use: `prepare_in_place(environment, target)` fills a folder as prepare.py would; `split(task, files)` says which files are
source. Files that match `[task] evaluation_data` go to `public/`, which only the evaluator's sandbox has; the others that
match `[task] data` to `train/`, which every sandbox has read-only. Both keep the repository's paths, so that a script
finds them where it looks for them. Limits: the files are copied; there is no sealed split without a prepare.py.
"""

from __future__ import annotations

import json
import shutil
from hashlib import file_digest
from pathlib import Path

from lineage.environment_spec import Task
from lineage.script_task import matches

LAYOUT = "repository"  # known to `evaluators.judge.script_files`


def is_data(task: Task, path: str) -> bool:
    """Is this file of a script's source data, and so neither edited nor copied into each trial?"""
    return matches(path, task.evaluation_data) or (matches(path, task.data) and not path.endswith(".py"))


def prepare_in_place(name: str, task: Task, source: Path, target: Path) -> None:
    """Copy the data files of `source` under `target`, and write their manifest."""
    files: dict[str, dict[str, str | int]] = {}
    target.mkdir(parents=True)
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source).as_posix()
        if not path.is_file() or "__pycache__" in path.parts or not is_data(task, relative):
            continue
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
