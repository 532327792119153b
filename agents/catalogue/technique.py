"""A technique is data: one TOML file with what to change, where it applies, and its source.

    name = "cosine_decay"                  # equals the file's name
    surface = "opt"                        # the surface of the environment that owns the code
    title = "cosine decay of the rate"     # a noun phrase; starts the hypothesis
    why = "holds the rate high for longer" # the mechanism; ends the hypothesis
    source = "Loshchilov and Hutter 2017, arXiv:1608.03983"
    aim = "score"                          # or "room": buys accuracy or bytes that another edit can spend; or
                                           # "trade": its first constant sells such room for score, step by step
    touches = ["optim.py:rate_at"]         # units that may change, beside the constants below
    absent = [{ file = "optim.py", inside = "rate_at", find = "math.cos(__x)" }]   # found: already there

    [[constants]]                          # set where the file has it, inserted where it has not
    file = "optim.py"
    name = "COSINE_FLOOR"
    value = 0.02                           # first try; later ones are drawn from the range
    low = 0.001
    high = 0.3
    log = true
    reason = "share of the peak that is left at the end"
    after = "WARMUP"                       # constant to insert it after; by default the last one

    [[edits]]                              # see agents.catalogue.transform for the words of `do`
    file = "optim.py"
    inside = "rate_at"
    do = "replace"
    find = "return __expression"
    code = "return COSINE_FLOOR + ..."

`repeatable = true` marks a move of constants that may be made again (epochs down, rate up); its
constants use `scale = [low, high]`, a factor on the present value. A file `_numbers.toml` has
ranges of constants that the recipe itself has. An invalid file is an error that
names the file and the key.
"""

from __future__ import annotations

import tomllib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from lineage.environment_spec import Name, Spec
from lineage.errors import SpecInvalid

Value = int | float | str
Do = Literal["replace", "before", "after", "start", "end", "expression", "definition", "add", "import"]
NUMBERS = "_numbers.toml"


class Range(Spec):
    """Where a number may lie; whole numbers stay whole, in multiples where a width must divide."""

    low: float
    high: float
    log: bool = False
    multiple: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError(f"range {self.low}..{self.high} (log={self.log}) is empty or not positive")
        return self


class Constant(Spec):
    """An upper-case module constant that the technique needs. A string value is code, inserted unchanged."""

    file: str
    name: str = Field(pattern=r"^[A-Z][A-Z0-9_]*$")
    value: Value | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    scale: tuple[float, float] | None = None
    choices: tuple[Value, ...] = ()
    reason: str = ""
    after: str = ""

    @model_validator(mode="after")
    def _drawable(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"constant {self.name}: low and high come together")
        if self.value is None and self.scale is None:
            raise ValueError(f"constant {self.name}: needs a value, or a scale on the present one")
        _ = self.range
        return self

    @property
    def key(self) -> str:
        return f"{self.file}:{self.name}"

    @property
    def range(self) -> Range | None:
        if self.low is None or self.high is None:
            return None
        return Range(low=self.low, high=self.high, log=self.log)


class Pattern(Spec):
    """Code to be found, or not, inside a definition ("" is the whole file)."""

    file: str
    find: str
    inside: str = ""


class Change(Spec):
    """One structural edit. `all` allows more than one place."""

    file: str
    do: Do
    inside: str = ""
    find: str = ""
    code: str = ""
    all: bool = False

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.do in ("replace", "before", "after", "expression") and not self.find.strip():
            raise ValueError(f"edit {self.do!r} in {self.file}: `find` is missing")
        if self.do == "definition" and not self.inside:
            raise ValueError(f"edit 'definition' in {self.file}: `inside` names the definition")
        if self.do != "replace" and not self.code.strip():
            raise ValueError(f"edit {self.do!r} in {self.file}: `code` is missing")
        return self


class Technique(Spec):
    name: Name
    surface: Name
    title: str = Field(min_length=8, max_length=120)
    why: str = Field(min_length=20, max_length=400)
    source: str = Field(min_length=4, max_length=300)
    aim: Literal["score", "room", "trade"] = "score"
    touches: tuple[str, ...] = ()
    repeatable: bool = False
    absent: tuple[Pattern, ...] = ()
    requires: tuple[Pattern, ...] = ()
    constants: tuple[Constant, ...] = ()
    edits: tuple[Change, ...] = ()

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.edits and not self.constants:
            raise ValueError("neither edits nor constants: the technique changes nothing")
        if self.aim == "trade" and not (self.repeatable and self.constants and self.constants[0].scale):
            raise ValueError("a trade is repeatable, and its first constant has a scale")
        return self

    @property
    def size(self) -> int:
        """The least number of lines that it changes."""
        return len(self.constants) + sum(len(e.code.strip().splitlines()) for e in self.edits)

    @property
    def files(self) -> frozenset[str]:
        return frozenset([*(c.file for c in self.constants), *(e.file for e in self.edits)])


class Catalogue(Spec):
    """All techniques of one recipe, by name, and the ranges of the recipe's own constants."""

    techniques: tuple[Technique, ...]
    ranges: dict[str, Range]
    general: bool = False  # of a recipe that has none of its own (`general_catalogue`)

    @property
    def is_empty(self) -> bool:
        return not self.techniques and not self.ranges

    @property
    def takes_every_number(self) -> bool:
        """Are numbers in every form moved, or upper-case constants alone?"""
        return self.general or self.is_empty

    def of(self, surfaces: tuple[str, ...]) -> tuple[Technique, ...]:
        return tuple(t for t in self.techniques if t.surface in surfaces)

    @cached_property
    def trades(self) -> dict[str, float]:
        """First constants of the techniques that sell room for score, to the way in which they do: 1 up, -1 down."""
        leads = [t.constants[0] for t in self.techniques if t.aim == "trade"]
        return {c.key: 1.0 if c.scale[0] * c.scale[1] > 1 else -1.0 for c in leads if c.scale}

    def get(self, name: str) -> Technique | None:
        return next((t for t in self.techniques if t.name == name), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as e:
        raise SpecInvalid(f"{path}: not valid TOML: {e}") from e
    except UnicodeDecodeError as e:
        raise SpecInvalid(f"{path}: not UTF-8 at byte {e.start}") from e


def _explain(path: Path, error: ValidationError) -> SpecInvalid:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    return SpecInvalid(f"{path}: {where}: {first['msg']} (value {str(first['input'])[:80]!r})")


def load_technique(path: Path) -> Technique:
    try:
        technique = Technique.model_validate(_read(path))
    except ValidationError as e:
        raise _explain(path, e) from e
    if technique.name != path.stem:
        raise SpecInvalid(f"{path}: name is {technique.name!r}; it must equal the file's name {path.stem!r}")
    return technique


def load_catalogue(folder: Path) -> Catalogue:
    """Every `*.toml` of a folder, in order of name; an absent folder is an empty catalogue."""
    files = sorted(folder.glob("*.toml")) if folder.is_dir() else []
    techniques = tuple(load_technique(path) for path in files if path.name != NUMBERS)
    ranges: dict[str, Range] = {}
    try:
        for path in files:
            if path.name == NUMBERS:
                ranges = {key: Range.model_validate(value) for key, value in _read(path).items()}
    except ValidationError as e:
        raise _explain(folder / NUMBERS, e) from e
    for technique in techniques:
        for constant in technique.constants:
            if constant.range is not None and constant.key not in ranges:
                ranges[constant.key] = constant.range
    return Catalogue(techniques=techniques, ranges=ranges)
