"""Reading the TSV records that the paper released: every row comes out, damaged ones repaired and marked.

Use: `run = read_run(folder)`; `run.rows` are dicts of the original columns as text, in file order.
Kinds of damage met or expected: a quoted text whose tabs became blanks, so that the rest of the row is stuck
to it; a row cut short; a row broken over several lines; a row that only tree.tsv still has.
A damaged row is first read from its own line, then completed and checked against tree.tsv, whose status,
score and parent win. Limits: whole files in memory.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lineage.errors import UsageError

ID = re.compile(r"\"?[A-Za-z_-]*\d+\"?")
DATE = re.compile(r"\"?\d{4}-\d\d-\d\d")
STATUSES = (
    "baseline", "keep", "discard", "crash", "preflight_crash", "size_blocked", "train_budget_overrun",
    "eval_budget_overrun", "disqualified", "harness_abort",
)  # fmt: skip
FROM_TREE = ("parent_exp", "specialist", "status", "delta_vs_best")
LEAK = re.compile(r"</hypothesis>\s*<parameter name=\"notes\">")


@dataclass
class ReleasedRow:
    """The original columns as text. `repairs`: how a damaged row was completed; `raw`: its line as it was."""

    columns: dict[str, str]
    repairs: list[str] = field(default_factory=list)
    raw: str = ""

    @property
    def id(self) -> str:
        return self.columns["exp_id"]


@dataclass(frozen=True)
class ReleasedRun:
    """One released run: its files as bytes, the columns in order, all rows, and best.json."""

    folder: Path
    names: tuple[str, ...]
    score_column: str
    rows: tuple[ReleasedRow, ...]
    files: dict[str, bytes]
    best: dict[str, Any]


def read_run(folder: Path) -> ReleasedRun:
    """Read results.tsv, tree.tsv and best.json from a folder (or its `blackboard/`)."""
    if not folder.is_dir():
        raise UsageError(
            f"no folder {folder}; give the folder of a released run, the one with results.tsv in it"
        )
    home = folder if (folder / "results.tsv").is_file() else folder / "blackboard"
    files = {
        p.name: p.read_bytes()
        for p in sorted(home.glob("*"))
        if p.name in ("results.tsv", "tree.tsv", "best.json")
    }
    if "results.tsv" not in files:
        raise UsageError(f"{folder} holds no results.tsv; give the folder of a released run")
    lines = _lines(files["results.tsv"])
    names = [_plain(name) for name in lines[0].split("\t")] if lines else []
    if not {"exp_id", "status"} <= set(names):
        raise UsageError(
            f"{home / 'results.tsv'} has no columns exp_id and status, but: {', '.join(names)[:200]}"
        )
    tree_names, tree = _tree(files.get("tree.tsv", b""))
    rows = [_row(names, record) for record in _records(lines[1:])]
    score = _score_column(names, tree_names)
    for row in rows:
        _complete(row, names, tree.pop(row.id, {}), score)
    for values in tree.values():
        _insert(rows, _only_in_tree(names, values, score))
    best = files.get("best.json", b"{}")
    try:
        known = json.loads(best)
    except ValueError:
        known = {}
    return ReleasedRun(
        home, tuple(names), score, tuple(_unique(rows)), files, known if isinstance(known, dict) else {}
    )


def _lines(data: bytes) -> list[str]:
    text = data.decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
    return [line for line in text.split("\n") if line.strip()]


def _plain(text: str) -> str:
    """A field without the quotes that csv put around it."""
    text = text.strip("\r")
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"')
    return text


def _starts(line: str) -> bool:
    """Whether a line starts a record: a number, then a time or several columns."""
    first, *rest = line.split("\t")
    return bool(ID.fullmatch(first) and rest and (DATE.match(rest[0]) or len(rest) >= 4))


def _records(lines: list[str]) -> list[str]:
    """Lines joined to records: one that does not start like a record belongs to the record before."""
    records: list[str] = []
    for line in lines:
        if records and not _starts(line):
            records[-1] += "\n" + line
        else:
            records.append(line)
    return records


def _tree(data: bytes) -> tuple[list[str], dict[str, dict[str, str]]]:
    lines = _lines(data)
    if not lines:
        return [], {}
    names = [_plain(name) for name in lines[0].split("\t")]
    if "exp_id" not in names:
        return [], {}
    rows: dict[str, dict[str, str]] = {}
    for line in lines[1:]:
        values = dict(zip(names, (_plain(part) for part in line.split("\t")), strict=False))
        rows[values["exp_id"]] = values
    return names, rows


def _score_column(names: list[str], tree_names: list[str]) -> str:
    """core_metric beats val_bpb (NanoChat has both); train_s is a score only where accuracy is a gate."""
    if "core_metric" in names:
        return "core_metric"
    if "val_bpb" in names:
        return "val_bpb"
    if "train_s" in names and "accuracy" in names:
        return "train_s"
    known = ("exp_id", "parent_exp", "depth", "path", "specialist", "status", "delta_vs_best", "hypothesis")
    own = [name for name in tree_names if name not in known and name in names]
    if own:
        return own[0]
    raise UsageError(
        "cannot tell which column is the score: none of core_metric, val_bpb, or train_s with accuracy; columns: "
        + ", ".join(names)
    )


def _row(names: list[str], record: str) -> ReleasedRow:
    fields = record.split("\t")
    if len(fields) == len(names) and "\n" not in record:
        return ReleasedRow(dict(zip(names, map(_plain, fields), strict=True)))
    for read in (_as_csv, _as_stuck):
        found = read(names, record)
        if found is not None:
            columns, how = found
            return ReleasedRow(columns, [how], record)
    # Cut short or unreadable: what is certain comes from the front, the rest from tree.tsv.
    columns = dict(zip(names, map(_plain, fields[: len(names)]), strict=False))
    spare = fields[len(names) :]
    if spare:
        columns[names[-1]] = "\t".join([columns[names[-1]], *spare])
    return ReleasedRow(columns, [f"{len(fields)} of {len(names)} columns on its line"], record)


def _as_csv(names: list[str], record: str) -> tuple[dict[str, str], str] | None:
    """A record whose quoted text contains tabs or line ends is one csv row."""
    try:
        rows = list(csv.reader(io.StringIO(record, newline=""), delimiter="\t", quotechar='"', strict=True))
    except csv.Error:
        return None
    flat = rows[0] if len(rows) == 1 else None
    if flat is None or len(flat) != len(names) or flat[names.index("status")] not in STATUSES:
        return None
    return dict(zip(names, flat, strict=True)), "read as one quoted record"


def _as_stuck(names: list[str], record: str) -> tuple[dict[str, str], str] | None:
    """A quoted text whose following tabs became blanks: the columns after it hang on its end."""
    fields = record.replace("\n", " ").split("\t")
    at = len(fields) - 1
    text, status_at = fields[-1], names.index("status")
    if not 0 <= at < status_at or not text.startswith('"'):
        return None
    between = r"(\S*) " * (status_at - at - 1)
    ends = list(re.finditer(rf'" {between}({"|".join(STATUSES)}) ', text))
    if not ends:
        return None
    tail = text[ends[-1].start() + 2 :].split(" ", len(names) - at - 2)
    tail += [""] * (len(names) - at - 1 - len(tail))
    columns = dict(
        zip(names, [*map(_plain, fields[:at]), _plain(text[: ends[-1].start() + 1]), *tail], strict=True)
    )
    leak = LEAK.split(columns[names[at]], maxsplit=1)
    if len(leak) == 2 and "notes" in columns and names[at] == "hypothesis":
        columns["hypothesis"] = leak[0]
        columns["notes"] = " ".join(part for part in (leak[1], columns["notes"].strip()) if part)
    return columns, f"columns after {names[at]} split from its text"


def _complete(row: ReleasedRow, names: list[str], tree: Mapping[str, str], score: str) -> None:
    """Fill a damaged row from tree.tsv; where the two disagree, tree.tsv wins and it is noted."""
    if row.repairs and tree:
        for name in (*FROM_TREE, score):
            said, known = row.columns.get(name), tree.get(name)
            if name in names and known is not None and said != known:
                row.repairs.append(f"{name} from tree.tsv" + (f", its line said {said!r}" if said else ""))
                row.columns[name] = known
        if not row.columns.get("hypothesis") and tree.get("hypothesis"):
            row.columns["hypothesis"] = tree["hypothesis"]
            row.repairs.append("hypothesis from tree.tsv")
    for name in names:
        row.columns.setdefault(name, "")
    if row.repairs and not row.columns["status"]:
        row.repairs.append("no status on its line or in tree.tsv")


def _only_in_tree(names: list[str], tree: Mapping[str, str], score: str) -> ReleasedRow:
    columns = {name: tree.get(name, "") for name in names}
    return ReleasedRow(
        columns, [f"only in tree.tsv (status, {score}, parent, hypothesis)"], json.dumps(dict(tree))
    )


def _insert(rows: list[ReleasedRow], row: ReleasedRow) -> None:
    """At the place that its number gives it; at the end when numbers are not numbers."""
    place = len(rows)
    if row.id.isdigit():
        place = next((at for at, r in enumerate(rows) if r.id.isdigit() and int(r.id) > int(row.id)), place)
    rows.insert(place, row)


def _unique(rows: list[ReleasedRow]) -> list[ReleasedRow]:
    """A number used twice gets a suffix, so that no row shadows another."""
    seen: dict[str, int] = {}
    for row in rows:
        seen[row.id] = seen.get(row.id, 0) + 1
        if seen[row.id] > 1:
            row.repairs.append(f"number {row.id} was used {seen[row.id]} times")
            row.columns["exp_id"] = f"{row.id}-{seen[row.id]}"
    return rows
