"""YAML, TOML and JSON files by key path: which keys a text has, and which of them a surface owns.

Use: `entries(path, text)` maps each key path (a tuple; list items by index) to what stands there; `owned(patterns, key)`
says whether `model.depth`, `optim.*` or `"a.b".c` covers a path: a pattern owns what is below it, each part may have
wildcards. Scalars are compared as they are written, so no reader's idea of a type matters (`1e-3` is text to PyYAML
and a number to others). A YAML alias is compared by the place that it stands for. Comments and layout are nobody's.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from lineage.errors import EditRefused

Key = tuple[str, ...]
_KINDS = {".yaml": "YAML", ".yml": "YAML", ".toml": "TOML", ".json": "JSON"}
_PART = re.compile(r'"((?:[^"\\]|\\.)*)"|([^."]+)')
MAX_ENTRIES = 20_000


def config_kind(path: str) -> str:
    """`YAML`, `TOML`, `JSON`, or nothing for another file."""
    return next((kind for end, kind in _KINDS.items() if path.lower().endswith(end)), "")


def dotted(key: Key) -> str:
    """As a surface writes it; a part with a dot in quotes.

    >>> dotted(("model", "a.b", "0"))
    'model."a.b".0'
    """
    return ".".join(json.dumps(part, ensure_ascii=False) if "." in part or not part else part for part in key)


@lru_cache(maxsize=512)
def parts_of(pattern: str) -> Key:
    """The key path that a dotted name stands for."""
    return tuple(
        json.loads(f'"{quoted}"') if quoted or not plain else plain
        for quoted, plain in _PART.findall(pattern)
    )


def owned(patterns: Iterable[str], key: Key) -> bool:
    """Does one of the patterns own this key?"""
    for pattern in patterns:
        parts = parts_of(pattern)
        if pattern == "*" or (
            len(key) >= len(parts) and all(fnmatchcase(k, p) for k, p in zip(key, parts, strict=False))
        ):
            return True
    return False


def _refuse(path: str, why: str, line: int = 0) -> EditRefused:
    where = f"{path}, line {line}" if line else path
    return EditRefused(
        "syntax", f"{where}: not valid {config_kind(path)}: {why}", {"file": path, "line": line}
    )


@lru_cache(maxsize=256)
def entries(path: str, text: str) -> dict[Key, str]:
    """Raises EditRefused("syntax") that names the line for a text that cannot be read."""
    try:
        found = list(_READERS[config_kind(path)](path, text))
    except RecursionError as error:
        raise _refuse(path, "nested too deeply") from error
    if len(found) > MAX_ENTRIES:
        raise _refuse(path, f"{len(found)} keys and values, at most {MAX_ENTRIES} are read")
    out: dict[Key, str] = {}
    for key, value in found:
        if key in out:
            raise _refuse(path, f"the key {dotted(key)} stands there twice")
        out[key] = value
    return out


# ---- readers: (key path, what stands there), containers included ---------------------------------


def _tree(key: Key, value: Any) -> Iterator[tuple[Key, str]]:
    if isinstance(value, dict):
        yield key, "{}"
        for name, inner in value.items():
            yield from _tree((*key, name), inner)
    elif isinstance(value, list):
        yield key, "[]"
        for at, inner in enumerate(value):
            yield from _tree((*key, str(at)), inner)
    else:
        yield key, f"{type(value).__name__} {value!r}"


def _toml(path: str, text: str) -> Iterator[tuple[Key, str]]:
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line (\d+)", str(error))
        raise _refuse(path, str(error), int(at.group(1)) if at else 0) from error
    yield from _tree((), value)


class _Number(str):
    """A number of a JSON text, as it is written."""


def _json(path: str, text: str) -> Iterator[tuple[Key, str]]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise _refuse(path, f"the key {twice!r} stands there twice")
        return dict(pairs)

    try:
        value = json.loads(
            text, object_pairs_hook=once, parse_float=_Number, parse_int=_Number, parse_constant=_Number
        )
    except json.JSONDecodeError as error:
        raise _refuse(path, error.msg, error.lineno) from error
    yield from _tree((), value)


def _yaml(path: str, text: str) -> Iterator[tuple[Key, str]]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        events = list(YAML(typ="rt", pure=True).parse(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _refuse(path, str(error.problem or error.context), mark.line + 1 if mark else 0) from error
    except YAMLError as error:
        raise _refuse(path, str(error).splitlines()[0]) from error
    yield from _YamlWalk(events).documents()


class _YamlWalk:
    """Goes through the events of a YAML stream once."""

    def __init__(self, events: list[Any]) -> None:
        self.events, self.at = events, 0
        self.anchors: dict[str, Key] = {}

    def take(self) -> Any:
        self.at += 1
        return self.events[self.at - 1]

    def kind(self) -> str:
        return type(self.events[self.at]).__name__

    def documents(self) -> Iterator[tuple[Key, str]]:
        many = sum(type(event).__name__ == "DocumentStartEvent" for event in self.events) > 1
        number = 0
        while self.at < len(self.events):
            if self.kind() == "DocumentStartEvent":
                self.take()
                self.anchors = {}
                yield from self.node((f"document {number}",) if many else ())
                number += 1
            else:
                self.take()

    def node(self, key: Key) -> Iterator[tuple[Key, str]]:
        event, name = self.events[self.at], self.kind()
        self.take()
        if name == "AliasEvent":
            yield key, f"alias of {dotted(self.anchors.get(str(event.anchor), ()))}"
            return
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self.anchors[str(anchor)] = key
        tag = f" tag {event.tag}" if event.tag else ""
        if name == "ScalarEvent":
            plain = event.style is None or event.style == ""
            yield key, f"{'plain' if plain else 'text'} {event.value!r}{tag}"
        elif name == "SequenceStartEvent":
            yield key, f"[]{tag}"
            at = 0
            while self.kind() != "SequenceEndEvent":
                yield from self.node((*key, str(at)))
                at += 1
            self.take()
        else:
            yield key, "{}" + tag
            while self.kind() != "MappingEndEvent":
                label = self.label()
                yield from self.node((*key, label))
            self.take()

    def label(self) -> str:
        """The key of a mapping's next entry; one that is no scalar by its contents."""
        if self.kind() == "ScalarEvent":
            event = self.take()
            if event.anchor is not None:
                self.anchors[str(event.anchor)] = (str(event.value),)
            return str(event.value)
        return repr(list(self.node(())))


_READERS = {"YAML": _yaml, "TOML": _toml, "JSON": _json}


def changed_keys(path: str, old: str, new: str) -> list[Key]:
    """Key paths at which something else stands, in the order of their names."""
    before, after = entries(path, old), entries(path, new)
    return sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
