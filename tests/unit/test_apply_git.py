"""A winner as a git commit: on the recorded commit, without touching the working tree, whole or not at all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flows.environments.source_commit import SourceCommit, place_in, source_commit
from flows.report.apply_git import Change, commit_recipe
from lineage.errors import UsageError

START = {
    "train.py": b"LR = 0.1\nSTEPS = 10\n\n\ndef train():\n    return LR\n",
    "parts/net.py": b"WIDTH = 4\r\n",
}
WANTED = {**START, "train.py": START["train.py"].replace(b"0.1", b"0.3"), "parts/new.py": b"X = 1\n"}
CHANGE = Change(START, WANTED, "t0014")
BRANCH = "bakeoff/t0014"


def git(folder: Path, *arguments: str) -> str:
    whose = ["-c", "user.name=Ada", "-c", "user.email=ada@localhost"]
    done = subprocess.run(
        ["git", "-C", str(folder), *whose, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the recipe in a folder, one commit, and no identity in any configuration."""
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    root = tmp_path / "project"
    write(root / "lab/source", START)
    (root / "README.md").write_text("hello\n")
    git(tmp_path, "init", "-q", "-b", "main", str(root))
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    return root


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def recorded(repository: Path) -> SourceCommit:
    found = source_commit(repository / "lab")
    assert found is not None and found.prefix == "lab/source/"
    return found


def apply(repository: Path, at: SourceCommit | None, change: Change = CHANGE, **more: bool) -> str:
    return commit_recipe(change, repository, BRANCH, "Higher rate\n\n# kept\n", at, **more).why_base


def nothing_done(repository: Path) -> bool:
    return git(repository, "branch", "--format=%(refname:short)") == "main"


def test_one_commit_on_the_recorded_one_and_the_working_tree_as_it_was(repository: Path) -> None:
    at = recorded(repository)
    (repository / "README.md").write_text("moved on\n")
    git(repository, "commit", "-qam", "second")
    (repository / "lab/source/train.py").write_bytes(b"half written\n")
    status = git(repository, "status", "--porcelain")
    assert apply(repository, at) == "where the campaign began"
    assert git(repository, "rev-parse", f"{BRANCH}^") == at.commit
    assert (
        git(repository, "status", "--porcelain") == status
        and git(repository, "branch", "--show-current") == "main"
    )
    assert git(repository, "diff", "--name-status", f"{BRANCH}^", BRANCH).split() == (
        ["A", "lab/source/parts/new.py", "M", "lab/source/train.py"]
    )
    assert git(repository, "show", f"{BRANCH}:lab/source/train.py").encode() == WANTED["train.py"].strip()
    assert git(repository, "log", "-1", "--format=%B", BRANCH) == "Higher rate\n\n# kept"
    assert (
        git(repository, "log", "-1", "--format=%an", BRANCH) == "Bakeoff"
    )  # the person has told git no name
    git(repository, "checkout", "-q", "--", ".")
    git(repository, "merge", "-q", "--no-edit", BRANCH)
    assert (repository / "lab/source/train.py").read_bytes() == WANTED["train.py"]


def test_a_repository_that_moved_on_over_the_same_lines_is_named(repository: Path) -> None:
    at = recorded(repository)
    write(repository / "lab/source", {"train.py": START["train.py"].replace(b"0.1", b"0.2")})
    git(repository, "commit", "-qam", "second")
    with pytest.raises(
        UsageError, match=r"changes the same lines of lab/source/train.py; no branch was made; --force"
    ):
        apply(repository, at)
    assert nothing_done(repository)
    apply(repository, at, force=True)
    assert git(repository, "rev-parse", f"{BRANCH}^") == at.commit


def test_other_lines_of_the_same_file_are_no_conflict(repository: Path) -> None:
    at = recorded(repository)
    write(repository / "lab/source", {"train.py": START["train.py"] + b"\n\n# a note\n"})
    git(repository, "commit", "-qam", "second")
    apply(repository, at)
    git(repository, "merge", "-q", "--no-edit", BRANCH)
    assert b"0.3" in (repository / "lab/source/train.py").read_bytes()


def test_without_a_recorded_commit_the_folder_is_found_and_head_is_the_base(repository: Path) -> None:
    assert "recorded no commit" in apply(repository, None)
    assert git(repository, "rev-parse", f"{BRANCH}^") == git(repository, "rev-parse", "main")
    gone = recorded(repository).model_copy(update={"commit": "1" * 40})
    git(repository, "branch", "-D", BRANCH)
    assert "is not in this repository" in apply(repository, gone)


def test_files_that_were_not_committed_when_the_campaign_began_are_named(repository: Path) -> None:
    other = Change({**START, "train.py": b"LR = 0.7\n"}, {**START, "train.py": b"LR = 0.9\n"}, "t0014")
    with pytest.raises(UsageError, match=r"lab/source/train.py at \w{12} differs from the campaign's start"):
        apply(repository, recorded(repository), other)
    assert nothing_done(repository)


def test_lines_that_git_keeps_with_other_ends_stay_so(repository: Path) -> None:
    crlf = {name: data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for name, data in START.items()}
    wanted = {**crlf, "train.py": crlf["train.py"].replace(b"0.1", b"0.3")}
    apply(repository, recorded(repository), Change(crlf, wanted, "t0014"))
    kept = subprocess.run(
        ["git", "-C", repository, "cat-file", "blob", f"{BRANCH}:lab/source/train.py"],
        capture_output=True,
        check=True,
    )
    assert kept.stdout == WANTED["train.py"]


def test_what_is_in_the_way_is_one_sentence_and_nothing_is_done(repository: Path, tmp_path: Path) -> None:
    at = recorded(repository)
    with pytest.raises(UsageError, match="no git repository"):
        commit_recipe(CHANGE, tmp_path, BRANCH, "m", at)
    with pytest.raises(UsageError, match="git takes no branch of that name"):
        commit_recipe(CHANGE, repository, "a..b", "m", at)
    with pytest.raises(UsageError, match="there is a branch main already"):
        commit_recipe(CHANGE, repository, "main", "m", at)
    with pytest.raises(UsageError, match="nothing to commit"):
        apply(repository, at, Change(START, START, "t0000"))
    with pytest.raises(UsageError, match="none of the recipe's files"):
        apply(repository, None, Change({"a.py": b""}, {"a.py": b"1\n"}, "t0014"))
    link = repository / "lab/source/train.py"
    link.unlink()
    link.symlink_to("/etc/passwd")
    git(repository, "commit", "-qam", "a link")
    with pytest.raises(UsageError, match=r"lab/source/train.py at"):
        apply(repository, None)
    assert nothing_done(repository)


def test_where_a_source_comes_from(repository: Path, tmp_path: Path) -> None:
    assert place_in(tmp_path) is None and source_commit(tmp_path) is None
    (repository / "later/source").mkdir(parents=True)
    assert source_commit(repository / "later") is None  # no commit has it
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab/origin.json").write_text(f'{{"repository": "{repository}", "commit": "{"2" * 40}"}}')
    assert source_commit(tmp_path / "lab") == SourceCommit(repository=str(repository), commit="2" * 40)
