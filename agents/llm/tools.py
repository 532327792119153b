"""The tools of a proposing session, on a scratch copy of the parent's files in memory.

`Scratch` is the copy; `use(scratch, name, given)` runs one tool and gives `(text, is_error)`.
Nothing touches a disk, a process or the network, except `check`, which calls the preflight that the
engine passed in. Errors are replies that name the next step. Inputs are validated here and not by
`strict` schemas, because servers other than Anthropic's refuse or ignore those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agents.edits.file_text import bytes_like, check_added, shown, text_of
from agents.edits.normal_form import ast_hash
from agents.edits.role_surface import check_surface
from agents.edits.search_replace import (
    Files,
    apply_edit,
    canonical_diff,
    check_path,
    edits_between,
    lines_of,
)
from agents.edits.text_protocol import finite
from agents.llm import knowledge
from agents.llm.prompt import sees_lineage
from agents.llm.prompt_sections import parent_choice
from agents.llm.trial_text import numbers_text, trial_facts
from agents.protocol import ProposalRequest
from lineage.errors import BakeoffError, EditRefused
from lineage.records import Edit, Row, Status
from lineage.safe_text import barred, for_prompt, for_terminal, numbered, redact, word

RESULT_LIMIT, VIEW_LIMIT, DIFF_LIMIT, SEARCH_HITS = 12_000, 12_000, 8_000, 60
EDIT_KINDS = ("number", "technique", "structure", "removal", "repair", "combination")


class ToolError(Exception):
    """What the model did wrong and what to do next."""


@dataclass(frozen=True)
class SubmittedEdit:
    hypothesis: str
    expected_delta: float | None
    notes: str
    edit_kind: str
    edits: tuple[Edit, ...]


@dataclass
class Scratch:
    """`before` is the parent's source, `now` the edited copy. `warned`: a submit was sent back once."""

    request: ProposalRequest
    parent: str
    before: Files
    now: Files = field(default_factory=dict)
    warned: bool = False
    submission: SubmittedEdit | None = None

    @property
    def lineage(self) -> bool:
        return sees_lineage(self.request.arm)

    @property
    def knowledge(self) -> bool:
        return bool(self.request.knowledge)

    @property
    def changed(self) -> bool:
        return self.now != self.before


def open_scratch(request: ProposalRequest, parent: str) -> Scratch:
    files = dict(request.files_of(parent))
    return Scratch(request, parent, files, dict(files))


# ---- reading -----------------------------------------------------------------------------------


def _text(given: Mapping[str, Any], key: str, *, default: str | None = None, limit: int = 60_000) -> str:
    value = given.get(key, default)
    if not isinstance(value, str):
        raise ToolError(f"{key!r} must be a string, got {type(value).__name__}")
    if len(value) > limit:
        raise ToolError(f"{key!r} has {len(value)} characters, at most {limit} are taken")
    return value


def _line(given: Mapping[str, Any], key: str, default: int) -> int:
    value = finite(given.get(key, default))
    if value is None or value != int(value):
        raise ToolError(f"{key!r} must be a whole number, got {for_prompt(given.get(key), 60)}")
    return int(value)


def _source(scratch: Scratch, given: Mapping[str, Any]) -> tuple[str, str]:
    path = _text(given, "path", limit=200)
    if path not in scratch.now:
        known = ", ".join(sorted(scratch.now))
        raise ToolError(f"no file {for_prompt(path, 80)}; files: {known}")
    return path, shown(path, scratch.now[path])


def _view(scratch: Scratch, given: Mapping[str, Any]) -> str:
    path, text = _source(scratch, given)
    lines = text.removesuffix("\n").split("\n")
    first, last = max(1, _line(given, "first", 1)), min(len(lines), _line(given, "last", len(lines)))
    if first > last:
        raise ToolError(f"{path} has {len(lines)} lines; lines {first} to {last} are none of them")
    shown = numbered("\n".join(lines[first - 1 : last]), first).split("\n")
    kept, room = list[str](), VIEW_LIMIT
    for line in shown:
        if len(line) + 1 > room:
            kept.append(f"(cut; view from line {first + len(kept)} for the rest)")
            break
        kept.append(line)
        room -= len(line) + 1
    return f"{path}, lines {first}-{last} of {len(lines)}\n" + "\n".join(kept)


