"""The folder in which an agent works: the parent's recipe under git, the brief, the lineage as files; and what came of it.

    space = make_workspace(folder, request, prompt, files)
    changed = read_changes(folder, files)        # once the agent and all its processes have ended
    note = read_note(folder)                     # PROPOSAL.md: hypothesis, expected change, notes

Git runs before the agent starts and never after: a repository that a stranger has written to can make git run programs.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agents.command.workspace_files import read_files, read_one
from agents.edits.file_text import text_of
from agents.edits.search_replace import Files, canonical_diff, check_path
from agents.edits.text_protocol import finite
from agents.llm.knowledge import write_files
from agents.llm.prompt import Prompt, sees_lineage
from agents.llm.prompt_sections import parent_choice
from agents.llm.tools import EDIT_KINDS
from agents.llm.trial_text import is_ours, trial_facts, trial_line
from agents.protocol import ProposalRequest
from lineage.errors import BakeoffError, EditRefused
from lineage.records import Row, Status
from lineage.safe_text import barred, for_terminal, word

LINEAGE_BYTES, PAGE_BYTES, INDEX_LINES = 400_000, 12_000, 400
NOTE_BYTES = 40_000
GIT_S = 30.0
_HEAD = re.compile(
    r"\A\s*(?P<mark>\+\+\+|---)[ \t]*\n(?P<head>.*?)^(?P=mark)[ \t]*(?:\n|\Z)(?P<body>.*)", re.S | re.M
)
_EXCLUDED = "BRIEF.md\nPROPOSAL.md\nLINEAGE/\nKNOWLEDGE/\n__pycache__/\n.*\n"


@dataclass(frozen=True)
class Note:
    """What the agent says of its edit; empty where it said nothing."""

    hypothesis: str = ""
    expected_delta: float | None = None
    edit_kind: str = ""
    notes: str = ""


@dataclass(frozen=True)
class Changes:
    """`now` is the recipe after the agent; `outside` what no edit can contain, each with its reason."""

    now: Files
    outside: tuple[str, ...] = ()


def make_workspace(
    folder: Path, request: ProposalRequest, prompt: Prompt, files: Mapping[str, bytes]
) -> None:
    """Write everything that the agent starts from."""
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    (folder / "BRIEF.md").write_text(prompt.text, "utf-8")
    if sees_lineage(request.arm):
        _write_lineage(folder / "LINEAGE", request)
    write_files(folder, request.knowledge)
    _commit(folder)


# ---- lineage as files ----------------------------------------------------------------------------


def _write_lineage(folder: Path, request: ProposalRequest) -> None:
    """A page for each trial within the size budget, those that matter first; and a list of all."""
    folder.mkdir()
    view, spec = request.view, request.spec
    rows = _by_weight(request)
    lines = [trial_line(spec, row, 300, view.quoted) for row in sorted(rows, key=lambda r: r.trial or "")]
    cut = f"({INDEX_LINES} newest of {len(lines)})\n" if len(lines) > INDEX_LINES else ""
    head = "# All trials, oldest first; a page for each of the latest and best: LINEAGE/<trial>.md\n\n"
    (folder / "TRIALS.md").write_text(
        head + cut + "\n".join(f"- {x}" for x in lines[-INDEX_LINES:]) + "\n", "utf-8"
    )
    room = LINEAGE_BYTES
    for row in rows:
        page = _page(request, row)
        room -= len(page.encode())
        if room < 0:
            return
        (folder / f"{word(row.trial)}.md").write_text(page, "utf-8")


def _by_weight(request: ProposalRequest) -> list[Row]:
    """The parent's chain first, then the newest trials."""
    view = request.view
    parent, _ = parent_choice(view)
    chain = [*view.chain(parent.trial or "")] if parent is not None else []
    known = {row.trial for row in chain}
    others = [r for r in reversed(view.trials()) if r.trial not in known and not is_ours(r)]
    return [*reversed(chain), *others]


def _page(request: ProposalRequest, row: Row) -> str:
    facts = trial_facts(request.spec, row, request.view.quoted)
    parent = request.view.trial(row.parent or "")
    if row.status is Status.REJECTED or parent is None or parent.trial == row.trial:
        return facts + "\n"
    try:
        diff = canonical_diff(request.files_of(parent.trial or ""), request.files_of(row.trial or ""))
    except (BakeoffError, KeyError):
        return facts + "\n"
    return f"{facts}\nchange against its parent (data):\n{barred(diff or '(none)', PAGE_BYTES)}\n"


# ---- git -----------------------------------------------------------------------------------------


