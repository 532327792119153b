"""The git commit that a recipe's source was at: recorded when a campaign starts, needed to give the winner back.

Use: `source_commit(folder)` of an environment's folder. An adopted repository is named by `origin.json` beside
environment.toml; else the source's own repository counts. Nothing is written and no hook runs. Limits: whether the
files were those of the commit is compared when the winner goes back, file by file.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from lineage.records import Record

ORIGIN = "origin.json"


class SourceCommit(Record):
    """`prefix`: the source's folder in the repository, with a slash at its end; empty for its top."""

    repository: str
    commit: str
    prefix: str = ""


def git(
    folder: Path, *arguments: str, given: bytes | None = None, env: Mapping[str, str] | None = None
) -> tuple[int, bytes, str]:
    """(exit code, standard output, what went wrong) of one git command; no prompt, no pager, no editor."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    own |= {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", **(env or {})}
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments]
    kept = {
        name: value for name, value in os.environ.items() if name.startswith(("GIT_AUTHOR", "GIT_COMMITTER"))
    }
    try:
        done = subprocess.run(
            command, input=given or b"", capture_output=True, env={**kept, **own}, timeout=120, check=False
        )
    except FileNotFoundError:
        return 127, b"", "git is not installed"
    except subprocess.TimeoutExpired:
        return 124, b"", f"git {arguments[0]} took more than 120 s"
    return done.returncode, done.stdout, done.stderr.decode("utf-8", "replace").strip()


def place_in(folder: Path) -> SourceCommit | None:
    """The repository around a folder, and its last commit; None where there is none."""
    if not folder.is_dir():
        return None
    code, out, _ = git(folder, "rev-parse", "--show-toplevel", "HEAD")
    lines = out.decode("utf-8", "surrogateescape").splitlines()
    if code or len(lines) != 2:
        return None
    inside = folder.resolve().relative_to(Path(lines[0]).resolve()).as_posix()
    return SourceCommit(repository=lines[0], commit=lines[1], prefix="" if inside == "." else f"{inside}/")


def source_commit(folder: Path) -> SourceCommit | None:
    """None for a source that is in no repository, or that no commit of it has."""
    try:
        told = json.loads((folder / ORIGIN).read_text("utf-8-sig"))
        found = place_in(Path(told["repository"]))
        return None if found is None else found.model_copy(update={"commit": str(told["commit"])})
    except FileNotFoundError:
        found = place_in(folder / "source")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if found is None or git(folder / "source", "cat-file", "-e", f"HEAD:{found.prefix}")[0]:
        return None
    return found
