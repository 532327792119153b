"""A technique on a source: which values its constants get, and the files that come out.

`draw` chooses the values, the catalogue's own on the first try and from the range after that;
`apply_technique` makes the edits or raises `NotApplicable` with the reason. Results are remembered by
content, because the same question is asked at every proposal; nothing else is kept.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from agents.catalogue.recipe_constants import (
    Number,
    at_unit,
    insert_constant,
    names_in,
    numbers,
    range_of,
    rounded,
    set_constant,
    unit,
)
from agents.catalogue.technique import Constant, Range, Technique, Value
from agents.catalogue.transform import NotApplicable, apply_change, found
from agents.edits.file_text import bytes_like, text_of
from agents.edits.normal_form import normal_form
from agents.edits.search_replace import Files
from lineage.errors import EditRefused

Bounds = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Applied:
    """New files and what became of the constants: key -> (old value or None, new value)."""

    files: Files
    values: dict[str, tuple[float | None, float]]


def bounded(value: float, key: str, span: Range, integer: bool, bounds: Bounds) -> float:
    """The value inside its range and inside what failures have taught about it."""
    low, high = bounds.get(key, (-math.inf, math.inf))
    return rounded(min(max(value, low, span.low), high, span.high), integer, span.multiple)


def _scaled(constant: Constant, present: Number, rng: random.Random, first: bool, multiple: int) -> float:
    low, high = constant.scale or (1.0, 1.0)
    factor = math.sqrt(low * high) if first else math.exp(rng.uniform(math.log(low), math.log(high)))
    if present.integer and round(present.value * factor) == present.value:
        return present.value + (multiple if factor > 1 else -multiple)
    return present.value * factor


def draw(
    technique: Technique,
    files: Mapping[str, bytes],
    rng: random.Random,
    first: bool,
    ranges: Mapping[str, Range],
    bounds: Bounds,
) -> dict[str, Value]:
    """A value for every constant of the technique; the catalogue's own while `first`."""
    present, out = numbers(files), dict[str, Value]()
    for constant in technique.constants:
        value: Value | None = constant.value
        here = present.get(constant.key)
        if constant.scale is not None:
            if here is None:
                raise NotApplicable(f"{constant.key} is no number in this source")
            span = ranges.get(constant.key) or range_of(here, ranges)
            value = bounded(
                _scaled(constant, here, rng, first, span.multiple), constant.key, span, here.integer, bounds
            )
            if value == here.value:
                raise NotApplicable(f"{constant.key} is at the end of its range")
            value = int(value) if here.integer else value
        elif not first and constant.choices:
            value = rng.choice(constant.choices)
        elif not first and constant.range is not None and isinstance(constant.value, int | float):
            integer = isinstance(constant.value, int)
            centre = unit(float(constant.value), constant.range)
            drawn = at_unit(rng.gauss(centre, 0.25), constant.range, integer)
            drawn = bounded(drawn, constant.key, constant.range, integer, bounds)
            value = int(drawn) if integer else drawn
        assert value is not None
        out[constant.key] = value
    return out


def _texts(technique: Technique, files: Mapping[str, bytes]) -> dict[str, str]:
    missing = [name for name in technique.files if name not in files]
    if missing:
        raise NotApplicable(f"no file {missing[0]}")
    return {name: text_of(name, files[name]) for name in sorted(technique.files)}


def _check_place(technique: Technique, files: Mapping[str, bytes]) -> None:
    for pattern in (*technique.absent, *technique.requires):
        text = text_of(pattern.file, files.get(pattern.file, b""))
        there = found(text, pattern)
        if there and pattern in technique.absent:
            raise NotApplicable(
                f"{technique.name} is there already: {pattern.find.strip()!r} in {pattern.file}"
            )
        if not there and pattern in technique.requires:
            raise NotApplicable(f"{technique.name} needs {pattern.find.strip()!r} in {pattern.file}")


def apply_technique(technique: Technique, files: Mapping[str, bytes], values: Mapping[str, Value]) -> Applied:
    """The files with the technique in them, or NotApplicable."""
    texts = _texts(technique, files)
    _check_place(technique, files)
    before = numbers({name: files[name] for name in texts})
    for change in technique.edits:
        texts[change.file] = apply_change(texts[change.file], change)
    for constant in technique.constants:
        text, value = texts[constant.file], values[constant.key]
        if constant.name in names_in(text):
            texts[constant.file] = set_constant(text, constant.name, value)
        else:
            texts[constant.file] = insert_constant(
                text, constant.name, value, constant.reason, constant.after
            )
    try:
        out = {**files, **{name: bytes_like(name, text, files[name]) for name, text in texts.items()}}
        if all(normal_form(n, t) == normal_form(n, text_of(n, files[n])) for n, t in texts.items()):
            raise NotApplicable(f"{technique.name} changes nothing here")
    except EditRefused as e:
        raise NotApplicable(str(e)) from e
    return Applied(out, changed_numbers(before, numbers({name: out[name] for name in texts})))


def changed_numbers(
    before: Mapping[str, Number], after: Mapping[str, Number]
) -> dict[str, tuple[float | None, float]]:
    """key -> (old, new) of every number that appeared or moved."""
    moved: dict[str, tuple[float | None, float]] = {}
    for key, number in after.items():
        old = before.get(key)
        if old is None or old.value != number.value:
            moved[key] = (old.value if old else None, number.value)
    return moved
