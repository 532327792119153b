"""The rungs of the preflight ladder that need no process: every file parses; the source is within its cap."""

from __future__ import annotations

import time
from collections.abc import Mapping

from evaluators.judge.source_size import source_bytes
from lineage.environment_spec import EnvironmentSpec
from lineage.python_ast import parse as parse_source
from lineage.records import Check


def static_checks(spec: EnvironmentSpec, files: Mapping[str, bytes]) -> list[Check]:
    """One check per rung, to the first that fails."""
    started = time.perf_counter()
    checks: list[Check] = []
    for path, data in sorted(files.items()):
        if path.endswith(".py"):
            try:
                parse_source(data, path)
            except (SyntaxError, ValueError) as error:
                line = getattr(error, "lineno", 0) or 0
                text = f"{path}:{line}: {error}"
                checks.append(
                    Check(name="parse", passed=False, numbers={"file": path, "line": line}, detail=text)
                )
                return checks
    checks.append(Check(name="parse", passed=True, seconds=time.perf_counter() - started))
    size, cap = source_bytes(files), spec.budget.source_bytes
    numbers: dict[str, int | float | str] = {
        "source_bytes": size,
        "cap": cap,
        "bytes_over": max(0, size - cap),
    }
    checks.append(Check(name="source_size", passed=size <= cap, numbers=numbers))
    return checks
