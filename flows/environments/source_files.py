"""Which files of a folder are the recipe's source, and which are left out and why.

Use: `take(root, keep)` gives a `Taken`: the files by relative path, and what was left out with its reason. Left out are
what `.gitignore` files in the folder name, what editors, notebooks, Python and desktops leave behind (`STRAY`), links
to folders or to nothing, and large files that are no text. A file in `keep` (named by a surface, or an entry point) is
always taken. A link to a file is taken as that file. Of an adopted repository git has chosen: `take_tracked`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pathspec

STRAY = (
    *("__pycache__/", "*.pyc", ".ipynb_checkpoints/", ".DS_Store", "Thumbs.db", "desktop.ini", "._*"),
    *("*~", "*.swp", "*.swo", ".#*", "#*#", "*.orig", "*.rej", "*.bak", "*.tmp"),
    *(".git", ".gitignore", ".gitattributes", ".gitmodules", ".gitkeep", ".hg/", ".svn/"),
    *(".venv/", "venv/", ".tox/", ".idea/", ".vscode/", ".mypy_cache/", ".pytest_cache/", ".ruff_cache/"),
    *("*.egg-info/", "node_modules/", "wandb/", "mlruns/", "lightning_logs/"),
)
LARGE_BINARY = 64 * 1024  # bytes; a small tokenizer or table may be part of a recipe
LARGE_TEXT = 4 * 1024 * 1024  # beyond any source cap: a data file
_GITIGNORED, _SHOWN = "named by .gitignore", 5
_UNNAMED = ("__pycache__", ".git")  # in every folder, and nobody misses them


@dataclass
class Taken:
    """The source of a recipe. `left_out`: path to reason."""

    files: dict[str, bytes] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def notes(self, root: Path) -> list[str]:
        """One line per reason, with the first few names."""
        by_reason: dict[str, list[str]] = {}
        for path, reason in self.left_out.items():
            by_reason.setdefault(reason, []).append(path)
        return [f"{root}: left out, {reason}: {_named(paths)}" for reason, paths in by_reason.items()]


def _named(paths: list[str]) -> str:
    more = len(paths) - _SHOWN
    return ", ".join(paths[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def take(root: Path, keep: Collection[str] = (), data: Callable[[str], bool] = lambda path: False) -> Taken:
    """Files that are `data` are neither taken nor named. Raises OSError for a file that cannot be read."""
    taken = Taken()
    for path, name in _walk(root, "", [("", _rules(root))], set(keep), taken):
        if data(name):
            continue
        if name not in keep and (reason := _too_large(path)):
            taken.left_out[name] = reason
        else:
            taken.files[name] = path.read_bytes()
    taken.files = dict(sorted(taken.files.items()))
    return taken


def _rules(folder: Path) -> pathspec.GitIgnoreSpec:
    """The folder's own .gitignore."""
    try:
        lines = (folder / ".gitignore").read_text("utf-8-sig", "replace").splitlines()
    except OSError:
        lines = []
    return pathspec.GitIgnoreSpec.from_lines(lines)


_STRAY = pathspec.GitIgnoreSpec.from_lines(STRAY)
_NEVER = pathspec.GitIgnoreSpec.from_lines(("__pycache__/", "*.pyc", ".git", ".DS_Store"))


def take_tracked(root: Path, data: Callable[[str], bool] = lambda path: False) -> Taken:
    """The files of a folder that git has chosen already: all but what running and looking at them leaves there."""
    taken = Taken()
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not _NEVER.match_file(name) and not data(name):
            taken.files[name] = path.read_bytes()
    return taken


def _walk(
    folder: Path,
    prefix: str,
    ignore: list[tuple[str, pathspec.GitIgnoreSpec]],
    keep: set[str],
    taken: Taken,
) -> Iterator[tuple[Path, str]]:
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        name, path = prefix + entry.name, Path(entry.path)
        inner = entry.is_dir(follow_symlinks=False)
        wanted = name in keep or (inner and any(k.startswith(f"{name}/") for k in keep))
        reason = "" if wanted else _reason(entry, name, ignore)
        if reason:
            if not entry.name.startswith(_UNNAMED) and not entry.name.endswith(".pyc"):
                taken.left_out[name + "/" * inner] = reason
        elif inner:
            yield from _walk(path, f"{name}/", [*ignore, (f"{name}/", _rules(path))], keep, taken)
        elif entry.is_file():
            yield path, name


def _reason(entry: os.DirEntry[str], name: str, ignore: list[tuple[str, pathspec.GitIgnoreSpec]]) -> str:
    inner = entry.is_dir(follow_symlinks=False)
    if _STRAY.match_file(name + "/" * inner):
        return "not source"
    # the rules of the innermost folder decide first, as in git
    for at, rules in reversed(ignore):
        verdict = rules.check_file(name[len(at) :] + "/" * inner).include
        if verdict is not None:
            if verdict:
                return _GITIGNORED
            break
    if entry.is_symlink() and not entry.is_file():
        return "a link to a folder" if entry.is_dir() else "a link to nothing"
    if not inner and not entry.is_file():
        return "not a regular file"
    return ""


def _too_large(path: Path) -> str:
    size = path.stat().st_size
    if size > LARGE_TEXT:
        return f"a data file of more than {LARGE_TEXT >> 20} MiB (data belong to prepare.py)"
    if size > LARGE_BINARY and not is_text(path.read_bytes()):
        return f"no text and larger than {LARGE_BINARY >> 10} KiB (data belong to prepare.py; a surface that names it keeps it)"
    return ""


def is_text(data: bytes) -> bool:
    """As git decides, and no encoding of text has many control characters."""
    head = data[:8000]
    return b"\0" not in head and sum(byte < 9 or 13 < byte < 27 for byte in head) <= len(head) // 100
