"""The rows of one campaign under verification: hashes, chains, order, and agreement with the stored results.

Use (by `lineage.verify.store_checks` only): feed `part` and `log` and `claim`, then `finish`.
Limits: keeps a few hundred bytes per row; full rows are not kept.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from lineage.columnar_view import ABOUT_OUTCOMES
from lineage.errors import StoreCorrupt
from lineage.ids import HEX64
from lineage.log.epochs import FenceRow, heads_of, is_superseded, valid_fences
from lineage.log.parquet_files import Footer, decode_log, log_event
from lineage.records import Row
from lineage.schema import StoredRow, row_hash, strip, to_row
from lineage.verify.findings import Finding

TREES = ("source_sha256", "parent_sha256")
BLOBS = ("diff_sha256", "prompt_sha256", "exchange_sha256", "measurement_sha256", *TREES)
# A link of a writer's chain: number, event id, previous hash, own hash.
Link = tuple[int, str, str | None, str]


class RowCheck:
    """Reads the rows of a campaign and finds where they contradict each other."""

    def __init__(self, campaign: str, root: str) -> None:
        self.campaign = campaign
        self.root = root
        self.count = 0
        self.unreadable = False
        self.references: dict[str, str] = {}
        self.trees: dict[str, str] = {}
        self.mentions: set[str] = set()
        self.findings: list[Finding] = []
        self._writers: dict[str, list[Link]] = {}
        self._events: dict[str, str] = {}
        self._outcomes: dict[str, tuple[str, Any]] = {}
        self._ends: list[tuple[str, str, Row]] = []  # event id, where, outcome
        self._stamped: list[tuple[str, str, int, str, int]] = []  # event id, where, epoch, writer, number
        self._fences: dict[int, FenceRow] = {}
        self._stops: list[tuple[str, bool]] = []
        self._labels: dict[str, tuple[str, Row]] = {}
        self._decided: list[tuple[str, Row]] = []
        self._later: list[Row] = []
        self._afterwards: list[tuple[str, Row]] = []  # event id, later fact
        self._claimed: dict[str, str] = {}
        self._payload: dict[str, bytes] = {}
        self._ended = False

    def _found(self, kind: str, where: str, text: str) -> None:
        self.findings.append(Finding(kind, where, text))  # type: ignore[arg-type]

    def part(self, key: str, table: Any, footer: Footer) -> None:
        rows = table.to_pylist()
        ids = [str(values["event_id"]) for values in rows]
        if ids != sorted(ids):
            self._found("reordered", key, "its rows are not in order of their event ids")
        covered = {log_event(name) for name in footer.covers}
        for event in sorted(set(ids) - covered):
            self._found("added", key, f"row {event} comes from no log object that the part names")
        for event in sorted(str(name) for name in covered - set(ids)):
            self._found("missing", key, f"row {event} is gone: the part names its log object")
        for values in rows:
            self._row(f"{key} row {values['event_id']}", strip(values, self.campaign))

    def log(self, key: str, data: bytes) -> None:
        try:
            record = decode_log(key, data, self.campaign)
        except StoreCorrupt as error:
            self._found("altered", key, str(error))
            self.unreadable = True
            return
        if self._events.get(record["event_id"]) == record["row_sha256"]:
            return  # compacted, not vacuumed yet
        self._row(key, record)

    def _row(self, where: str, record: StoredRow) -> None:
        event, sha = str(record.get("event_id")), str(record.get("row_sha256"))
        if row_hash(record) != sha:
            self._found(
                "altered",
                where,
                f"a value of trial {record.get('trial')} was changed: its row hash does not match",
            )
        if event in self._events:
            self._found("doubled", where, f"event {event} is there twice")
            return
        self.count += 1
        self._events[event] = sha
        link = (int(record.get("writer_seq", -1)), event, record.get("prev_sha256"), sha)
        self._writers.setdefault(str(record.get("writer")), []).append(link)
        for name in BLOBS:
            if record.get(name):
                self.references.setdefault(record[name], where)
                if name in TREES:
                    self.trees.setdefault(record[name], where)
        for value in record.values():
            if isinstance(value, str) and len(value) >= 64:
                self.mentions |= set(HEX64.findall(value))
        if record.get("epoch"):
            self._stamp(where, record)
        if record.get("event") == "campaign":
            self._stops.append((event, record.get("operator") == "end"))
        if record.get("event") == "trial":
            self._ends.append((event, where, to_row(record, self.campaign)))
        elif record.get("event") in ABOUT_OUTCOMES:
            with contextlib.suppress(ValueError):  # reported above: its hash does not match
                self._afterwards.append((event, to_row(record, self.campaign)))

    def _stamp(self, where: str, record: StoredRow) -> None:
        epoch, writer, seq = int(record["epoch"]), str(record["writer"]), int(record["writer_seq"])
        self._stamped.append((str(record["event_id"]), where, epoch, writer, seq))
        fenced = heads_of(record.get("detail_json", "{}")) if record.get("event") == "campaign" else None
        if fenced is not None:
            self._fences.setdefault(epoch, FenceRow(writer, seq, fenced))

    def _superseded(self) -> set[str]:
        """Events that an owner wrote after another had taken over: listed, and left out of what follows."""
        fenced, superseded = valid_fences(self._fences), set()
        for event, where, epoch, writer, seq in self._stamped:
            if is_superseded(epoch, writer, seq, fenced):
                superseded.add(event)
                text = f"event {event} of epoch {epoch} was written after epoch {min(n for n in fenced if n > epoch)} began"
                self._found("superseded", where, f"{text}; readers leave it out")
        return superseded

    def _outcome(self, where: str, row: Row) -> None:
        trial = str(row.trial)
        if trial in self._outcomes:
            self._found(
                "doubled",
                where,
                f"a second outcome of trial {trial}; the first is {self._outcomes[trial][0]}",
            )
        else:
            self._outcomes[trial] = (where, row)

    def claim(self, key: str, trial: str, name: str, sha: str, payload: bytes) -> None:
        """A recorded result: a label is the trial's row, a measurement contains its score."""
        self._claimed[sha] = trial
        try:
            said = json.loads(payload)
        except ValueError:
            return
        if not isinstance(said, dict):
            return
        if said.get("trial", trial) not in (trial, None):
            self._found("swapped", key, f"holds a result of trial {said['trial']}")
        if (name == "label" and said.get("event") == "trial") or said.get("event") in ABOUT_OUTCOMES:
            try:
                row = Row.model_validate(said)
                if row.event in ABOUT_OUTCOMES:
                    self._decided.append((key, row))
                else:
                    self._labels[trial] = (key, row)
            except ValueError as error:
                self._found("altered", key, f"is no lineage row: {' '.join(str(error).split())[:120]}")
        elif "per_seed" in said and "score" in said:
            self._payload[sha] = payload

    def finish(self, parts: int) -> Iterable[Finding]:
        """All findings about the rows; `parts` is the number of compacted parts."""
        hashes = set(self._events.values())
        superseded = self._superseded()
        for event, where, row in self._ends:
            if event not in superseded:
                self._outcome(where, row)
        self._later = [
            row.model_copy(update={"epoch": 0}) for event, row in self._afterwards if event not in superseded
        ]  # as it was recorded, before an epoch was stamped on it
        self._ended = next((end for event, end in reversed(self._stops) if event not in superseded), False)
        for writer in sorted(self._writers):
            self._chain(writer, self._writers[writer], hashes)
        self._results()
        self._confirmations()
        loose = self.count if not parts else 0
        if loose:
            self._found(
                "unvouched",
                f"campaign {self.campaign}",
                f"{loose} rows are not compacted, so no anchor covers them",
            )
        return self.findings

    def _chain(self, writer: str, links: list[Link], hashes: set[str]) -> None:
        by_number = sorted(links)
        where = f"campaign {self.campaign}, writer {writer}"
        if [link[1] for link in by_number] != sorted(link[1] for link in links):
            self._found(
                "reordered", where, "the numbers of its rows and their event ids run in different orders"
            )
        first = by_number[0]
        if first[0] > 0:
            self._found("missing", where, f"rows 0 to {first[0] - 1} of its chain are gone")
        elif first[2] is not None and first[2] not in hashes:
            self._found(
                "missing",
                where,
                f"the row that its first row continues ({first[2][:16]}…) is gone or altered",
            )
        for left, right in pairwise(by_number):
            if right[0] == left[0]:
                self._found("added", where, f"two rows have the number {left[0]}: {left[1]} and {right[1]}")
            elif right[0] > left[0] + 1:
                self._found("missing", where, f"rows {left[0] + 1} to {right[0] - 1} of its chain are gone")
            elif right[2] != left[3]:
                self._found(
                    "chain", where, f"row {right[0]} ({right[1]}) does not continue row {left[0]} ({left[1]})"
                )

    def _results(self) -> None:
        for trial, (key, said) in self._labels.items():
            if trial not in self._outcomes:
                if self._ended or self.unreadable:
                    self._found("missing", f"trial {trial}", f"its row is gone; {key} records what it said")
                else:
                    self._found(
                        "unfinished",
                        f"trial {trial}",
                        f"{key} is recorded, its row is not: a resume appends it",
                    )
            elif (
                said.model_copy(update={"epoch": self._outcomes[trial][1].epoch}) != self._outcomes[trial][1]
            ):
                where, row = self._outcomes[trial]
                names = [name for name in Row.model_fields if getattr(said, name) != getattr(row, name)]
                self._found("altered", where, f"differs from the recorded label {key} in {', '.join(names)}")
        for trial, (where, row) in self._outcomes.items():
            if self._labels and trial not in self._labels:
                self._found(
                    "added",
                    where,
                    f"trial {trial} has a row and no recorded label: the campaign did not write it",
                )
            self._measured(where, trial, row)

    def _confirmations(self) -> None:
        """Every recorded decision and sealed score against its row."""
        recorded = [said for _, said in self._decided]
        loose = [(row.event, row.trial) for row in self._later if row not in recorded]
        for key, said in self._decided:
            if said in self._later:
                continue
            if (said.event, said.trial) in loose:
                self._found(
                    "altered", key, f"no {said.event} row of trial {said.trial} says what it recorded"
                )
            elif self._ended or self.unreadable:
                self._found("missing", f"trial {said.trial}", f"its {said.event} row is gone; {key} has it")
            else:
                text = f"{key} is recorded, its {said.event} row is not: a resume appends it"
                self._found("unfinished", f"trial {said.trial}", text)

    def _measured(self, where: str, trial: str, row: Row) -> None:
        """The score in the row against the measurement that it names."""
        sha = row.measurement_sha256
        if sha is None:
            return
        payload = self._payload.get(sha)
        if payload is None:
            if self._claimed:
                self._found(
                    "missing", where, f"no recorded result of trial {trial} holds its measurement {sha[:16]}…"
                )
            return
        said = json.loads(payload)
        if self._claimed.get(sha) != trial or said.get("trial") != trial:
            self._found("swapped", where, f"its measurement {sha[:16]}… is of trial {said.get('trial')}")
        if said.get("score") != row.score:
            self._found("altered", where, f"score {row.score} where its measurement says {said.get('score')}")
