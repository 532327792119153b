"""Reads the files of a workspace that an agent has written to, as data of a stranger. The standard library alone.

`read_files(folder, own)` opens nothing through a link and nothing but regular files, and is bounded in files and bytes.
It runs in the engine once the agent has ended, and inside the box in the program `bakeoff-check`.
"""

from __future__ import annotations

import os
import stat

# what lies in the workspace beside the recipe, and what tools leave behind: no part of the program
OURS = ("BRIEF.md", "PROPOSAL.md", "LINEAGE", "KNOWLEDGE")
LEFT_BEHIND = ("__pycache__", "node_modules")
MOST_FILES, MOST_BYTES = 900, 16_000_000  # a recipe has at most 400


def read_files(
    folder: str, known: tuple[str, ...] = (), most_files: int = MOST_FILES, most_bytes: int = MOST_BYTES
) -> tuple[dict[str, bytes], dict[str, str]]:
    """The regular files by relative path, and what cannot be part of a program, by path with the reason.

    Names that start with a dot are left out, unless `known` (the recipe's own files) has them.
    """
    files: dict[str, bytes] = {}
    odd: dict[str, str] = {}
    room = most_bytes
    for top, folders, names, handle in os.fwalk(folder, follow_symlinks=False):
        inside = os.path.relpath(top, folder)
        prefix = "" if inside == "." else inside + "/"
        for name in sorted(folders):
            path = prefix + name
            if _ignored(path, known):
                folders.remove(name)
            elif stat.S_ISLNK(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
                folders.remove(name)
                odd[path] = "a link"
        for name in sorted(names):
            path = prefix + name
            if _ignored(path, known):
                continue
            if len(files) + len(odd) >= most_files:
                odd[path] = f"more than {most_files} files"
                return files, odd
            data = _read(name, handle, room)
            if isinstance(data, str):
                odd[path] = data
            else:
                files[path] = data
                room -= len(data)
    return files, odd


def read_one(folder: str, name: str, most_bytes: int) -> bytes:
    """One regular file at the top of the folder; empty where there is none, or a larger one."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        data = _read(name, handle, most_bytes)
    except OSError:
        return b""
    finally:
        os.close(handle)
    return b"" if isinstance(data, str) else data


def _ignored(path: str, known: tuple[str, ...]) -> bool:
    if any(name == path or name.startswith(path + "/") for name in known):
        return False
    first, last = path.split("/")[0], path.split("/")[-1]
    return last.startswith(".") or last in LEFT_BEHIND or first in OURS or last.endswith(".pyc")


def _read(name: str, folder: int, room: int) -> bytes | str:
    """A regular file's bytes, or why it has none."""
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        return "a link" if stat.S_ISLNK(found) else "a file that cannot be read"
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            return "no regular file"
        if facts.st_size > room:
            return f"too large ({facts.st_size:,} bytes)"
        data = file.read(room + 1)
    return data if len(data) <= room else "too large"
