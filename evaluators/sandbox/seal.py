"""Takes an artifact from a pipe and seals it: every byte counted, every name checked, hashed.

Use: the supervisor feeds `Sealer` the bytes that arrive; files are written to a folder that the
candidate never sees. The stream is `F name_length:u16 size:u64 name bytes`, repeated, then
`E count:u32`: it has no way to say link, device, owner or sparse hole, so none can arrive.
Limits: names are ASCII `[A-Za-z0-9._-]`, at most three levels, no leading dot; sizes are as written.
"""

# os.path: part of the supervisor
# ruff: noqa: PTH103, PTH118, PTH120
from __future__ import annotations

import hashlib
import os
import re
import struct
from typing import Any, BinaryIO

FILE, END = b"F", b"E"
HEAD, TAIL = struct.Struct("<cHQ"), struct.Struct("<cI")
MAX_FILES = 64
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}){0,2}\Z")


def name_fault(name: str, seen: dict[str, int]) -> str:
    """The rule that an artifact path breaks, or an empty string."""
    if not _NAME.match(name):
        return "artifact_name"
    folded = {known.casefold() for known in seen}
    low = name.casefold()
    clash = low in folded or any(k.startswith(low + "/") or low.startswith(k + "/") for k in folded)
    return "artifact_name" if clash else ""


def digest(hashes: dict[str, str]) -> str:
    """The artifact's identity: sha256 over sorted `path NUL sha256 newline`, as for source trees."""
    lines = "".join(f"{path}\0{hashes[path]}\n" for path in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()


class Sealer:
    """Incremental reader. `rule` is set once a rule is broken, `done` once the end mark came."""

    def __init__(self, folder: str, cap: int) -> None:
        self.folder = folder
        self.cap = cap
        self.rule = ""
        self.done = False
        self.files: dict[str, int] = {}
        self.hashes: dict[str, str] = {}
        self.total = 0
        self._pending = bytearray()
        self._left = 0
        self._name = ""
        self._hash = hashlib.sha256()
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
            if len(self._pending) < TAIL.size:
                return False
            (_, count) = TAIL.unpack_from(self._pending)
            del self._pending[: TAIL.size]
            self.done = count == len(self.files)
            self.rule = "" if self.done else "artifact_count"
            return True
        if kind != FILE:
            self.rule = "artifact_stream"
            return True
        if len(self._pending) < HEAD.size:
            return False
        _, length, size = HEAD.unpack_from(self._pending)
        if len(self._pending) < HEAD.size + length:
            return False
        raw = bytes(self._pending[HEAD.size : HEAD.size + length])
        del self._pending[: HEAD.size + length]
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
        self._out = open(path, "xb")  # noqa: SIM115 - closed in _body when the announced size is in
        self._name, self._left, self._hash = name, size, hashlib.sha256()
        self.files[name] = size
        if size == 0:
            self._close()

    def _body(self) -> None:
        chunk = bytes(self._pending[: self._left])
        del self._pending[: len(chunk)]
        self._left -= len(chunk)
        self._hash.update(chunk)
        assert self._out is not None
        self._out.write(chunk)
        if self._left == 0:
            self._close()

    def _close(self) -> None:
        assert self._out is not None
        self._out.close()
        self._out = None
        self.hashes[self._name] = self._hash.hexdigest()

    def result(self) -> dict[str, Any]:
        """What arrived: {"sha256", "bytes", "files"} when complete and lawful, else the rule broken."""
        numbers = {"bytes": self.total, "cap": self.cap, "over": max(0, self.total - self.cap)}
        if self.done and not self.files:
            return {"rule": "no_artifact", "numbers": {"files": 0}}
        if self.done:
            return {"sha256": digest(self.hashes), "bytes": self.total, "files": self.files}
        return {"rule": self.rule or "no_artifact", "numbers": numbers if self.rule == "oversize" else {}}
