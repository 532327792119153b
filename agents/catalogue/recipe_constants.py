"""Upper-case numbers at the top of a file: read, set, insert, and where each may lie.

A constant is a module-level `NAME = number` (a sign allowed, annotated or not). Setting one changes the
digits and nothing else, so the reason behind it on the line stays. Ranges come from the catalogue;
without one a positive number may move by a factor of eight either way, and a zero up to one.
"""

from __future__ import annotations

import ast
import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from agents.catalogue.config_numbers import config_numbers, set_config_number
from agents.catalogue.named_numbers import named_numbers, number_of, place_of
from agents.catalogue.technique import Range, Value
from agents.catalogue.transform import NotApplicable
from agents.edits.config_keys import config_kind
from agents.edits.file_text import shown
from agents.edits.search_replace import lines_of
from lineage.python_ast import parse as parse_source

FACTOR = 8.0
_SHARE = re.compile(r"drop|prob|ratio|frac|momentum|beta|smooth|decay_rate|ema", re.IGNORECASE)
_UPPER = re.compile(r"[A-Z][A-Z0-9_]*")


@dataclass(frozen=True)
class Number:
    """A constant in the source: `key` is `file:NAME`."""

    key: str
    value: float
    integer: bool

    @property
    def name(self) -> str:
        return self.key.split(":", 1)[1]


def _target(node: ast.stmt) -> tuple[str, ast.expr] | None:
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id, node.value
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        return node.target.id, node.value
    return None


@lru_cache(maxsize=256)
def _assigned(text: str) -> dict[str, ast.expr]:
    try:
        tree = parse_source(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    pairs = (_target(node) for node in tree.body)
    return {name: value for name, value in filter(None, pairs) if _UPPER.fullmatch(name)}


def names_in(text: str) -> list[str]:
    """All upper-case module constants, numbers or not, in order."""
    return list(_assigned(text))


def numbers(files: Mapping[str, bytes], *, every: bool = False) -> dict[str, Number]:
    """Every numeric constant of these files, by key; with `every` also numbers with a name in another form."""
    out = {}
    for path in sorted(files):
        text = shown(path, files[path])
        if config_kind(path):
            for name, (found, whole) in config_numbers(path, text).items():
                out[f"{path}:{name}"] = Number(f"{path}:{name}", found, whole)
        elif path.endswith(".py"):
            for name, node in _assigned(text).items():
                value = number_of(node)
                if value is not None and math.isfinite(value):
                    key = f"{path}:{name}"
                    out[key] = Number(key, float(value), isinstance(value, int))
            for name, place in named_numbers(text).items() if every else ():
                if math.isfinite(place.value):
                    key = f"{path}:{name}"
                    out.setdefault(key, Number(key, float(place.value), isinstance(place.value, int)))
    return out


def written(value: Value, integer: bool = False) -> str:
    """A number as source: few digits, and a float stays one."""
    if isinstance(value, str):
        return value
    if integer or isinstance(value, int):
        return str(round(value))
    text = f"{value:.4g}"
    return text if any(c in text for c in ".en") else text + ".0"


def set_number(path: str, text: str, name: str, value: Value) -> str:
    """The text with another value of a number of a program, or of a key of a YAML, TOML or JSON file."""
    if config_kind(path):
        return set_config_number(path, text, name, float(value))
    return set_constant(text, name, value)


def set_constant(text: str, name: str, value: Value) -> str:
    """The text with another value; a constant, or a number with that name in another form, must be there."""
    node = _assigned(text).get(name)
    place = place_of(node, anything=True) if node is not None else named_numbers(text).get(name)
    if place is None:
        raise NotApplicable(f"no constant {name} to set")
    integer = isinstance(place.value, int) and isinstance(value, int | float) and float(value).is_integer()
    lines = [line.encode() for line in lines_of(text)]
    first, last = place.line, place.end_line
    head, tail = lines[first][: place.first], lines[last][place.end :]
    lines[first : last + 1] = [head + written(value, integer).encode() + tail]
    return b"".join(lines).decode()


def insert_constant(text: str, name: str, value: Value, reason: str = "", after: str = "") -> str:
    """The text with a new constant behind another one, or behind the last one, or above the first definition."""
    known = _assigned(text)
    if name in known:
        raise NotApplicable(f"constant {name} is there already")
    anchor = known.get(after) or (list(known.values())[-1] if known else None)
    line = f"{name} = {written(value)}" + (f"  # {reason}" if reason else "") + "\n"
    lines = lines_of(text)
    if anchor is not None:
        at = anchor.end_lineno or anchor.lineno
        if at == len(lines) and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        return "".join([*lines[:at], line, *lines[at:]])
    body = parse_source(text).body
    heads = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom)] or body[:1]
    at = max((n.end_lineno or n.lineno for n in heads), default=0)
    return "".join([*lines[:at], "\n", line, *lines[at:]])


def range_of(number: Number, ranges: Mapping[str, Range]) -> Range:
    """The catalogue's range, widened to include the present value; else a range derived from that value."""
    known, value = ranges.get(number.key), number.value
    if known is not None:
        low = min(known.low, value) if value > 0 or not known.log else known.low
        return known.model_copy(update={"low": low, "high": max(known.high, value)})
    if 0 < value < 1 and _SHARE.search(number.name):  # a momentum of 0.9 may become 0.99, never 7.2
        return Range(low=value / FACTOR, high=1 - (1 - value) / FACTOR)
    if value > 0:
        return Range(
            low=max(1.0, value / FACTOR) if number.integer else value / FACTOR, high=value * FACTOR, log=True
        )
    if value < 0:
        return Range(low=value * FACTOR, high=value / FACTOR)
    return Range(low=0.0, high=1.0)


def unit(value: float, span: Range) -> float:
    """Position of a value in its range, 0 to 1 (outside when it is outside)."""
    if span.log:
        value = max(value, span.low * 1e-3)
        return math.log(value / span.low) / math.log(span.high / span.low)
    return (value - span.low) / (span.high - span.low)


def rounded(value: float, integer: bool, multiple: int = 1) -> float:
    """The value as it will be written."""
    return (
        float(max(multiple, multiple * round(value / multiple)) if multiple > 1 else round(value))
        if integer
        else float(f"{value:.4g}")
    )


def at_unit(position: float, span: Range, integer: bool) -> float:
    """The value at a position of the range, rounded as it will be written."""
    position = min(1.0, max(0.0, position))
    if span.log:
        value = span.low * math.exp(position * math.log(span.high / span.low))
    else:
        value = span.low + position * (span.high - span.low)
    return rounded(value, integer, span.multiple)


def step(number: Number, span: Range, rng: random.Random, size: float = 0.15) -> float:
    """A value nearby: a normal step of `size` times the range, never the same value."""
    at = unit(number.value, span)
    for _ in range(20):
        value = at_unit(at + rng.gauss(0.0, size), span, number.integer)
        if value != number.value:
            return value
    return at_unit(rng.random(), span, number.integer)
