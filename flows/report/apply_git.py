"""`bakeoff apply --git`: a trial's recipe as one commit on a new branch of a person's repository.

Use: `commit_recipe(change, repository, branch, message, recorded)`. Only git's object store and the new branch are
written (a temporary index, `commit-tree`, `update-ref` for a name that is not there): no file of the working tree, no
checked-out branch, no hook. The commit stands on the one that the campaign began with where it is recorded and there,
else on HEAD. Before the branch is made every file is compared with the start, and the merge with HEAD is tried.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.environments.source_commit import SourceCommit, git, place_in
from lineage.errors import UsageError

_IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Bakeoff"), ("EMAIL", "bakeoff@localhost"))
}


@dataclass(frozen=True)
class Change:
    """What goes into the commit: the campaign's start, the wanted files, and whose they are."""

    start: Mapping[str, bytes]
    wanted: Mapping[str, bytes]
    whose: str

    @property
    def paths(self) -> list[str]:
        return sorted(path for path, data in self.wanted.items() if self.start.get(path) != data)


@dataclass(frozen=True)
class Committed:
    branch: str
    commit: str
    base: str
    why_base: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class _Entry:
    mode: str
    data: bytes


def _run(
    folder: Path, *arguments: str, given: bytes | None = None, env: Mapping[str, str] | None = None
) -> str:
    code, out, error = git(folder, *arguments, given=given, env=env)
    if code:
        last = error.splitlines()[-1] if error else f"exit code {code}"
        raise UsageError(f"{folder}: git {arguments[0]} failed ({last}); no branch was made")
    return out.decode("utf-8", "surrogateescape").strip()


def commit_recipe(
    change: Change,
    repository: Path,
    branch: str,
    message: str,
    recorded: SourceCommit | None,
    force: bool = False,
) -> Committed:
    """Raises UsageError, before the branch is made, for everything that is in the way.

    `force`: the branch may conflict with HEAD when it is merged.
    """
    here = place_in(repository)
    if here is None:
        raise UsageError(f"{repository}: no git repository with a commit; give the folder of your checkout")
    _check_branch(repository, branch)
    if not change.paths:
        raise UsageError(f"{change.whose} is the campaign's start: there is nothing to commit")
    base, why = _base(here, recorded)
    prefix = _prefix(change, repository, here, base, recorded)
    entries = {path: _entry(repository, base, prefix + path) for path in change.paths}
    _check_files(change, entries, repository, base, prefix)
    tree = _tree(change, entries, repository, base, prefix)
    commit = _commit(repository, tree, base, message)
    if not force:
        _check_merge(repository, commit, branch)
    _run(repository, "update-ref", f"refs/heads/{branch}", commit, "0" * len(commit))
    return Committed(branch, commit, base, why, tuple(prefix + path for path in change.paths))


def _check_branch(repository: Path, branch: str) -> None:
    if git(repository, "check-ref-format", f"refs/heads/{branch}")[0] or branch.startswith("-"):
        raise UsageError(
            f"--branch {branch!r}: git takes no branch of that name; one like bakeoff/t0014 works"
        )
    if not git(repository, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}")[0]:
        raise UsageError(
            f"{repository}: there is a branch {branch} already; choose another name, or remove it with: git branch -D {branch}"
        )


def _base(here: SourceCommit, recorded: SourceCommit | None) -> tuple[str, str]:
    if recorded is None:
        return here.commit, "HEAD, because the campaign recorded no commit"
    folder = Path(here.repository)
    if git(folder, "cat-file", "-e", f"{recorded.commit}^{{commit}}")[0]:
        return (
            here.commit,
            f"HEAD, because {recorded.commit[:12]}, where the campaign began, is not in this repository",
        )
    return recorded.commit, "where the campaign began"


