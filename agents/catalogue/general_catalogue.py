"""The catalogue of a recipe without `techniques/`: entries that fit any training loop, and ranges by a number's name.

Use: `general(spec, files)` gives a `Catalogue`; each entry of `general/*.toml` whose code is found in a file of a surface
becomes a technique of that file. A constant that an entry brings is written into its code as a number where the surface
allows no new name. Ranges (`RANGES`) are for names that say what a number is: widths move by a factor of two in
multiples that keep them divisible, depths too, batches and lengths of training by four. Limits: an entry is data about
PyTorch's spelling of optimizers, losses and activations; a recipe in another library gets its numbers alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from agents.catalogue.recipe_constants import Number, numbers
from agents.catalogue.technique import Catalogue, Pattern, Range, Technique, load_catalogue
from agents.catalogue.transform import NotApplicable, apply_change, found
from agents.edits.file_text import shown
from agents.edits.search_replace import Files
from lineage.environment_spec import EnvironmentSpec, Surface
from lineage.python_ast import parse as parse_source

FOLDER = Path(__file__).resolve().parent / "general"
ANY = "*"
NAME_LENGTH = 40
# word in a number's name, factor either way, whether a width that must stay divisible
RANGES: tuple[tuple[re.Pattern[str], float, bool], ...] = tuple(
    (re.compile(words, re.IGNORECASE), factor, is_width)
    for words, factor, is_width in (
        (r"width|hidden|channel|(^|_|\.)dim|d_model|n_?embd?|embed|units|features", 2, True),
        (r"layers?($|_|\))|depth|blocks?($|_|\))|n_?heads?|n_layer", 2, False),
        (r"batch", 4, False),
        (r"epochs?|(^|_|-)steps?|iters?|rounds|trees|estimators", 4, False),
        (r"(^|_|-|\()lr|learning_?rate|rate($|\))", 10, False),
    )
)
DECAY = re.compile(r"weight_?decay|(^|_)wd($|\))", re.IGNORECASE)


@lru_cache(maxsize=1)
def entries() -> tuple[Technique, ...]:
    return load_catalogue(FOLDER).techniques


def general(spec: EnvironmentSpec, files: Files) -> Catalogue:
    """Techniques and ranges for this source; empty lists where nothing is recognised."""
    made: list[Technique] = []
    for surface in spec.surfaces:
        for path in sorted(surface.units):
            if path.endswith(".py") and path in files:
                text = shown(path, files[path])
                made += _of_file(surface, path, text, {technique.name for technique in made})
    ranges = {key: span for key, number in numbers(files, every=True).items() if (span := range_for(number))}
    return Catalogue(techniques=tuple(made), ranges=ranges, general=True)


def _of_file(surface: Surface, path: str, text: str, taken: set[str]) -> Iterator[Technique]:
    for entry in entries():
        placed = _placed(entry, surface, path)
        if not _fits(placed, text):
            continue
        name, count = entry.name, 1
        while name in taken:
            count += 1
            name = f"{entry.name[: NAME_LENGTH - 3]}_{count}"
        taken.add(name)
        yield placed.model_copy(update={"name": name})


def _placed(entry: Technique, surface: Surface, path: str) -> Technique:
    """The entry in this file; its constants as plain numbers where the surface allows no such name."""
    allowed = [c for c in entry.constants if _may_add(surface, path, c.name)]
    refused = [c for c in entry.constants if c not in allowed]

    def code(text: str) -> str:
        for constant in refused:
            text = re.sub(rf"\b{constant.name}\b", str(constant.value), text)
        return text

    def pattern(one: Pattern) -> Pattern:
        return one.model_copy(update={"file": path})

    return entry.model_copy(
        update={
            "surface": surface.name,
            "absent": tuple(map(pattern, entry.absent)),
            "requires": tuple(map(pattern, entry.requires)),
            "constants": tuple(c.model_copy(update={"file": path}) for c in allowed),
            "edits": tuple(e.model_copy(update={"file": path, "code": code(e.code)}) for e in entry.edits),
        }
    )


def _may_add(surface: Surface, path: str, name: str) -> bool:
    return "*" in surface.units[path] or any(fnmatchcase(name, pattern) for pattern in surface.allow_new)


def _fits(placed: Technique, text: str) -> bool:
    """Can all its edits be made in this text, one after the other?"""
    try:
        if any(found(text, one) for one in placed.absent) or not all(found(text, o) for o in placed.requires):
            return False
        for change in placed.edits:
            text = apply_change(text, change)
        parse_source(text)
    except (NotApplicable, SyntaxError, ValueError, RecursionError):
        return False
    return True


def range_for(number: Number) -> Range | None:
    """The range of a number whose name says what it is; None for another."""
    value = number.value
    if DECAY.search(number.name) and 0 <= value < 1:
        return Range(low=1e-6, high=max(0.5, 2 * value), log=True) if value > 0 else Range(low=0.0, high=0.1)
    for words, factor, is_width in RANGES:
        if words.search(number.name) and value > 0:
            low, high = value / factor, value * factor
            if not number.integer:
                return Range(low=low, high=high, log=True)
            multiple = _multiple(int(value)) if is_width else 1
            low, high = max(multiple, round(low)), max(round(high), round(value) + multiple)
            return (
                Range(low=float(low), high=float(high), log=True, multiple=multiple) if low < high else None
            )
    return None


def _multiple(width: int) -> int:
    """The largest power of two, up to 64, that divides a width and leaves at least four values below it."""
    return max(
        (step for step in (1, 2, 4, 8, 16, 32, 64) if width % step == 0 and width >= 4 * step), default=1
    )