def _search(scratch: Scratch, given: Mapping[str, Any]) -> str:
    wanted = _text(given, "text", limit=500)
    if not wanted.strip() or "\n" in wanted:
        raise ToolError("'text' must be one non-empty line; it is looked for as it is, not as a pattern")
    only = given.get("path")
    paths = [_source(scratch, given)[0]] if isinstance(only, str) and only else sorted(scratch.now)
    hits = [
        f"{path}:{number}: {for_prompt(line.strip(), 200)}"
        for path in paths
        for number, line in enumerate(shown(path, scratch.now[path]).split("\n"), 1)
        if wanted in line
    ]
    more = [f"({len(hits) - SEARCH_HITS} more)"] if len(hits) > SEARCH_HITS else []
    return "\n".join([*hits[:SEARCH_HITS], *more]) or "no line holds that text"


def _row(scratch: Scratch, given: Mapping[str, Any], key: str) -> Row:
    """A trial that may be looked at: exists, has an outcome, and belongs to what this arm may see."""
    trial = word(_text(given, key, limit=200))
    row = scratch.request.view.trial(trial)
    if row is None:
        raise ToolError(f"no finished trial {trial!r}; use an id from the lists in your instructions")
    return row


def _files(scratch: Scratch, row: Row) -> Files:
    if row.status is Status.REJECTED:
        raise ToolError(f"{word(row.trial)} was rejected before it became a program; it has no source")
    try:
        return dict(scratch.request.files_of(row.trial or ""))
    except (BakeoffError, KeyError) as e:
        raise ToolError(f"the source of {word(row.trial)} cannot be had: {for_prompt(e, 200)}") from e


def _read_trial(scratch: Scratch, given: Mapping[str, Any]) -> str:
    row = _row(scratch, given, "trial")
    facts = trial_facts(scratch.request.spec, row, scratch.request.view.quoted)
    parent = scratch.request.view.trial(row.parent or "")
    if row.status is Status.REJECTED or parent is None or parent.trial == row.trial:
        return facts
    diff = canonical_diff(_files(scratch, parent), _files(scratch, row))
    return f"{facts}\nchange against its parent (data):\n{barred(diff or '(none)', DIFF_LIMIT)}"


def _diff_trials(scratch: Scratch, given: Mapping[str, Any]) -> str:
    first, second = _row(scratch, given, "first"), _row(scratch, given, "second")
    diff = canonical_diff(_files(scratch, first), _files(scratch, second))
    return (
        barred(diff, DIFF_LIMIT)
        if diff
        else f"{word(first.trial)} and {word(second.trial)} are the same source"
    )


def _read_knowledge(scratch: Scratch, given: Mapping[str, Any]) -> str:
    path, files = _text(given, "path", limit=400), scratch.request.knowledge
    if path not in files:
        raise ToolError(knowledge.unknown(files, path))
    return knowledge.page(files, path, _line(given, "first", 1))


def _choose_parent(scratch: Scratch, given: Mapping[str, Any]) -> str:
    row = _row(scratch, given, "trial")
    if not scratch.lineage:
        view = scratch.request.view
        open_to = {r.trial for r in (parent_choice(view)[0], view.row_of_incumbent(), view.baseline()) if r}
        if row.trial not in open_to:
            raise ToolError(f"here you may start from {', '.join(sorted(word(t) for t in open_to))} only")
    files = _files(scratch, row)
    lost = " Your edits so far are dropped." if scratch.changed else ""
    scratch.parent, scratch.before, scratch.now = row.trial or "", files, dict(files)
    return f"The scratch copy is now {word(row.trial)}.{lost}"


# ---- editing -----------------------------------------------------------------------------------


def _replace(scratch: Scratch, given: Mapping[str, Any]) -> str:
    edit = Edit(
        path=_text(given, "path", limit=200), search=_text(given, "search"), replace=_text(given, "replace")
    )
    scratch.now = apply_edit(scratch.now, edit)
    return f"{edit.path} edited; {_size(scratch)}"


