"""Adds an import, once, to the recipe's own imports.

Use: `with_import(module, statement)`; the statement is one parsed import. Limits: it looks at imports at
the top level only, and an import of the same names in another spelling counts as another one.
"""

from __future__ import annotations

import sys

import libcst as cst

from agents.catalogue.code_patterns import same


def _imports(statement: object) -> cst.Import | cst.ImportFrom | None:
    if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1:
        only = statement.body[0]
        if isinstance(only, cst.Import | cst.ImportFrom):
            return only
    return None


def _root(node: cst.Import | cst.ImportFrom) -> str:
    name: object = node.names[0].name if isinstance(node, cst.Import) else node.module
    while isinstance(name, cst.Attribute):
        name = name.value
    return name.value if isinstance(name, cst.Name) else ""


def _rank(node: cst.Import | cst.ImportFrom) -> int:
    """`__future__`, then the standard library, then the rest: the order of the recipes' own imports."""
    root = _root(node)
    return 0 if root == "__future__" else 1 if root in sys.stdlib_module_names else 2


def with_import(module: cst.Module, new: cst.BaseStatement) -> cst.Module | None:
    """The module with the import; the module itself if it has it; None if `new` is no import."""
    wanted = _imports(new)
    if wanted is None:
        return None
    body: list[cst.BaseStatement | cst.SimpleStatementLine] = list(module.body)
    places: list[tuple[int, int]] = []
    for at, statement in enumerate(body):
        found = _imports(statement)
        if found is not None:
            if same(wanted, found, {}):
                return module
            places.append((at, _rank(found)))
    rank = _rank(wanted)
    earlier = [at for at, r in places if r <= rank]
    after = max(earlier) + 1 if earlier else (places[0][0] if places else 1 if module.get_docstring() else 0)
    alone = not any(r == rank for _, r in places)
    lines = [cst.EmptyLine(indent=False)] if alone and after else []
    body.insert(after, new.with_changes(leading_lines=lines))
    return module.with_changes(body=body)
