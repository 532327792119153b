"""Git repositories that tests make: `git(folder, ...)` runs a command as nobody in particular, `commit(folder)` commits all."""

from __future__ import annotations

import subprocess
from pathlib import Path

WHO = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *WHO, *arguments], capture_output=True, text=True, check=True
    ).stdout


def commit(folder: Path) -> Path:
    """All files of a folder as the first commit of a repository, or the next one."""
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "as it is")
    return folder
