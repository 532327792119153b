"""Syntax-tree patterns: find code whatever its layout, and fill templates from what was found.

Patterns are ordinary Python. In them

    __name          matches any expression (the same one each time it occurs)
    f(a, *__rest)   `*__rest` at the end matches all further arguments
    f(...)          any arguments
    for i in x: ... a block of `...` matches any block
    __body          alone as a statement in a block, matches the statements of that block

Whitespace, comments, parentheses, trailing commas, quotes and number spellings do not count.
`same(pattern, node, bound)` collects what the names match in `bound`; `fill` inserts it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import libcst as cst

Bound = dict[str, object]
Statement = cst.BaseStatement | cst.BaseSmallStatement

_LAYOUT = frozenset(
    {
        "lpar", "rpar", "comma", "semicolon", "leading_lines", "lines_after_decorators", "header", "footer",
        "trailing_whitespace", "equal", "indent", "dot", "colon", "lbracket", "rbracket", "lbrace", "rbrace",
    }
)  # fmt: skip
_NUMBERS = (cst.Integer, cst.Float, cst.Imaginary)
_STRINGS = (cst.SimpleString, cst.ConcatenatedString)
_FIELDS: dict[type, tuple[str, ...]] = {}


def is_hole(node: object) -> bool:
    return isinstance(node, cst.Name) and node.value.startswith("__") and not node.value.endswith("__")


def _fields(kind: type) -> tuple[str, ...]:
    if kind not in _FIELDS:
        names = (f.name for f in dataclasses.fields(kind))
        _FIELDS[kind] = tuple(n for n in names if n not in _LAYOUT and not n.startswith("whitespace"))
    return _FIELDS[kind]


def statements_of(block: object) -> list[Statement]:
    """The statements of a suite, one-line suites included."""
    return list(block.body) if isinstance(block, cst.IndentedBlock | cst.SimpleStatementSuite) else []


def _lone(block: list[Statement]) -> cst.BaseExpression | None:
    """The expression of a block that is a single expression statement."""
    if len(block) != 1:
        return None
    only = block[0]
    if isinstance(only, cst.SimpleStatementLine) and len(only.body) == 1:
        only = only.body[0]
    return only.value if isinstance(only, cst.Expr) else None


def _same_block(pattern: object, node: object, bound: Bound) -> bool:
    wanted, found = statements_of(pattern), statements_of(node)
    lone = _lone(wanted)
    if isinstance(lone, cst.Ellipsis):
        return True
    if isinstance(lone, cst.Name) and is_hole(lone):
        bound[lone.value] = found
        return True
    return same_all(wanted, found, bound)


def _same_args(pattern: Sequence[cst.Arg], node: Sequence[cst.Arg], bound: Bound) -> bool:
    wanted = list(pattern)
    if wanted and isinstance(wanted[-1].value, cst.Ellipsis) and not wanted[-1].star:
        return same_all(wanted[:-1], node[: len(wanted) - 1], bound) and len(node) >= len(wanted) - 1
    last = wanted[-1].value if wanted else None
    if wanted and wanted[-1].star == "*" and isinstance(last, cst.Name) and is_hole(last):
        head = len(wanted) - 1
        if len(node) < head or not same_all(wanted[:-1], node[:head], bound):
            return False
        bound[last.value] = list(node[head:])
        return True
    return same_all(wanted, node, bound)


def same_all(patterns: Sequence[object], nodes: Sequence[object], bound: Bound) -> bool:
    if len(patterns) != len(nodes):
        return False
    return all(same(p, n, bound) for p, n in zip(patterns, nodes, strict=True))


def _same_literal(pattern: cst.CSTNode, node: cst.CSTNode) -> bool | None:
    """Equality of two numbers or two strings; None when these are no literals."""
    for kinds in (_NUMBERS, _STRINGS):
        if isinstance(pattern, kinds):
            if not isinstance(node, kinds):
                return False
            a, b = pattern.evaluated_value, node.evaluated_value
            return bool(a == b and type(a) is type(b))
    return None


def same(pattern: object, node: object, bound: Bound) -> bool:
    """Whether `node` matches `pattern`. Fills `bound`, whose content is undefined after False."""
    if isinstance(pattern, cst.Name) and is_hole(pattern):
        if not isinstance(node, cst.BaseExpression):
            return False
        if pattern.value in bound:
            return same(bound[pattern.value], node, {})
        bound[pattern.value] = node
        return True
    if isinstance(pattern, cst.IndentedBlock | cst.SimpleStatementSuite):
        return _same_block(pattern, node, bound)
    if isinstance(pattern, list | tuple):
        return isinstance(node, list | tuple) and same_all(pattern, node, bound)
    if not isinstance(pattern, cst.CSTNode):
        return pattern == node
    if not isinstance(node, cst.CSTNode):
        return False
    literal = _same_literal(pattern, node)
    if literal is not None:
        return literal
    if type(pattern) is not type(node):
        return False
    if isinstance(pattern, cst.Call) and isinstance(node, cst.Call):
        return same(pattern.func, node.func, bound) and _same_args(pattern.args, node.args, bound)
    return all(same(getattr(pattern, f), getattr(node, f), bound) for f in _fields(type(pattern)))


# ---- templates -----------------------------------------------------------------------------------

_TIGHT = (
    cst.Name,
    cst.Attribute,
    cst.Call,
    cst.Subscript,
    cst.Integer,
    cst.Float,
    cst.SimpleString,
    cst.List,
)


class _Fill(cst.CSTTransformer):
    def __init__(self, bound: Bound) -> None:
        super().__init__()
        self.bound = bound

    def _value(self, node: object) -> cst.BaseExpression | None:
        if isinstance(node, cst.Name) and is_hole(node):
            found = self.bound.get(node.value)
            return found if isinstance(found, cst.BaseExpression) else None
        return None

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.BaseExpression:
        value = self._value(original_node)
        if value is None:
            return updated_node
        if isinstance(value, _TIGHT) or value.lpar:
            return value
        return value.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])

    def leave_Arg(
        self, original_node: cst.Arg, updated_node: cst.Arg
    ) -> cst.Arg | cst.FlattenSentinel[cst.Arg]:
        if original_node.star == "*" and isinstance(original_node.value, cst.Name):
            rest = self.bound.get(original_node.value.value)
            if isinstance(rest, list):
                plain = [arg.with_changes(comma=cst.MaybeSentinel.DEFAULT) for arg in rest]
                return cst.FlattenSentinel(plain)
        value = self._value(original_node.value)
        return updated_node if value is None else updated_node.with_changes(value=value)

    def leave_Assign(self, original_node: cst.Assign, updated_node: cst.Assign) -> cst.Assign:
        value = self._value(original_node.value)
        return updated_node if value is None else updated_node.with_changes(value=value)

    def leave_Return(self, original_node: cst.Return, updated_node: cst.Return) -> cst.Return:
        value = self._value(original_node.value)
        return updated_node if value is None else updated_node.with_changes(value=value)

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.BaseStatement | cst.FlattenSentinel[cst.BaseStatement]:
        lone = _lone([original_node])
        found = self.bound.get(lone.value) if isinstance(lone, cst.Name) else None
        if not isinstance(found, list):
            return updated_node
        return cst.FlattenSentinel([_line(statement) for statement in found])


def _line(statement: Statement) -> cst.BaseStatement:
    if isinstance(statement, cst.BaseSmallStatement):
        return cst.SimpleStatementLine([statement])
    return statement


def fill(node: cst.CSTNode, bound: Bound) -> list[cst.CSTNode]:
    """The template with its names replaced by what they matched."""
    if not bound:
        return [node]
    result = node.visit(_Fill(bound))
    if isinstance(result, cst.FlattenSentinel):
        return list(result)
    return [result] if isinstance(result, cst.CSTNode) else []


def statements(code: str) -> list[cst.BaseStatement]:
    """Statements of a snippet; comments above the first one stay with it."""
    module = cst.parse_module(code)
    body: list[cst.BaseStatement] = list(module.body)
    if body and module.header:
        body[0] = body[0].with_changes(leading_lines=[*module.header, *getattr(body[0], "leading_lines", ())])
    return body


def expression(code: str) -> cst.BaseExpression:
    return cst.parse_expression(code.strip())
