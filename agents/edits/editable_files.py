"""What in a recipe's source cannot be edited as its surfaces say: found before a campaign, not in its proposals.

Use: `problems(spec, files)` gives one sentence per fault, with file, place and what to do. Nothing is run.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from agents.edits.config_keys import config_kind, entries, owned
from agents.edits.file_text import text_of
from agents.edits.normal_form import parse
from lineage.environment_spec import EnvironmentSpec, Surface
from lineage.errors import EditRefused


def problems(spec: EnvironmentSpec, files: Mapping[str, bytes]) -> list[str]:
    """Faults of the surfaces on this source, and of files that no edit could pass with."""
    found = [text for surface in spec.surfaces for text in _of_surface(surface, files)]
    found += [
        text for path, data in files.items() if path.endswith(".py") for text in _unreadable(path, data)
    ]
    size = sum(len(data) + len(path.encode("utf-8", "surrogateescape")) for path, data in files.items())
    if size > spec.budget.source_bytes:
        largest = ", ".join(
            f"{p} ({len(files[p]):,})" for p in sorted(files, key=lambda p: -len(files[p]))[:3]
        )
        found.append(
            f"the source is {size:,} bytes, budget.source_bytes allows {spec.budget.source_bytes:,}; the largest files: "
            f"{largest}; raise the limit, or leave data to prepare.py"
        )
    return list(dict.fromkeys(found))


def _unreadable(path: str, data: bytes) -> Iterator[str]:
    try:
        parse(path, text_of(path, data))
    except EditRefused as error:
        yield str(error)


def _of_surface(surface: Surface, files: Mapping[str, bytes]) -> Iterator[str]:
    for path, units in surface.units.items():
        where = f"surface {surface.name}: {path}"
        if path not in files:
            near = difflib.get_close_matches(path, list(files), n=1)
            guess = f"; did you mean {near[0]}?" if near else f"; files: {', '.join(list(files)[:12])}"
            yield f"{where}: no such file in the source{guess}"
            continue
        try:
            text = text_of(path, files[path])
            if "\0" in text:
                yield f"{where}: a binary file (it has NUL bytes); only text can be edited"
        except EditRefused as error:
            yield f"surface {surface.name}: {error}"
            continue
        if path.endswith(".py"):
            continue
        if not config_kind(path):
            if units != ["*"]:
                yield f'{where}: a file of this kind is a surface as a whole; write ["*"] in place of {units}'
            continue
        try:
            keys = entries(path, text)
        except EditRefused as error:
            yield f"surface {surface.name}: {error}; mend it"
            continue
        for unit in units:
            if unit != "*" and not any(owned([unit], key) for key in keys):
                near = difflib.get_close_matches(unit, [".".join(key) for key in keys if key], n=1)
                guess = f"; did you mean {near[0]}?" if near else ""
                yield f"{where}: no key {unit!r} in it{guess}"
