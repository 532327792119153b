"""Does source code carry data? Weights or answers written into a program are not learnt by it.

Use: `embedded_data(files)` on a source snapshot whose bytes are not paid for, as in environments scored by
time; `pays_for_bytes(spec)` says which. The sources are parsed, never run. Rules (facts/sandbox B2,
row 38): no literal longer than 4,000 bytes, no collection of more than 500 constants, at most 12,000
bytes of literals in all. Limits: literals only; `evaluators.judge.source_size` bounds what a source says in any form.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

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


def _measure(tree: ast.Module) -> tuple[int, int, int]:
    """(longest literal, largest collection, bytes of all literals); docstrings count in the first only."""
    spoken = _docstrings(tree)
    longest = largest = total = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            longest = max(longest, _size(node))
            total += 0 if id(node) in spoken else _size(node)
        elif isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict):
            largest = max(largest, sum(isinstance(n, ast.Constant) for n in ast.walk(node)))
    return longest, largest, total


def embedded_data(files: Mapping[str, bytes]) -> Check:
    """One check over all files of a snapshot; a file that does not parse is somebody else's to refuse."""
    longest = largest = total = 0
    for name, data in files.items():
        if not name.endswith(".py"):
            total += len(data)
            continue
        try:
            found = _measure(parse_source(data))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        longest, largest, total = max(longest, found[0]), max(largest, found[1]), total + found[2]
    passed = longest <= MAX_LITERAL and largest <= MAX_ITEMS and total <= MAX_TOTAL
    numbers: dict[str, int | float | str] = {
        "longest_literal": longest,
        "largest_collection": largest,
        "literal_bytes": total,
    }
    if not passed:
        numbers["cause"] = "illegal:embedded_data"
    detail = (
        f"longest literal {longest} bytes (at most {MAX_LITERAL}), largest collection {largest} constants "
        f"(at most {MAX_ITEMS}), {total} bytes of literals (at most {MAX_TOTAL})"
    )
    return Check(name="embedded_data", passed=passed, numbers=numbers, detail=detail)
