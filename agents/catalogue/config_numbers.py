"""Numbers in YAML, TOML and JSON files: read by key path, and set in place with comments and layout kept.

Use: `config_numbers(path, text)` gives each number's dotted key path and how it is written; `set_config_number` replaces
those characters and nothing else. Limits: a number that a YAML alias repeats is set where it stands; dates, versions
in quotes, hexadecimal and special floats are not numbers here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from agents.catalogue.transform import NotApplicable
from agents.edits.config_keys import Key, config_kind, dotted, entries
from lineage.errors import EditRefused

_NUMBER = re.compile(r"[-+]?(?:0|[1-9]\d*)(?:\.\d*)?(?:[eE][-+]?\d+)?|[-+]?\.\d+(?:[eE][-+]?\d+)?")
_INTEGER = re.compile(r"[-+]?\d+")
_JSON = re.compile(r'\s+|"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


@dataclass(frozen=True)
class _Place:
    """A scalar's characters in the text."""

    key: Key
    written: str
    first: int
    last: int


def _json_places(text: str) -> Iterator[_Place]:
    key: list[str | int] = []
    label: str | None = None
    for match in _JSON.finditer(text):
        token = match.group()
        if token.isspace():
            continue
        if token in "{[":
            key.append("" if token == "{" else 0)
        elif token in "}]":
            key.pop()
        elif token == ",":
            label, key[-1] = None, key[-1] + 1 if isinstance(key[-1], int) else ""
        elif token == ":":
            key[-1] = label or ""
        elif token.startswith('"'):
            label = json.loads(token)
        else:
            yield _Place(tuple(map(str, key)), token, match.start(), match.end())


def _yaml_places(text: str) -> Iterator[_Place]:
    from ruamel.yaml import YAML

    root = YAML(typ="rt", pure=True).compose(text)

    def walk(node: Any, key: Key, seen: frozenset[int]) -> Iterator[_Place]:
        if id(node) in seen:
            return
        seen |= {id(node)}
        kind = type(node).__name__
        if kind == "MappingNode":
            for name, value in node.value:
                if type(name).__name__ == "ScalarNode":
                    yield from walk(value, (*key, str(name.value)), seen)
        elif kind == "SequenceNode":
            for at, value in enumerate(node.value):
                yield from walk(value, (*key, str(at)), seen)
        elif kind == "ScalarNode" and not node.style:
            yield _Place(key, str(node.value), node.start_mark.index, node.end_mark.index)

    yield from walk(root, (), frozenset())


@lru_cache(maxsize=256)
def _places(path: str, text: str) -> dict[str, _Place]:
    """Numbers with a place of their own, by dotted key; none for a text that cannot be read."""
    try:
        known = entries(path, text)
        kind = config_kind(path)
        found = {"JSON": _json_places, "YAML": _yaml_places, "TOML": _toml_places}[kind](text)
        places = [place for place in found if place.key in known and _NUMBER.fullmatch(place.written)]
    except (EditRefused, ValueError, RecursionError):
        return {}
    except Exception as error:  # ruamel's own tree, for several documents in one file
        if type(error).__module__.split(".")[0] not in ("ruamel", "tomlkit"):
            raise
        return {}
    alone = {(place.first, place.last) for place in places}
    return {
        dotted(p.key): p
        for p in places
        if (p.first, p.last) in alone and not known[p.key].startswith("alias")
    }


def _toml_places(text: str) -> Iterator[_Place]:
    """By tomlkit, which keeps how a value is written; its place does not matter, as tomlkit writes it back."""
    import tomlkit

    def walk(value: Any, key: Key) -> Iterator[_Place]:
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from walk(inner, (*key, str(name)))
        elif isinstance(value, list):
            for at, inner in enumerate(value):
                yield from walk(inner, (*key, str(at)))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield _Place(key, value.as_string() if hasattr(value, "as_string") else str(value), 0, 0)

    yield from walk(tomlkit.parse(text), ())


def config_numbers(path: str, text: str) -> dict[str, tuple[float, bool]]:
    """Dotted key -> (value, is a whole number)."""
    return {
        key: (float(place.written), _INTEGER.fullmatch(place.written) is not None)
        for key, place in _places(path, text).items()
    }


def _digits(kind: str, value: float, integer: bool) -> str:
    if integer and float(value).is_integer():
        return str(int(value))
    text = f"{value:.4g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"  # PyYAML reads 1e-05 as text
    return text if "." in text else text + ".0"


def set_config_number(path: str, text: str, key: str, value: float) -> str:
    """The text with another number at that key. Raises NotApplicable where there is none."""
    place = _places(path, text).get(key)
    if place is None:
        raise NotApplicable(f"no number {key} in {path}")
    kind = config_kind(path)
    digits = _digits(kind, value, _INTEGER.fullmatch(place.written) is not None)
    if kind != "TOML":
        return text[: place.first] + digits + text[place.last :]
    import tomlkit

    document = tomlkit.parse(text)
    inner: Any = document
    for part in place.key[:-1]:
        inner = inner[int(part)] if isinstance(inner, list) else inner[part]
    last = int(place.key[-1]) if isinstance(inner, list) else place.key[-1]
    inner[last] = tomlkit.value(digits)
    return tomlkit.dumps(document)
