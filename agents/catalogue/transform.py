"""Structural edits of source text, located by pattern: the operations that `do` in a technique can name.

    replace      the statements `find` become `code` (nothing: they go)
    before       `code` goes in front of the statements `find`
    after        `code` goes behind the statements `find`
    start, end   `code` becomes the first / last part of the definition, or of the block of the compound
                 statement `find` (`for epoch in range(epochs): ...`)
    expression   the expression `find` becomes `code`
    definition   the definition `inside` is replaced by `code` as a whole; comments above it stay
    add          `code` (definitions) goes behind the definition `inside`, or to the end of the file
    import       the import `code` is added if the file does not have it

`inside` is a definition (`fit`, `Net.forward`) or "" for the whole file. A pattern must fit in exactly
one place unless `all` is set. `NotApplicable` gives the reason why an edit cannot be made; it is a result, not an
error. Formatting and comments of everything else stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import libcst as cst

from agents.catalogue.code_patterns import Bound, expression, fill, same, same_all, statements
from agents.catalogue.imports import with_import
from agents.catalogue.technique import Change, Pattern

Body = list[cst.BaseStatement]
Definition = cst.FunctionDef | cst.ClassDef


class NotApplicable(Exception):
    """The edit does not fit this source, or is already there."""


@lru_cache(maxsize=128)
def parse(text: str) -> cst.Module:
    return cst.parse_module(text)


def _body(node: cst.Module | Definition) -> Body:
    if isinstance(node, cst.Module):
        return list(node.body)
    return list(node.body.body) if isinstance(node.body, cst.IndentedBlock) else []


def _named(body: Sequence[object], name: str) -> int:
    hits = [
        i
        for i, s in enumerate(body)
        if isinstance(s, cst.FunctionDef | cst.ClassDef) and s.name.value == name
    ]
    if len(hits) != 1:
        raise NotApplicable(f"{name} is defined {len(hits)} times")
    return hits[0]


def _with_body(node: cst.Module | Definition, body: Body) -> cst.Module | Definition:
    if isinstance(node, cst.Module):
        return node.with_changes(body=body)
    return node.with_changes(body=node.body.with_changes(body=body))


def _within(
    module: cst.Module, inside: str, act: Callable[[cst.Module | Definition], cst.CSTNode]
) -> cst.Module:
    """The module with `act` applied to the definition `inside`."""

    def descend(node: cst.Module | Definition, names: list[str]) -> cst.CSTNode:
        if not names:
            return act(node)
        body = _body(node)
        at = _named(body, names[0])
        child = body[at]
        assert isinstance(child, cst.FunctionDef | cst.ClassDef)
        body[at] = descend(child, names[1:])  # type: ignore[call-overload]
        return _with_body(node, body)

    result = descend(module, inside.split(".") if inside else [])
    assert isinstance(result, cst.Module)
    return result


# ---- statements ----------------------------------------------------------------------------------


def _fill_all(code: Body, bound: Bound) -> Body:
    return [
        part for statement in code for part in fill(statement, bound) if isinstance(part, cst.BaseStatement)
    ]


def _keep_comments(old: Sequence[cst.BaseStatement], new: Body) -> Body:
    """Moves comments and blank lines above the first old statement above the first new one."""
    above = getattr(old[0], "leading_lines", ())
    if new and above and not getattr(new[0], "leading_lines", ()):
        new = [new[0].with_changes(leading_lines=above), *new[1:]]
    return new


_PARTS = ("body", "orelse", "handlers", "finalbody")


class _Blocks:
    """Replaces each run of statements that fits the pattern by what `make` returns.

    Walks blocks only, never expressions: a visitor over the whole tree takes ten times as long.
    """

    def __init__(self, pattern: Body, make: Callable[[Body, Bound], Body]) -> None:
        self.pattern, self.make, self.hits = pattern, make, 0

    def node(self, node: Any) -> Any:
        """The node with every block below it rewritten; the same object where nothing fits."""
        if isinstance(node, cst.IndentedBlock | cst.Module):
            out = self.run(node.body)
            return node if out is None else node.with_changes(body=out or statements("pass"))
        changes = {}
        for part in _PARTS:
            child = getattr(node, part, None)
            if isinstance(child, list | tuple):
                new: Any = [self.node(item) for item in child]
                if any(x is not y for x, y in zip(new, child, strict=True)):
                    changes[part] = new
            elif isinstance(child, cst.CSTNode):
                new = self.node(child)
                if new is not child:
                    changes[part] = new
        return node.with_changes(**changes) if changes else node

    def run(self, body: Sequence[Any]) -> Body | None:
        """The rewritten list, None where nothing below fits."""
        size, out, at, changed = len(self.pattern), list[cst.BaseStatement](), 0, False
        while at < len(body):
            bound: Bound = {}
            if same_all(self.pattern, body[at : at + size], bound):
                out += self.make(list(body[at : at + size]), bound)
                self.hits += 1
                at, changed = at + size, True
                continue
            new = body[at] if isinstance(body[at], cst.SimpleStatementLine) else self.node(body[at])
            changed = changed or new is not body[at]
            out.append(new)
            at += 1
        return out if changed else None


class _Expressions(cst.CSTTransformer):
    def __init__(self, pattern: cst.BaseExpression, code: cst.BaseExpression) -> None:
        super().__init__()
        self.pattern, self.code, self.hits = pattern, code, 0

    def on_leave(self, original_node: cst.CSTNodeT, updated_node: object) -> object:  # type: ignore[override]
        node = super().on_leave(original_node, updated_node)  # type: ignore[type-var]
        bound: Bound = {}
        if not isinstance(original_node, cst.BaseExpression) or not same(self.pattern, original_node, bound):
            return node
        self.hits += 1
        filled = fill(self.code, bound)[0]
        outer = getattr(original_node, "lpar", ())
        return filled.with_changes(lpar=outer, rpar=original_node.rpar) if outer else filled


class _Headers(cst.CSTTransformer):
    """Adds statements at the start or end of the block of one compound statement."""

    def __init__(self, pattern: cst.BaseStatement, code: Body, at_start: bool) -> None:
        super().__init__()
        self.pattern, self.code, self.at_start, self.hits = pattern, code, at_start, 0

    def on_leave(self, original_node: cst.CSTNodeT, updated_node: object) -> object:  # type: ignore[override]
        node = super().on_leave(original_node, updated_node)  # type: ignore[type-var]
        bound: Bound = {}
        block = getattr(node, "body", None)
        if not isinstance(block, cst.IndentedBlock) or not same(self.pattern, original_node, bound):
            return node
        self.hits += 1
        extra = _fill_all(self.code, bound)
        body = [*extra, *block.body] if self.at_start else [*block.body, *extra]
        return node.with_changes(body=block.with_changes(body=body))  # type: ignore[attr-defined]


def _once(hits: int, change: Change) -> None:
    if hits == 0:
        raise NotApplicable(
            f"{change.file}: nothing in {change.inside or 'the file'} fits {change.find.strip()!r}"
        )
    if hits > 1 and not change.all:
        raise NotApplicable(f"{change.file}: {hits} places fit {change.find.strip()!r}")


def _swap(change: Change, make: Callable[[Body, Bound], Body]) -> Callable[[cst.CSTNode], cst.CSTNode]:
    def act(node: cst.CSTNode) -> cst.CSTNode:
        blocks = _Blocks(statements(change.find), make)
        out: cst.CSTNode = blocks.node(node)
        _once(blocks.hits, change)
        return out

    return act


def _edit_statements(module: cst.Module, change: Change) -> cst.Module:
    code = statements(change.code)

    def make(old: Body, bound: Bound) -> Body:
        new = _fill_all(code, bound)
        if change.do == "before":
            return [*_keep_comments(old, new), *old]
        if change.do == "after":
            return [*old, *new]
        return _keep_comments(old, new)

    return _within(module, change.inside, _swap(change, make))


def _edit_expression(module: cst.Module, change: Change) -> cst.Module:
    def act(node: cst.CSTNode) -> cst.CSTNode:
        swap = _Expressions(expression(change.find), expression(change.code))
        out = node.visit(swap)
        _once(swap.hits, change)
        assert isinstance(out, cst.CSTNode)
        return out

    return _within(module, change.inside, act)


def _edit_block(module: cst.Module, change: Change) -> cst.Module:
    code, at_start = statements(change.code), change.do == "start"

    def act(node: cst.Module | Definition) -> cst.CSTNode:
        if change.find:
            headers = _Headers(statements(change.find)[0], code, at_start)
            out = node.visit(headers)
            _once(headers.hits, change)
            assert isinstance(out, cst.CSTNode)
            return out
        body = _body(node)
        skip = 1 if at_start and not isinstance(node, cst.Module) and node.get_docstring() is not None else 0
        at = skip if at_start else len(body)
        return _with_body(node, [*body[:at], *code, *body[at:]])

    return _within(module, change.inside, act)


def _edit_definition(module: cst.Module, change: Change) -> cst.Module:
    new = statements(change.code)

    def act(node: cst.Module | Definition) -> cst.CSTNode:
        name = change.inside.split(".")[-1]
        if (
            len(new) != 1
            or not isinstance(new[0], cst.FunctionDef | cst.ClassDef)
            or new[0].name.value != name
        ):
            raise NotApplicable(
                f"{change.file}: the code for {change.inside} is not one definition of that name"
            )
        assert not isinstance(node, cst.Module)
        return new[0].with_changes(leading_lines=node.leading_lines)

    return _within(module, change.inside, act)


def _add(module: cst.Module, change: Change) -> cst.Module:
    new = statements(change.code)
    names = [s.name.value for s in new if isinstance(s, cst.FunctionDef | cst.ClassDef)]
    owner, _, last = change.inside.rpartition(".")
    in_class = bool(owner) or change.inside.endswith(":")  # `Net:` adds a method at the end of class Net
    owner = change.inside[:-1] if change.inside.endswith(":") else owner

    def act(node: cst.Module | Definition) -> cst.CSTNode:
        body = _body(node)
        taken = {s.name.value for s in body if isinstance(s, cst.FunctionDef | cst.ClassDef)}
        if taken & set(names):
            raise NotApplicable(f"{change.file}: {', '.join(sorted(taken & set(names)))} is there already")
        at = _named(body, last) + 1 if last and not change.inside.endswith(":") else len(body)
        gap = [cst.EmptyLine(indent=False)] * (1 if in_class else 2)
        spaced = [
            s.with_changes(leading_lines=[*gap, *getattr(s, "leading_lines", ())])
            if i == 0 or s in new
            else s
            for i, s in enumerate(new)
        ]
        return _with_body(node, [*body[:at], *spaced, *body[at:]])

    return _within(module, owner, act)


def _add_import(module: cst.Module, change: Change) -> cst.Module:
    out = with_import(module, statements(change.code)[0])
    if out is None:
        raise NotApplicable(f"{change.file}: {change.code.strip()!r} is not an import")
    return out


_ACTS: dict[str, Callable[[cst.Module, Change], cst.Module]] = {
    "replace": _edit_statements,
    "before": _edit_statements,
    "after": _edit_statements,
    "start": _edit_block,
    "end": _edit_block,
    "expression": _edit_expression,
    "definition": _edit_definition,
    "add": _add,
    "import": _add_import,
}


@lru_cache(maxsize=512)
def _words(text: str) -> frozenset[str]:
    """Identifiers in the code of a text: not in comments, not in plain strings, no holes."""
    code = re.sub(r"#[^\n]*|\"[^\"\n]*\"|'[^'\n]*'", " ", text)
    names = re.findall(r"(?<!\w)[A-Za-z_]\w*", code)
    return frozenset(name for name in names if not name.startswith("__") or name.endswith("__"))


def _lacking(find: str, text: str) -> list[str]:
    """Identifiers of a pattern that the text does not even mention."""
    return sorted(word for word in _words(find) if word not in text)


def apply_change(text: str, change: Change) -> str:
    """The text with one structural edit made, or NotApplicable."""
    if lacking := _lacking(change.find, text):
        raise NotApplicable(f"{change.file}: no {', '.join(lacking)} in it")
    try:
        return _ACTS[change.do](parse(text), change).code
    except cst.ParserSyntaxError as e:
        raise NotApplicable(f"{change.file}: does not parse: {e.message}") from e


def found(text: str, pattern: Pattern) -> bool:
    """Is the pattern, statements or an expression, anywhere inside the definition?"""
    if _lacking(pattern.find, text):
        return False
    if not pattern.inside and pattern.find.isidentifier():
        return pattern.find in _words(text)
    wanted = statements(pattern.find)
    line = wanted[0] if len(wanted) == 1 else None
    lone = line.body[0] if isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1 else None
    change = Change(file=pattern.file, do="replace", find=pattern.find, inside=pattern.inside, all=True)
    hits = 0

    def count(node: cst.CSTNode) -> cst.CSTNode:
        nonlocal hits
        if isinstance(lone, cst.Expr):
            finder = _Expressions(lone.value, lone.value)
            node.visit(finder)
            hits += finder.hits
        blocks = _Blocks(wanted, lambda old, _: old)
        blocks.node(node)
        hits += blocks.hits
        return node

    try:
        _within(parse(text), change.inside, count)
    except NotApplicable:
        return False
    return hits > 0