def _insert(scratch: Scratch, given: Mapping[str, Any]) -> str:
    path, text = _text(given, "path", limit=200), _text(given, "text")
    check_path(path, scratch.now)
    if not text:
        raise ToolError("'text' is empty")
    present = scratch.now.get(path)
    before = text_of(path, present or b"")
    old = lines_of(before)
    after = _line(given, "line", len(old))
    if not 0 <= after <= len(old):
        raise ToolError(f"{path} has {len(old)} lines; 'line' must be 0 (top) to {len(old)} (end)")
    if after and not old[after - 1].endswith("\n"):
        old[after - 1] += "\n"
    wanted = "".join([*old[:after], text if text.endswith("\n") else text + "\n", *old[after:]])
    check_added(path, before, wanted)
    scratch.now = {**scratch.now, path: bytes_like(path, wanted, present)}
    return f"{path}: text is in after line {after}; {_size(scratch)}"


def _size(scratch: Scratch) -> str:
    changed = [p for p in sorted(scratch.now) if scratch.now[p] != scratch.before.get(p)]
    total = sum(len(data) for data in scratch.now.values())
    return f"changed so far: {', '.join(changed) or 'nothing'}; source {total} bytes"


def _duplicate(scratch: Scratch) -> str:
    """Why this program would be refused as a duplicate, or an empty string."""
    program = ast_hash(scratch.now)
    known = scratch.request.view.has_program(program)
    if known is not None:
        return f"this program was tried already{f' as {word(known)}' if scratch.lineage else ''}; change something"
    return (
        "this program is being tried right now; change something"
        if program in scratch.request.in_flight
        else ""
    )


def faults(scratch: Scratch) -> str:
    """Why the engine would reject the scratch copy before it runs, or an empty string."""
    request = scratch.request
    try:
        check_surface(request.spec, request.role, scratch.before, scratch.now)
    except EditRefused as e:
        return f"{e.cause}: {e}"
    return _duplicate(scratch)


def _check(scratch: Scratch, given: Mapping[str, Any]) -> str:
    if not scratch.changed:
        raise ToolError("nothing has been edited yet")
    if found := faults(scratch):
        return f"FAILED {for_terminal(found)[:2000]}"
    request = scratch.request
    report = check_surface(request.spec, request.role, scratch.before, scratch.now)
    lines = [f"passed surface: {len(report.units)} units, {report.changed_lines} changed lines"]
    lines += [f"advice: {for_prompt(flag, 300)}" for flag in report.flags[:10]]
    for check in request.check(dict(scratch.now)) if request.check is not None else []:
        verdict = "passed" if check.passed else "FAILED"
        numbers = numbers_text(check.numbers, 300)
        detail = f"; {for_prompt(check.detail, 700)}" if check.detail else ""
        lines.append(f"{verdict} {word(check.name)} in {check.seconds:.1f} s {numbers}{detail}".rstrip())
    return "\n".join(lines)


def hand_in(
    scratch: Scratch, hypothesis: str, expected_delta: float | None, notes: str, edit_kind: str = ""
) -> SubmittedEdit:
    """The submission; its texts are stripped, bounded and free of credentials."""
    try:
        edits = edits_between(scratch.before, scratch.now)
    except EditRefused as e:
        raise ToolError(str(e)) from e
    return SubmittedEdit(
        hypothesis=redact(for_terminal(hypothesis)).strip()[:2000],
        expected_delta=expected_delta,
        notes=redact(for_terminal(notes)).strip()[:8000],
        edit_kind=edit_kind if edit_kind in EDIT_KINDS else "",
        edits=edits,
    )


def _submit(scratch: Scratch, given: Mapping[str, Any]) -> str:
    hypothesis = _text(given, "hypothesis")
    if not hypothesis.strip():
        raise ToolError("'hypothesis' is empty; one sentence: what changes and why it should help")
    if not scratch.changed:
        raise ToolError("nothing has been edited; use replace or insert first")
    found = faults(scratch)
    if found and not scratch.warned:
        scratch.warned = True
        raise ToolError(
            f"not handed in. {for_terminal(found)[:2000]}. Repair it and submit again; "
            "a second submit is handed in as it is and recorded as rejected"
        )
    notes, kind = given.get("notes"), given.get("edit_kind")
    scratch.submission = hand_in(
        scratch,
        hypothesis,
        finite(given.get("expected_delta")),
        notes if isinstance(notes, str) else "",
        kind if isinstance(kind, str) else "",
    )
    return "handed in"


