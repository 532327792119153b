"""Takes an artifact from a pipe: every byte counted, every name checked before a file is made.

Use: the supervisor feeds `Sealer` the bytes that arrive; files are written to a folder that the
candidate never sees, and hashed there by the engine. The stream is `F name_length:u16 size:u64 name bytes`,
repeated, then `E count:u32`: it has no way to say link, device, owner or sparse hole, so none can arrive.
Limits: names are ASCII letters, digits and `._-`, at most three levels, no leading dot or dash; sizes are
as written; imports next to nothing, because every run waits for it.
"""

# os.path: part of the supervisor, whose start-up time is paid by every run
# ruff: noqa: PTH103, PTH118, PTH120
from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

FILE, END = b"F", b"E"
HEAD_BYTES, TAIL_BYTES = 11, 5
MAX_FILES = 64
MAX_PART, MAX_LEVELS = 100, 3
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_MORE = _LETTERS | frozenset(".-")


def head(name: bytes, size: int) -> bytes:
    return FILE + len(name).to_bytes(2, "little") + size.to_bytes(8, "little") + name


def tail(count: int) -> bytes:
    return END + count.to_bytes(4, "little")


def name_fault(name: str, seen: dict[str, int]) -> str:
    """The rule that an artifact path breaks, or an empty string."""
    parts = name.split("/")
    if len(parts) > MAX_LEVELS:
        return "artifact_name"
    for part in parts:
        if not 0 < len(part) <= MAX_PART or part[0] not in _LETTERS or not _MORE.issuperset(part):
            return "artifact_name"
    low = name.casefold()
    folded = {known.casefold() for known in seen}
    clash = low in folded or any(k.startswith(low + "/") or low.startswith(k + "/") for k in folded)
    return "artifact_name" if clash else ""


class Sealer:
    """Incremental reader. `rule` is set once a rule is broken, `done` once the end mark came."""

    def __init__(self, folder: str, cap: int) -> None:
        self.folder = folder
        self.cap = cap
        self.rule = ""
        self.done = False
        self.files: dict[str, int] = {}
        self.total = 0
        self._pending = bytearray()
        self._left = 0
        self._out: BinaryIO | None = None

    def feed(self, data: bytes) -> None:
        self._pending += data
        while self._pending and not self.rule and not self.done:
            if self._out is not None:
                self._body()
            elif not self._head():
                return
        if self.done and self._pending:
            self.rule, self.done = "artifact_trailing", False

    def _head(self) -> bool:
        kind = bytes(self._pending[:1])
        if kind == END:
            if len(self._pending) < TAIL_BYTES:
                return False
            count = int.from_bytes(self._pending[1:TAIL_BYTES], "little")
            del self._pending[:TAIL_BYTES]
            self.done = count == len(self.files)
            self.rule = "" if self.done else "artifact_count"
            return True
        if kind != FILE:
            self.rule = "artifact_stream"
            return True
        length = int.from_bytes(self._pending[1:3], "little")
        if len(self._pending) < HEAD_BYTES + length:
            return False
        size = int.from_bytes(self._pending[3:HEAD_BYTES], "little")
        raw = bytes(self._pending[HEAD_BYTES : HEAD_BYTES + length])
        del self._pending[: HEAD_BYTES + length]
        self._open(raw, size)
        return True

    def _open(self, raw: bytes, size: int) -> None:
        name = raw.decode("ascii", "replace")
        self.rule = name_fault(name, self.files)
        if not self.rule and len(self.files) >= MAX_FILES:
            self.rule = "artifact_count"
        self.total += size + len(raw)
        if not self.rule and self.total > self.cap:
            self.rule = "oversize"
        if self.rule:
            return
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self._out = open(path, "xb")  # noqa: SIM115 - closed when the announced size is in
        self._left = size
        self.files[name] = size
        self._close_if_whole()

    def _body(self) -> None:
        assert self._out is not None
        chunk = bytes(self._pending[: self._left])
        del self._pending[: len(chunk)]
        self._left -= len(chunk)
        self._out.write(chunk)
        self._close_if_whole()

    def _close_if_whole(self) -> None:
        if self._left == 0 and self._out is not None:
            self._out.close()
            self._out = None

    def result(self) -> dict[str, Any]:
        """What arrived: {"bytes", "files"} when complete and lawful, else {"rule", "numbers"}."""
        if self.done and not self.files:
            return {"rule": "no_artifact", "numbers": {"files": 0}}
        if self.done:
            return {"bytes": self.total, "files": self.files}
        numbers = {"bytes": self.total, "cap": self.cap, "over": max(0, self.total - self.cap)}
        return {"rule": self.rule or "no_artifact", "numbers": numbers if self.rule == "oversize" else {}}