def _commit(folder: Path) -> None:
    """One commit of the recipe as the agent gets it, so that `git diff` shows what it changed. Without git: nothing."""
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"GIT_{who}_{what}": "bakeoff" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }

    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", *arguments], cwd=folder, env=env, timeout=GIT_S, check=True, capture_output=True
        )

    try:
        git("init", "--quiet", "--initial-branch=main")
        (folder / ".git" / "info").mkdir(exist_ok=True)
        (folder / ".git" / "info" / "exclude").write_text(_EXCLUDED)
        git("add", "--all")
        git("commit", "--quiet", "--no-verify", "--message", "the parent of your edit")
    except (OSError, subprocess.SubprocessError):
        return  # the agent can do without


# ---- what came of it -----------------------------------------------------------------------------


def changes(before: Mapping[str, bytes], files: Mapping[str, bytes], odd: Mapping[str, str]) -> Changes:
    """The recipe as it is now. A file that is no text or no file, or that is gone, is named in `outside`."""
    outside = [f"{_name(path)}: {reason}" for path, reason in sorted(odd.items())]
    outside += [
        f"{_name(path)}: the file was deleted"
        for path in sorted(before)
        if path not in files and path not in odd
    ]
    now = dict(before)
    for path, data in files.items():
        if before.get(path) == data:
            continue
        if fault := _fault(path, data, before):
            outside.append(f"{_name(path)}: {fault}")
        elif path not in before or not _same_text(path, before[path], data):
            now[path] = data
    return Changes(now, tuple(outside[:20]))


def _fault(path: str, data: bytes, before: Mapping[str, bytes]) -> str:
    """Why a file cannot be part of an edit; whether the surface allows it is for the patch to say."""
    try:
        path.encode("utf-8")
        check_path(path, before)
    except (UnicodeError, EditRefused):
        return "a new file is named like `optim.py` or `parts/optim.py`"
    try:
        text = text_of(path, data)
    except EditRefused as refused:
        return str(refused).removeprefix(path).removeprefix(": ")
    return "no text: it contains a zero byte" if "\0" in text else ""


def _same_text(path: str, old: bytes, new: bytes) -> bool:
    """Line ends and marks are the file's own, whatever an editor makes of them."""
    try:
        return text_of(path, old) == text_of(path, new)
    except EditRefused:
        return False


def read_changes(folder: Path, before: Mapping[str, bytes]) -> Changes:
    files, odd = read_files(str(folder), tuple(before))
    return changes(before, files, odd)


def _name(path: str) -> str:
    return for_terminal(path.encode("utf-8", "replace").decode(), newlines=False)[:120]


def read_note(folder: Path) -> Note:
    """PROPOSAL.md: a head between two `---` or `+++` lines, and notes below it. Nothing in it can raise."""
    text = read_one(str(folder), "PROPOSAL.md", NOTE_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
    match = _HEAD.match(text)
    if match is None:
        return Note(hypothesis=_first_line(text), notes=text.strip())
    head = _toml(match["head"]) if match["mark"] == "+++" else None
    found = _pairs(match["head"]) if head is None else head
    delta = found.get("expected_delta", found.get("expected_change"))
    kind = str(found.get("edit_kind", "")).strip()
    notes = str(found.get("notes", "")).strip()
    return Note(
        hypothesis=str(found.get("hypothesis", "")).strip() or _first_line(match["body"]),
        expected_delta=_number(delta),
        edit_kind=kind if kind in EDIT_KINDS else "",
        notes="\n\n".join(part for part in (notes, match["body"].strip()) if part),
    )


def _toml(text: str) -> dict[str, object] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _pairs(text: str) -> dict[str, object]:
    """`key: value` or `key = value` lines; a line that is neither continues the one before."""
    found: dict[str, object] = {}
    key = ""
    for line in text.split("\n"):
        match = re.match(r"([A-Za-z_][\w -]{0,40}?)\s*[:=]\s*(.*)", line)
        if match and not line[:1].isspace():
            key = match[1].strip().lower().replace(" ", "_").replace("-", "_")
            found[key] = match[2].strip().removeprefix(">").removeprefix("|").strip().strip("\"'")
        elif key and line.strip():
            found[key] = f"{found[key]} {line.strip()}".strip()
    return found


def _number(value: object) -> float | None:
    if isinstance(value, str):
        match = re.search(r"[-+−]?\d*\.?\d+(?:[eE][-+]?\d+)?", value)
        value = match[0].replace("−", "-") if match else None
    return finite(value)


def _first_line(text: str) -> str:
    return next((line.strip("# *").strip() for line in text.split("\n") if line.strip("# *-").strip()), "")
