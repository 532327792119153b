"""A change between two programs as hunks that can be taken one by one.

Use: `hunks = split(start, wanted)`, `assemble(start, hunks, chosen)`: all of them give `wanted`, none gives
`start`, to the byte. A hunk is one run of changed lines (difflib opcodes of the file's lines), a file
that is new, or one that is gone. Limits: lines are the smallest unit; hunks need not make sense alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Hunk:
    """Lines `first` to before `last` (from 0) of the start's file, and the text that takes their place."""

    path: str
    kind: Literal["change", "create", "delete"]
    first: int = 0
    last: int = 0
    text: bytes = b""

    @property
    def where(self) -> str:
        if self.kind == "create":
            return f"{self.path} (new file)"
        if self.kind == "delete":
            return f"{self.path} (deleted)"
        span = f"{self.first + 1}-{self.last}" if self.last > self.first + 1 else f"{self.first + 1}"
        return f"{self.path}:{span}"


def split(start: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> tuple[Hunk, ...]:
    """Every hunk that turns `start` into `wanted`, files in order of name, lines in order."""
    hunks: list[Hunk] = []
    for path in sorted({*start, *wanted}):
        old, new = start.get(path), wanted.get(path)
        if old is None and new is not None:
            hunks.append(Hunk(path, "create", text=new))
        elif new is None:
            hunks.append(Hunk(path, "delete"))
        elif old is not None and old != new:
            hunks += _changes(path, old, new)
    return tuple(hunks)


def _changes(path: str, old: bytes, new: bytes) -> list[Hunk]:
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    return [
        Hunk(path, "change", i1, i2, b"".join(after[j1:j2]))
        for tag, i1, i2, j1, j2 in matcher.get_opcodes()
        if tag != "equal"
    ]


def assemble(start: Mapping[str, bytes], hunks: Sequence[Hunk], chosen: Collection[int]) -> dict[str, bytes]:
    """The start with only the hunks of these indices."""
    files = dict(start)
    taken = [hunk for index, hunk in enumerate(hunks) if index in chosen]
    for hunk in taken:
        if hunk.kind == "create":
            files[hunk.path] = hunk.text
        elif hunk.kind == "delete":
            del files[hunk.path]
    for path in {hunk.path for hunk in taken if hunk.kind == "change"}:
        lines, at = start[path].splitlines(keepends=True), 0
        out: list[bytes] = []
        for hunk in sorted((h for h in taken if h.path == path), key=lambda h: (h.first, h.last)):
            out += [*lines[at : hunk.first], hunk.text]
            at = hunk.last
        files[path] = b"".join([*out, *lines[at:]])
    return files
