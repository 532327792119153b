"""Which object keys a store takes, and which it may ever delete."""

from __future__ import annotations

from lineage.errors import StoreDenied, UsageError

DELETABLE = ("log/", "probe/", "beacon/")


def check_key(key: str) -> str:
    """Refuse keys that could leave the root or that some file system would read differently."""
    steps = key.split("/")
    if any(step in ("", ".", "..") for step in steps) or "\\" in key or "\0" in key or len(key) > 900:
        raise UsageError(
            f"{key!r} is not an object key: relative, no empty or dotted steps, at most 900 characters"
        )
    return key


def check_delete(key: str, root: str) -> str:
    if not key.startswith(DELETABLE):
        raise StoreDenied(
            f"{key} in {root} is part of the record and is never deleted; only log/ and beacon/ may shrink"
        )
    return check_key(key)
