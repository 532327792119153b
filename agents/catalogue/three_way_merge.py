"""Three-way merge of recipe sources, first by unit and then by line.

Git merges lines, so two neighbouring constants that changed on different branches are a conflict
to it although they have nothing to do with each other, and git may be absent on the machine. Here
a file is cut into the units of `agents.edits.role_surface`; a unit that changed on one side only is taken from
there, and one that changed on both sides is merged by line. Nothing is guessed: None means conflict.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import SequenceMatcher

from agents.edits.file_text import bytes_like, text_of
from agents.edits.role_surface import CODE, IMPORTS, TAIL, units
from agents.edits.search_replace import Files, lines_of
from lineage.errors import EditRefused


def _anchors(base: list[str], side: list[str]) -> dict[int, int]:
    """base line -> side line for every line that both have, in order."""
    blocks = SequenceMatcher(None, base, side, autojunk=False).get_matching_blocks()
    return {block.a + i: block.b + i for block in blocks for i in range(block.size)}


def merge_lines(base: list[str], ours: list[str], theirs: list[str]) -> list[str] | None:
    """diff3: stretches between lines that all three share come from the side that changed them."""
    in_ours, in_theirs = _anchors(base, ours), _anchors(base, theirs)
    shared = [i for i in range(len(base)) if i in in_ours and i in in_theirs]
    out: list[str] = []
    at = (0, 0, 0)
    for i in [*shared, len(base)]:
        end = (i, in_ours.get(i, len(ours)), in_theirs.get(i, len(theirs)))
        old, a, b = base[at[0] : end[0]], ours[at[1] : end[1]], theirs[at[2] : end[2]]
        if a in (old, b):
            out += b
        elif b == old:
            out += a
        else:
            return None
        if i < len(base):
            out.append(base[i])
        at = (end[0] + 1, end[1] + 1, end[2] + 1)
    return out


def _table(path: str, text: str) -> dict[str, str]:
    """Unit key -> text, in order. Imports and loose code are keyed by their text."""
    table: dict[str, str] = {}
    for unit in units(path, text):
        loose = unit.key in (IMPORTS, CODE, TAIL) or unit.key.endswith(".<code>")
        key = f"{unit.key} {unit.text.strip()}" if loose else unit.key
        while key in table:
            key += "'"
        table[key] = unit.text
    return table


def _order(ours: list[str], theirs: list[str], kept: set[str]) -> list[str]:
    """Our order, with what only they have behind the unit that it follows there."""
    order = [key for key in ours if key in kept]
    for at, key in enumerate(theirs):
        if key in kept and key not in order:
            before = next((k for k in reversed(theirs[:at]) if k in order), None)
            order.insert(order.index(before) + 1 if before is not None else 0, key)
    return order


def merge_text(path: str, base: str, ours: str, theirs: str) -> str | None:
    if ours in (base, theirs):
        return theirs
    if theirs == base:
        return ours
    if not path.endswith(".py"):
        lines = merge_lines(lines_of(base), lines_of(ours), lines_of(theirs))
        return None if lines is None else "".join(lines)
    o, a, b = _table(path, base), _table(path, ours), _table(path, theirs)
    merged: dict[str, str] = {}
    for key in dict.fromkeys([*a, *b, *o]):
        x, y, z = o.get(key), a.get(key), b.get(key)
        taken = z if y == x else y
        if x != y != z != x:  # three different texts; a missing one cannot be merged by line
            if x is None or y is None or z is None:
                return None
            merge = merge_lines(lines_of(x), lines_of(y), lines_of(z))
            if merge is None:
                return None
            taken = "".join(merge)
        if taken is not None:
            merged[key] = taken
    order = _order(list(a), list(b), set(merged))
    parts = [merged[key] for key in order]
    joined = [p if p.endswith("\n") or i == len(parts) - 1 else p + "\n" for i, p in enumerate(parts)]
    return "".join(joined)


def merge_files(
    base: Mapping[str, bytes], ours: Mapping[str, bytes], theirs: Mapping[str, bytes]
) -> Files | None:
    """`ours` plus what changed from `base` to `theirs`; None where they contradict each other."""
    out: Files = {}
    for path in sorted({*base, *ours, *theirs}):
        o, a, b = base.get(path), ours.get(path), theirs.get(path)
        if a in (o, b):
            taken = b
        elif b == o:
            taken = a
        elif o is None or a is None or b is None:
            return None
        else:
            try:
                text = merge_text(path, *(text_of(path, data) for data in (o, a, b)))
                taken = None if text is None else bytes_like(path, text, a)
            except EditRefused:
                return None
            if taken is None:
                return None
        if taken is not None:
            out[path] = taken
    return out
