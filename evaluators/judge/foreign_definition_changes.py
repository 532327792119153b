"""What an edit did at run time to definitions that are not its own. Pure.

Use: `libraries(files, "train.py")` for the sandbox, which reports what differs (`sandbox.changed_definitions`);
`fault(effects, looks, guard)` gives the numbers and the sentence of a run whose differences are not the
edit's to make, None when all are. The guard comes from the engine, which knows the role's surfaces and
what the parent's program did already. Limits: the report comes from the candidate's process; a report that
is missing counts as a difference, one that was forged from inside cannot be told from a true one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Mapping, Sequence

from lineage.python_ast import parse
from lineage.records import Number

# of the names given, those that this edit must not change
Guard = Callable[[Sequence[str]], Sequence[str]]

MISSING = "bakeoff.report"
LOOKS = {"imported": "after the import", "trained": "after training", "predicted": "after prediction"}


def libraries(files: Mapping[str, bytes], entry: str) -> tuple[str, ...]:
    """Modules outside the recipe that importing `entry` imports for certain, in order of their first import."""
    found: dict[str, None] = {}
    waiting, seen = [entry], set[str]()
    while waiting:
        path = waiting.pop(0)
        if path in seen or path not in files:
            continue
        seen.add(path)
        for name in _imports(files[path]):
            own = [f"{name.replace('.', '/')}{tail}" for tail in (".py", "/__init__.py")]
            if any(file in files for file in own):
                waiting += own
            elif name.split(".")[0] not in sys.stdlib_module_names:
                found[name] = None
    return tuple(name for name in found if len(name) < 100)[:64]


def _imports(source: bytes) -> list[str]:
    try:
        tree = parse(source, "")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return names


def named(effects: Mapping[str, Sequence[str]]) -> list[str]:
    """Every difference once, in the order of the looks."""
    return list(dict.fromkeys(name for look in LOOKS for name in effects.get(look, ())))


def fault(
    effects: Mapping[str, Sequence[str]], looks: Sequence[str], guard: Guard | None
) -> tuple[dict[str, Number], str] | None:
    """Numbers and sentence of what an edit must not do; `looks`: those that this run must have reported."""
    if guard is None:
        return None
    for look in LOOKS:
        missing = [MISSING] if look in looks and look not in effects else []
        outside = [*guard(effects.get(look, ())), *missing]
        if outside:
            break
    else:
        return None
    numbers: dict[str, Number] = {"definition": outside[0], "definitions": len(outside), "look": look}
    if outside[0] == MISSING:
        return numbers, f"the comparison of definitions did not report {LOOKS[look]}"
    names = ", ".join(outside[:4]) + (f" and {len(outside) - 4} more" if len(outside) > 4 else "")
    be = "is" if len(outside) == 1 else "are"
    text = f"{names} {be} outside the surface of this edit and {be} changed at run time, {LOOKS[look]}"
    return numbers, text