def _prefix(
    change: Change, repository: Path, here: SourceCommit, base: str, recorded: SourceCommit | None
) -> str:
    """The recipe's folder in the repository: as recorded, else the one whose files are most like the start's."""
    if recorded is not None and base == recorded.commit:
        return recorded.prefix
    listed = _run(repository, "ls-tree", "-r", "-z", "--name-only", "--full-tree", base).split("\0")
    found: dict[str, int] = {}
    for path in listed:
        for name in change.start:
            if path == name or path.endswith(f"/{name}"):
                prefix = path[: len(path) - len(name)]
                found[prefix] = found.get(prefix, 0) + 1
    inside = {prefix: count for prefix, count in found.items() if prefix.startswith(here.prefix)}
    best = sorted(inside, key=lambda prefix: (-inside[prefix], prefix != here.prefix, len(prefix), prefix))
    if not best:
        raise UsageError(
            f"{repository}: none of the recipe's files ({', '.join(sorted(change.start)[:4])}) is in commit {base[:12]}; "
            "give the repository that the recipe came from, or write the files with --to DIR"
        )
    return best[0]


def _entry(repository: Path, base: str, path: str) -> _Entry | None:
    listed = _run(repository, "ls-tree", "-z", "--full-tree", base, "--", path)
    if not listed:
        return None
    mode, kind, name = listed.split("\t")[0].split()
    code, data, _ = git(repository, "cat-file", kind, name)
    return _Entry(mode, data if not code and kind == "blob" else b"")


def _unix(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n")


def _same(entry: _Entry | None, data: bytes | None) -> bool:
    """The same file, also where git keeps its lines with other ends (core.autocrlf)."""
    if entry is None or data is None:
        return entry is None and data is None
    return entry.mode.startswith("100") and entry.data in (data, _unix(data))


def _check_files(
    change: Change, entries: Mapping[str, _Entry | None], repository: Path, base: str, prefix: str
) -> None:
    other = [
        prefix + path
        for path, entry in entries.items()
        if not _same(entry, change.start.get(path)) and not _same(entry, change.wanted[path])
    ]
    if other:
        raise UsageError(
            f"{repository}: {', '.join(other)} at {base[:12]} differ{'s' if len(other) == 1 else ''} from the campaign's "
            f"start, so {change.whose} cannot be committed there; no branch was made; merge `bakeoff diff --whole` by hand"
        )


def _tree(
    change: Change, entries: Mapping[str, _Entry | None], repository: Path, base: str, prefix: str
) -> str:
    """The base's tree with the changed files, by an index of its own."""
    with tempfile.TemporaryDirectory(prefix="bakeoff-index-") as place:
        index = {"GIT_INDEX_FILE": str(Path(place) / "index")}
        _run(repository, "read-tree", base, env=index)
        for path, entry in entries.items():
            data = change.wanted[path]
            start = change.start.get(path)
            if entry is not None and start is not None and entry.data != start and entry.data == _unix(start):
                data = _unix(data)
            blob = _run(repository, "hash-object", "-w", "--stdin", given=data)
            mode = entry.mode if entry is not None else "100644"
            line = f"{mode} {blob}\t{prefix}{path}".encode("utf-8", "surrogateescape") + b"\0"
            _run(repository, "update-index", "-z", "--index-info", given=line, env=index)
        return _run(repository, "write-tree", env=index)


def _commit(repository: Path, tree: str, base: str, message: str) -> str:
    known = all(not git(repository, "var", f"GIT_{who}_IDENT")[0] for who in ("AUTHOR", "COMMITTER"))
    text = message.encode("utf-8", "replace")
    return _run(
        repository, "commit-tree", tree, "-p", base, "-F", "-", given=text, env=None if known else _IDENTITY
    )


def _check_merge(repository: Path, commit: str, branch: str) -> None:
    """Would the branch merge into HEAD? Not asked of a git before 2.38, which cannot merge without a working tree."""
    code, out, _ = git(
        repository, "merge-tree", "--write-tree", "--name-only", "--no-messages", "HEAD", commit
    )
    if code == 1:
        names = [line for line in out.decode("utf-8", "replace").splitlines()[1:] if line]
        head = _run(repository, "rev-parse", "--short=12", "HEAD")
        raise UsageError(
            f"{repository}: HEAD ({head}) has moved on and changes the same lines of {', '.join(names)}; no branch was made; "
            f"--force makes {branch} on the campaign's own commit, for a merge by hand"
        )


def branch_name(trial: str) -> str:
    """
    >>> branch_name("t0014")
    'bakeoff/t0014'
    """
    return "bakeoff/" + re.sub(r"[^A-Za-z0-9._-]+", "-", trial)
