"""A git repository as it stands at its last commit: its files, and data beside them that git does not track.

Use: `read_repository(folder)` gives a `Repository`. Nothing in it is changed: files are read with `git archive`, and
only from data folders also from the disk, because trained-on files are rarely in git. Limits: links and submodules are
left out and named; changes that are not committed are not taken and counted.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from lineage.errors import UsageError
from lineage.script_task import matches


@dataclass(frozen=True)
class Repository:
    """`files` by path at `commit`; `untracked` are data files on the disk that git does not have."""

    folder: Path
    commit: str
    files: dict[str, bytes]
    untracked: tuple[str, ...]
    left_out: tuple[str, ...]
    uncommitted: int

    def size(self, path: str) -> int:
        return len(self.files[path]) if path in self.files else (self.folder / path).stat().st_size


def read_repository(folder: Path, data: tuple[str, ...] = ("data/**",)) -> Repository:
    """Raises UsageError where there is no repository with a commit."""
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give the folder of a git repository")
    if _git(folder, "rev-parse", "--show-toplevel") is None:
        raise UsageError(
            f"{folder}: not in a git repository; run `git init`, add and commit there, then adopt it again"
        )
    commit = (_git(folder, "rev-parse", "HEAD") or b"").decode().strip()
    if not commit:
        raise UsageError(f"{folder}: the repository has no commit yet; commit what is to be adopted")
    archive = _git(folder, "archive", "--format=tar", "HEAD", ".")
    if archive is None:
        raise UsageError(f"{folder}: `git archive HEAD` failed; is the folder part of the commit?")
    files, left_out = _unpacked(archive)
    other = (
        (_git(folder, "ls-files", "--others", "-z", "--", ".") or b"")
        .decode("utf-8", "surrogateescape")
        .split("\0")
    )
    status = (_git(folder, "status", "--porcelain", "--untracked-files=no", "-z", "--", ".") or b"").count(
        b"\0"
    )
    untracked = tuple(
        path
        for path in sorted(other)
        if path and matches(path, data) and not path.endswith((".py", ".pyc")) and (folder / path).is_file()
    )
    return Repository(folder, commit, files, untracked, left_out, status)


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, check=False, timeout=300
        )
    except FileNotFoundError:
        raise UsageError(
            "git is not installed; install it, or write the environment by hand (recipes/README.md)"
        ) from None
    return done.stdout if done.returncode == 0 else None


def _unpacked(archive: bytes) -> tuple[dict[str, bytes], tuple[str, ...]]:
    files: dict[str, bytes] = {}
    left_out: list[str] = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            held = tar.extractfile(member) if member.isfile() else None
            if held is not None:
                files[member.name] = held.read()
            elif not member.isdir():
                left_out.append(member.name)
    return files, tuple(left_out)
