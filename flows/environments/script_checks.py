"""What is checked of a script's environment before anything runs: its files, its evaluator's imports, its trust.

Use: `check_script(spec, files, where)` and `check_trust(spec, wanted)` raise UsageError with one sentence. Limits: imports
that a program makes by name at run time are not seen; they fail in the sandbox.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

from lineage.environment_spec import EnvironmentSpec
from lineage.errors import UsageError
from lineage.python_ast import parse
from lineage.script_task import TRUST_MEANS, TRUSTS, matches, script_of


def check_trust(spec: EnvironmentSpec, wanted: str) -> None:
    """Refuse an environment whose scores can be believed less than `wanted`."""
    if TRUSTS.index(spec.trust) < TRUSTS.index(wanted):
        how = (
            "add a protected `evaluate` to [task] of its environment.toml, or run with --trust reported"
            if spec.trust == "reported"
            else "give it a judge, or run with --trust evaluated"
        )
        raise UsageError(
            f"{spec.name}: its scores are {spec.trust} ({TRUST_MEANS[spec.trust]}), --trust asks for {wanted}; {how}"
        )


def check_script(spec: EnvironmentSpec, files: Mapping[str, bytes], where: Path) -> None:
    """The programs of its commands are there; what a protected evaluator imports is protected too."""
    task = spec.task
    for key, text in (("train", task.train), ("evaluate", task.evaluate), ("smoke", task.smoke)):
        program = script_of(text) if text else ""
        if program and program not in files:
            raise UsageError(f"{where}: [task] {key} runs {program}, which is not there")
    for pattern in task.protected:
        if not any(matches(name, [pattern]) for name in files) and not matches(
            pattern, [*task.data, *task.evaluation_data]
        ):
            raise UsageError(
                f"{where}: [task] protected has {pattern!r}, which no file matches; mend or drop it"
            )
    program = script_of(task.evaluate) if task.evaluate else ""
    if not program:
        return
    if not matches(program, task.protected):
        raise UsageError(
            f"{where}: [task] evaluate runs {program}, which candidates may edit; add it to protected"
        )
    if task.evaluator_sees == "recipe":
        return
    for name in sorted(imported_files(program, files)):
        if not matches(name, task.protected):
            raise UsageError(
                f"{where}: {program} imports {name}, which candidates may edit, so they could print any score; add {name} to "
                'protected, or set evaluator_sees = "recipe" in [task] and have the score counted as reported'
            )


def imported_files(entry: str, files: Mapping[str, bytes]) -> set[str]:
    """Files of the recipe that `entry` imports, directly or through others."""
    found, waiting = set[str](), [entry]
    while waiting:
        path = waiting.pop()
        folder = path.rpartition("/")[0]
        for name in imported_names(files.get(path, b"")):
            stem = name.replace(".", "/")
            for root in {"", f"{folder}/" if folder else ""}:
                for file in (f"{root}{stem}.py", f"{root}{stem}/__init__.py"):
                    if file in files and file not in found and file != entry:
                        found.add(file)
                        waiting.append(file)
    return found


def imported_names(source: bytes) -> list[str]:
    try:
        tree = parse(source, "")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = f"{node.module}." if node.module else ""
            names += [node.module] if node.module else []
            names += [f"{inside}{alias.name}" for alias in node.names]
    # a package's own file runs before any module in it
    parents = [name.rsplit(".", count)[0] for name in names for count in range(1, name.count(".") + 1)]
    return list(dict.fromkeys([*names, *parents]))
