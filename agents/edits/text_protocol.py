"""Edits written as plain text, for models that have no tools or ignore them.

`parse_answer(text, paths, tools)` finds, in this order of trust: tool calls written out as JSON
(`{"name": "replace", "arguments": {...}}`), search/replace blocks under a file name, a unified diff,
and a JSON object with an `edits` list. It also picks up `HYPOTHESIS:` and `EXPECTED_DELTA:` lines.
It only reads: whether an edit fits its file is decided by `agents.edits.search_replace`. Small local models write
all of these (measured: a 1.5B model answered tool_choice "any" with the call as text, 2 of 2 times).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agents.edits.search_replace import from_unified_diff
from lineage.errors import EditRefused
from lineage.records import Edit

_BLOCK = re.compile(
    r"^[ \t]*<{5,9} ?SEARCH[^\n]*\n(?P<search>.*?)^[ \t]*={5,9}[ \t]*\n(?P<replace>.*?)^[ \t]*>{5,9} ?REPLACE",
    re.MULTILINE | re.DOTALL,
)
_HYPOTHESIS = re.compile(
    r"^[\s>*#_-]*hypothesis[\s*_]*[:=][\s*_]*(?P<text>\S.*)$", re.MULTILINE | re.IGNORECASE
)
_DELTA = re.compile(
    r"^[\s>*#_-]*expected[ _]delta[\s*_]*[:=][\s*_]*(?P<value>[-+]?[0-9.]+(?:e[-+]?[0-9]+)?)",
    re.MULTILINE | re.IGNORECASE,
)
_MAX_TEXT = 400_000
_MAX_CALLS = 40


@dataclass(frozen=True)
class TextAnswer:
    """The content of a text reply. `calls` are (tool, arguments); `problem` is the reason when there are none."""

    hypothesis: str = ""
    expected_delta: float | None = None
    edits: tuple[Edit, ...] = ()
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    problem: str = ""


def parse_answer(text: str, paths: Collection[str], tools: Collection[str] = ()) -> TextAnswer:
    """Everything usable in one reply. `paths` are the recipe's files, `tools` the known tool names."""
    text = text[:_MAX_TEXT].replace("\r\n", "\n")
    objects = list(_objects(text))
    calls = tuple(call for value in objects for call in _calls(value, tools))[:_MAX_CALLS]
    problem = ""
    edits = _blocks(text, paths)
    if not edits and not calls:
        edits, problem = _diffs(text)
    if not edits and not calls:
        edits = tuple(edit for value in objects for edit in _listed(value))
    return TextAnswer(
        hypothesis=_found(_HYPOTHESIS, text, "text") or _from_objects(objects),
        expected_delta=finite(_found(_DELTA, text, "value")),
        edits=edits,
        calls=calls,
        problem=problem,
    )


def finite(value: object) -> float | None:
    """A finite float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _found(pattern: re.Pattern[str], text: str, group: str) -> str:
    match = pattern.search(text)
    return match.group(group).strip() if match else ""


def _from_objects(objects: Sequence[object]) -> str:
    values = [o.get("hypothesis") for o in objects if isinstance(o, dict)]
    return next((v for v in values if isinstance(v, str) and v.strip()), "")


def _blocks(text: str, paths: Collection[str]) -> tuple[Edit, ...]:
    edits, last = [], ""
    for match in _BLOCK.finditer(text):
        last = _path_before(text[: match.start()], paths) or last
        path = last or (next(iter(paths)) if len(paths) == 1 else "")
        if path:
            edits.append(Edit(path=path, search=match["search"], replace=match["replace"]))
    return tuple(edits)


def _names_a_file(text: str, paths: Collection[str]) -> bool:
    """Is it a plain path of a kind that the recipe has, though not one of its files?"""
    kinds = {"py", *(path.rpartition(".")[2] for path in paths)}
    return re.fullmatch(r"(?:[A-Za-z_][\w-]*/){0,5}[A-Za-z_][\w-]*\.\w{1,12}", text) is not None and (
        text.rpartition(".")[2] in kinds
    )


def _path_before(before: str, paths: Collection[str]) -> str:
    """The file named in the three lines above a block (a fence or a blank line may come between)."""
    for line in reversed(before.rstrip().split("\n")[-3:]):
        bare = line.strip().removeprefix("```").strip("`*#: \t")
        bare = bare.removeprefix("python").strip() if " " in bare else bare
        if bare in paths or _names_a_file(bare, paths):
            return bare
        named = [p for p in paths if re.search(rf"(?<![\w./]){re.escape(p)}(?![\w])", line)]
        if len(named) == 1:
            return named[0]
    return ""


def _diffs(text: str) -> tuple[tuple[Edit, ...], str]:
    """Edits of a unified diff inside fences or bare; the reason when there is one that is not usable."""
    if not re.search(r"^--- .*\n\+\+\+ ", text, re.MULTILINE):
        return (), ""
    fenced = re.findall(r"^```(?:diff|patch)?[ \t]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    diffs = [body for body in fenced if re.search(r"^--- .*\n\+\+\+ ", body, re.MULTILINE)]
    start = re.search(r"^--- .*\n\+\+\+ ", text, re.MULTILINE)
    whole = "\n".join(diffs) if diffs else text[start.start() if start else 0 :]
    try:
        return from_unified_diff(whole), ""
    except EditRefused as e:
        return (), str(e)


def _objects(text: str) -> Iterator[object]:
    """JSON objects that begin anywhere in the text; each one is skipped over once it is read."""
    decoder, at, tries = json.JSONDecoder(), 0, 0
    while (at := text.find("{", at)) >= 0 and tries < 400:
        tries += 1
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        yield value
        at = end


def _calls(value: object, tools: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(value, dict):
        return
    function = value.get("function")
    inner: dict[str, Any] = function if isinstance(function, dict) else value
    name = inner.get("name") or inner.get("tool")
    given = next((inner[k] for k in ("arguments", "input", "parameters", "args") if k in inner), None)
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            given = None
    if isinstance(name, str) and name in tools and isinstance(given, dict):
        yield name, given
    for nested in value.get("tool_calls") or []:
        yield from _calls(nested, tools)


def _listed(value: object) -> Iterator[Edit]:
    items = value.get("edits") if isinstance(value, dict) else None
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict) and all(
            isinstance(item.get(k), str) for k in ("path", "search", "replace")
        ):
            yield Edit(path=item["path"], search=item["search"], replace=item["replace"])
