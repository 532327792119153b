"""Identifiers: canonical JSON and its sha256, the hash of a source tree, time-ordered event ids, checked names.

Use: `sha256(canonical_json(obj))`, `tree_hash({"train.py": b"..."})`, `uuid7(after=newest_seen)`.
Limits: canonical JSON refuses NaN and naive times; `uuid7` is strictly increasing within a process,
and with `after=` also behind another machine's clock, so sorting by event id keeps cause before effect.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from lineage.errors import UsageError

SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
# A hive path `campaign=007` or `campaign=2026-11-01` is read back as a number or a date by pandas and duckdb.
CAMPAIGN = re.compile(r"[a-zA-Z][a-zA-Z0-9._-]{0,79}")
HEX64 = re.compile(r"\b[0-9a-f]{64}\b")


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return utc_text(value)
    raise TypeError(f"canonical JSON holds no {type(value).__name__}: {value!r}")


def utc_text(value: datetime) -> str:
    """A moment as text with microseconds and Z; a time without a zone is refused, not guessed."""
    if value.tzinfo is None:
        raise UsageError(f"the time {value.isoformat()} has no time zone; give an aware datetime (UTC)")
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def canonical_json(value: object) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
    )
    return text.encode("utf-8")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tree_manifest(hashes: Mapping[str, str]) -> bytes:
    """The text that `tree_hash` hashes: sorted lines of path, NUL, sha256 of the file."""
    for path in hashes:
        if not path or "\n" in path or "\0" in path:
            raise UsageError(f"the path {path!r} cannot be part of a source tree: empty, newline or NUL")
    return b"".join(f"{path}\0{hashes[path]}\n".encode() for path in sorted(hashes))


def tree_hash(files: Mapping[str, bytes]) -> str:
    """Hash of a set of files; the order of the mapping does not matter."""
    return sha256(tree_manifest({path: sha256(data) for path, data in files.items()}))


def check_campaign(name: str) -> str:
    if not CAMPAIGN.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a campaign: start with a letter, then letters, digits, '.', '_' or '-',"
            " at most 80 characters (e.g. c-golf-1)"
        )
    return name


def check_segment(kind: str, name: str) -> str:
    """Accept a name that is safe as one step of an object key on every store."""
    if not SEGMENT.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a {kind}: letters, digits, '.', '_' and '-' only, at most 120 characters,"
            " starting with a letter or digit"
        )
    return name


_lock = threading.Lock()
_last = (0, 0)


def uuid7(after: str = "") -> str:
    """A new version-7 UUID, greater than every earlier one of this process and than `after`.

    48 bits of milliseconds, a 12-bit counter, 62 random bits. When the clock does not advance, jumps
    back, or is behind `after`, the counter continues from the last id instead.
    """
    global _last
    floor = (int(after[:8] + after[9:13], 16), int(after[15:18], 16)) if after else (0, 0)
    with _lock:
        now = (time.time_ns() // 1_000_000, 0)
        seen = max(_last, floor)
        if now <= seen:
            now = (seen[0], seen[1] + 1) if seen[1] < 0xFFF else (seen[0] + 1, 0)
        _last = now
    tail = int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    value = (now[0] << 80) | (7 << 76) | (now[1] << 64) | (2 << 62) | tail
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
