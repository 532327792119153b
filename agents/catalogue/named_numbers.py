"""Numbers that have a name, in every form in which a repository writes them down.

Use: `named_numbers(text)` gives name -> place of the number. Where a recipe follows the convention of upper-case
constants, `recipe_constants` alone is used; a repository that knows nothing of it has these forms:

    lr = 3e-4                          lr
    parser.add_argument("--lr", default=3e-4)      --lr
    class Config: n_layer: int = 4     Config.n_layer
    def fit(model, lr=3e-4)            fit(lr)
    config.trainer.lr = 3e-4           config.trainer.lr

Numbers named for what they are not there to tune (seeds, ports, intervals of printing, versions) are left out. Limits: of
several with one name the first counts. Configuration files are read by `config_numbers`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from lineage.python_ast import parse as parse_source

NOT_TO_TUNE = re.compile(
    r"seed|port|rank|version|year|verbos|worker|log_|_log|logging|print|debug|interval|_every|eval_|device|gpu",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Place:
    """Where a number stands: lines from 0, columns in bytes, end exclusive."""

    value: int | float
    line: int
    first: int
    end_line: int
    end: int


def named_numbers(text: str) -> dict[str, Place]:
    """Every number of a Python file that has a name, in order; empty for one that does not parse."""
    return dict(_python(text))


@lru_cache(maxsize=256)
def _python(text: str) -> tuple[tuple[str, Place], ...]:
    try:
        tree = parse_source(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    found: dict[str, Place] = {}
    for name, node in _named(tree, "", top=True):
        place = place_of(node)
        if place is not None and name not in found and not NOT_TO_TUNE.search(name):
            found[name] = place
    return tuple(found.items())


def number_of(node: ast.expr) -> int | float | None:
    """The value of a number as it is written, with a sign or without."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, node = -1, node.operand
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
    ):
        return sign * node.value
    return None


def place_of(node: ast.expr, *, anything: bool = False) -> Place | None:
    """Where a number stands; with `anything` whatever stands there counts, as a number of no use."""
    value = number_of(node)
    if value is None and anything:
        value = 0.5
    if value is None or node.end_lineno is None or node.end_col_offset is None:
        return None
    return Place(value, node.lineno - 1, node.col_offset, node.end_lineno - 1, node.end_col_offset)


def _named(node: ast.AST, inside: str, *, top: bool) -> Iterator[tuple[str, ast.expr]]:
    """Name and value of each, of the statements in `node` and below."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _named(child, f"{inside}{child.name}.", top=True)
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _defaults(child, inside)
            yield from _named(child, f"{inside}{child.name}.", top=False)
            continue
        if isinstance(child, ast.Assign | ast.AnnAssign):
            yield from _assigned(child, inside, top=top)
        elif isinstance(child, ast.Call):
            yield from _argument(child)
        yield from _named(child, inside, top=top)


def _assigned(node: ast.Assign | ast.AnnAssign, inside: str, *, top: bool) -> Iterator[tuple[str, ast.expr]]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    if len(targets) != 1 or node.value is None:
        return
    if isinstance(targets[0], ast.Name) and top:
        yield f"{inside}{targets[0].id}", node.value
    elif isinstance(targets[0], ast.Attribute):
        name = ast.unparse(targets[0])
        if re.fullmatch(r"[\w.]+", name) and not name.startswith("self."):
            yield name, node.value


def _defaults(node: ast.FunctionDef | ast.AsyncFunctionDef, inside: str) -> Iterator[tuple[str, ast.expr]]:
    plain = [*node.args.posonlyargs, *node.args.args]
    pairs = list(zip(plain[len(plain) - len(node.args.defaults) :], node.args.defaults, strict=True))
    pairs += [
        (one, value)
        for one, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        if value is not None
    ]
    for argument, value in pairs:
        yield f"{inside}{node.name}({argument.arg})", value


def _argument(node: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    """Of `add_argument("--lr", ..., default=0.1)` the option and its default; of click's `option` too."""
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if called not in ("add_argument", "option", "add_option"):
        return
    names = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    name = next((one for one in names if one.startswith("--")), names[0] if names else "")
    for keyword in node.keywords:
        if keyword.arg == "default" and name:
            yield name, keyword.value