# ---- the table ---------------------------------------------------------------------------------

_STRING, _NUMBER, _INTEGER = {"type": "string"}, {"type": "number"}, {"type": "integer"}
_KIND = {"type": "string", "enum": list(EDIT_KINDS)}
Handler = Callable[[Scratch, Mapping[str, Any]], str]
# name -> (handler, what it is for, required properties, optional properties)
_TABLE: dict[str, tuple[Handler, str, dict[str, Any], dict[str, Any]]] = {
    "view": (
        _view,
        "Show a file of the scratch copy with line numbers.",
        {"path": _STRING},
        {"first": _INTEGER, "last": _INTEGER},
    ),
    "search": (
        _search,
        "Find the lines that hold a text, in one file or all.",
        {"text": _STRING},
        {"path": _STRING},
    ),
    "replace": (
        _replace,
        "Replace a text that occurs exactly once in a file. Copy it without the line numbers.",
        {"path": _STRING, "search": _STRING, "replace": _STRING},
        {},
    ),
    "insert": (
        _insert,
        "Insert lines after a line number (0 is the top; left out, the end).",
        {"path": _STRING, "text": _STRING},
        {"line": _INTEGER},
    ),
    "check": (_check, "Check the scratch copy: surface, duplicates, parse, sizes, preflight.", {}, {}),
    "read_trial": (
        _read_trial,
        "Everything recorded of one trial: outcome, numbers, hypothesis, log excerpt, diff to its parent.",
        {"trial": _STRING},
        {},
    ),
    "diff_trials": (
        _diff_trials,
        "The difference between the sources of two trials.",
        {"first": _STRING, "second": _STRING},
        {},
    ),
    "read_knowledge": (
        _read_knowledge,
        "Read a file of the knowledge that came with the environment, from a line on.",
        {"path": _STRING},
        {"first": _INTEGER},
    ),
    "choose_parent": (
        _choose_parent,
        "Start again from the source of another trial. Drops your edits.",
        {"trial": _STRING},
        {},
    ),
    "submit": (
        _submit,
        "Hand in the edit and end the session. expected_delta: signed change of the score you expect.",
        {"hypothesis": _STRING},
        {"expected_delta": _NUMBER, "notes": _STRING, "edit_kind": _KIND},
    ),
}
_LINEAGE_ONLY = ("read_trial", "diff_trials")


def tool_names(lineage: bool, knowledge: bool = False) -> tuple[str, ...]:
    hidden = (() if lineage else _LINEAGE_ONLY) + (() if knowledge else ("read_knowledge",))
    return tuple(name for name in _TABLE if name not in hidden)


def tool_specs(lineage: bool, knowledge: bool = False) -> list[dict[str, Any]]:
    """Tool definitions in the shape of the Messages API."""
    return [
        {
            "name": name,
            "description": _TABLE[name][1],
            "input_schema": {
                "type": "object",
                "properties": {**_TABLE[name][2], **_TABLE[name][3]},
                "required": list(_TABLE[name][2]),
                "additionalProperties": False,
            },
        }
        for name in tool_names(lineage, knowledge)
    ]


def use(scratch: Scratch, name: str, given: Mapping[str, Any]) -> tuple[str, bool]:
    """Run one tool. The text is bounded; the flag is True for an error message."""
    if name not in (known := tool_names(scratch.lineage, scratch.knowledge)):
        return f"no tool {for_prompt(name, 60)}; tools: {', '.join(known)}", True
    try:
        text, failed = _TABLE[name][0](scratch, given), False
    except (ToolError, EditRefused) as e:
        text, failed = for_terminal(str(e)), True
    except ValueError:  # lone surrogates, which pydantic and UTF-8 refuse
        text, failed = "the text holds characters that are not valid Unicode; write plain text", True
    return text[:RESULT_LIMIT], failed
