"""Does source code carry data? Weights or answers written into a program are not learnt by it.

Use: `embedded_data(files)` on a source snapshot whose bytes are not paid for, as in environments scored by
time; `pays_for_bytes(spec)` says which. The sources are parsed, never run. Rules (facts/sandbox B2,
row 38): no literal longer than 4,000 bytes, no collection of more than 500 constants, at most 12,000
bytes of literals in all, each counted beyond what the start has in the same file: a person's own tables are no leak.
Limits: literals only; `evaluators.judge.source_size` bounds what a source says in any form.
"""

from __future__ import annotations

import ast
import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from lineage.environment_spec import EnvironmentSpec
from lineage.python_ast import parse as parse_source
from lineage.records import Check

MAX_LITERAL, MAX_ITEMS, MAX_TOTAL = 4000, 500, 12_000
SIZE_QUANTITIES = frozenset({"total_bytes", "source_bytes"})


def pays_for_bytes(spec: EnvironmentSpec) -> bool:
    """Is the source's size itself under a gate, so that data in it has a price?"""
    return any(gate.quantity in SIZE_QUANTITIES for gate in spec.gates)


def _docstrings(tree: ast.Module) -> set[int]:
    places = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    firsts = [node.body[0] for node in places if node.body]
    return {id(n.value) for n in firsts if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}


def _size(node: ast.Constant) -> int:
    value = node.value
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, int):
        return (value.bit_length() + 7) // 8
    return len(value) if isinstance(value, bytes) else len(repr(value))


@dataclass
class _Found:
    """The longest literal, the largest collection (each with its place) and the bytes of all literals."""

    longest: tuple[int, str] = (0, "")
    largest: tuple[int, str] = (0, "")
    total: int = 0


def _key(node: ast.Constant) -> tuple[str, object]:
    return type(node.value).__name__, node.value


def _constants(tree: ast.AST) -> list[ast.Constant]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]


def _trees(files: Mapping[str, bytes]) -> dict[str, ast.Module]:
    """Of the files that parse; one that does not is somebody else's to refuse."""
    trees = {}
    for name, data in files.items():
        if name.endswith(".py"):
            with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
                trees[name] = parse_source(data)
    return trees


def _measure(name: str, tree: ast.Module, known: Counter[tuple[str, object]], found: _Found) -> None:
    """Adds what a file has beyond `known`; docstrings count as literals only, not in the sum."""
    spoken, left = _docstrings(tree), known.copy()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            if left[_key(node)] > 0:
                left[_key(node)] -= 1
                continue
            found.longest = max(found.longest, (_size(node), f"{name}:{node.lineno}"))
            found.total += 0 if id(node) in spoken else _size(node)
        elif isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict):
            inside = Counter(_key(constant) for constant in _constants(node))
            new = sum((inside - known).values()) if known else sum(inside.values())
            found.largest = max(found.largest, (new, f"{name}:{node.lineno}"))


def embedded_data(files: Mapping[str, bytes], start: Mapping[str, bytes] | None = None) -> Check:
    """One check over all files of a snapshot: what it says in literals that `start` does not."""
    before, found = start or {}, _Found()
    known = {name: Counter(map(_key, _constants(tree))) for name, tree in _trees(before).items()}
    for name, tree in _trees(files).items():
        _measure(name, tree, known.get(name, Counter()), found)
    for name, data in files.items():
        if not name.endswith(".py"):
            new = Counter(data.splitlines(True)) - Counter(before.get(name, b"").splitlines(True))
            found.total += sum(len(line) * count for line, count in new.items())
    longest, largest, total = found.longest[0], found.largest[0], found.total
    passed = longest <= MAX_LITERAL and largest <= MAX_ITEMS and total <= MAX_TOTAL
    numbers: dict[str, int | float | str] = {
        "longest_literal": longest,
        "largest_collection": largest,
        "literal_bytes": total,
    }
    if not passed:
        numbers["cause"] = "illegal:embedded_data"
    beyond = " beyond the start's" if before else ""
    at = [f" at {place}" if place and size > most else "" for (size, place), most in (
        (found.longest, MAX_LITERAL), (found.largest, MAX_ITEMS))]  # fmt: skip
    detail = (
        f"longest literal {longest} bytes{at[0]} (at most {MAX_LITERAL}), largest collection {largest} constants{at[1]} "
        f"(at most {MAX_ITEMS}), {total} bytes of literals (at most {MAX_TOTAL}){beyond}"
    )
    return Check(name="embedded_data", passed=passed, numbers=numbers, detail=detail)
