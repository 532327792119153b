"""Every question that agents, report and CLI ask of a campaign, answered from columns.

Use: `view = Lineage(store, campaign).refresh()`, or `View.from_rows(rows, "min")` in tests. A View is frozen:
it shows one moment. Lists are in lineage order, oldest first, unless the method says otherwise.
`sign` is +1 when a higher score is better, -1 when a lower one is.
Rows that agents must not see as failures (`harness_abort`: our own faults) are left out of `recent`,
`by_role`, `neighbours`, `failures` and `hit_rates`; `trials`, `count` and `failure_counts` have them.
Limits: one campaign; rows are built only for what a question returns (100,000 rows: <= 50 ms a prompt).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lineage.errors import UnknownName, UsageError
from lineage.ids import uuid7
from lineage.records import EventKind, Row
from lineage.schema import seal, to_row, to_table
from lineage.text import TextIndex

Mask = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]
VALID = ("keep", "discard")
# What a later event adds to the trial row it speaks of.
FOLDED = {
    "confirmation": ("verdict", "p_value", "alpha_spent", "gain", "gain_low", "gain_high"),
    "sealed": ("sealed_score", "public_score"),
}
ROW_CACHE = 20_000


@dataclass(frozen=True)
class HitRate:
    """How one role, edit kind or operator has done. `mean_gain`: against the parent, positive is better."""

    key: str
    n: int
    keeps: int
    valid: int
    failed: int
    mean_gain: float | None


@dataclass
class Shared:
    """What successive views of one campaign may reuse: rows already built and the text index."""

    rows: dict[str, Row] = field(default_factory=dict)
    index: TextIndex = field(default_factory=TextIndex)
    indexed_to: str = ""


class View:
    """A campaign at one moment."""

    def __init__(
        self, table: Any, campaign: str, direction: Literal["min", "max"] | None, shared: Shared | None = None
    ) -> None:
        self.campaign = campaign
        self._table = table
        self._direction = direction
        self._shared = shared or Shared()
        self._columns: dict[str, Any] = {}

    @classmethod
    def from_rows(cls, rows: Iterable[Row], direction: Literal["min", "max"]) -> View:
        """A view of rows that are in no store, in the order given."""
        listed = list(rows)
        now = datetime.now(UTC)
        records = [
            seal(row, event_id=uuid7(), writer="rows", seq=at, prev=None, now=now)
            for at, row in enumerate(listed)
        ]
        return cls(to_table(records), listed[0].campaign if listed else "", direction)

    @property
    def sign(self) -> int:
        if self._direction is None:
            raise UsageError(
                f"campaign {self.campaign!r} records no direction of its score; open it with"
                ' Lineage(store, campaign, direction="min") or "max"'
            )
        return 1 if self._direction == "max" else -1

    # --- columns of the trial rows -------------------------------------------------------------

    @cached_property
    def _at(self) -> Positions:
        """Positions of the trial rows; a second row for the same trial (a zombie's) is not an outcome."""
        found = np.flatnonzero(np.asarray(pc.equal(self._table["event"], "trial")))
        if len(found):
            ids = self._table["trial"].take(pa.array(found)).combine_chunks()
            if pc.count_distinct(ids, mode="all").as_py() < len(ids):
                first = pa.table({"t": ids, "i": found}).group_by("t").aggregate([("i", "min")])["i_min"]
                found = np.sort(np.asarray(first))
        return found.astype(np.int64)

    def _column(self, name: str) -> Any:
        """One column of the trial rows, contiguous."""
        if name not in self._columns:
            column = self._table[name]
            whole = len(self._at) == self._table.num_rows
            taken = column if whole else column.take(pa.array(self._at))
            self._columns[name] = taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken
        return self._columns[name]

    def _floats(self, name: str) -> npt.NDArray[np.float64]:
        values: npt.NDArray[np.float64] = self._column(name).to_numpy(zero_copy_only=False).astype(np.float64)
        return values

    def _is(self, name: str, *values: str) -> Mask:
        hits = pc.is_in(self._column(name), value_set=pa.array(values, pa.string()))
        return np.asarray(hits, dtype=bool)

    @cached_property
    def _score(self) -> npt.NDArray[np.float64]:
        """Scores with the better one higher; NaN where there is none."""
        return self._floats("score") * self.sign

    @cached_property
    def _visible(self) -> Mask:
        return ~self._is("status", "harness_abort")

    @cached_property
    def _folds(self) -> dict[int, list[int]]:
        """trial index -> positions of the later events about it, in order."""
        later = np.flatnonzero(
            np.asarray(
                pc.is_in(self._table["event"], value_set=pa.array(list(FOLDED), pa.string())), dtype=bool
            )
        )
        if not len(later):
            return {}
        about = pc.index_in(self._table["trial"].take(pa.array(later)), value_set=self._column("trial"))
        folds: dict[int, list[int]] = {}
        for position, index in zip(later.tolist(), about.to_pylist(), strict=True):
            if index is not None:
                folds.setdefault(index, []).append(position)
        return folds

    @cached_property
    def _verdicts(self) -> dict[int, str]:
        """trial index -> its last verdict, in the order in which the verdicts fell."""
        pairs = sorted((position, index) for index, many in self._folds.items() for position in many)
        if not pairs:
            return {}
        said = self._table["verdict"].take(pa.array([position for position, _ in pairs])).to_pylist()
        verdicts: dict[int, str] = {}
        for (_, index), verdict in zip(pairs, said, strict=True):
            if verdict is not None:
                verdicts.pop(index, None)
                verdicts[index] = verdict
        return verdicts

    # --- rows ----------------------------------------------------------------------------------

    def _build(self, positions: Sequence[int]) -> list[Row]:
        """Rows at these positions of the table, from the shared cache where they are there."""
        if not len(positions):
            return []
        ids = self._table["event_id"].take(pa.array(positions, pa.int64())).to_pylist()
        if len(self._shared.rows) > ROW_CACHE:
            self._shared.rows = {}
        cache = self._shared.rows
        missing = [(event, at) for event, at in zip(ids, positions, strict=True) if event not in cache]
        if missing:
            taken = self._table.take(pa.array([at for _, at in missing], pa.int64())).to_pylist()
            for (event, _), values in zip(missing, taken, strict=True):
                cache[event] = to_row(values, self.campaign)
        return [cache[event] for event in ids]

    def _rows(self, indices: Iterable[int]) -> list[Row]:
        """Trial rows by index, with later facts folded in."""
        wanted = [int(index) for index in indices]
        rows = self._build([int(self._at[index]) for index in wanted])
        return [
            self._fold(row, self._folds[at]) if at in self._folds else row
            for at, row in zip(wanted, rows, strict=True)
        ]

    def _fold(self, row: Row, positions: list[int]) -> Row:
        update: dict[str, Any] = {}
        for later in self._build(positions):
            for name in FOLDED[later.event]:
                value = getattr(later, name)
                if value is not None:
                    update[name] = value
        return row.model_copy(update=update)

    def count(self, event: EventKind = "trial") -> int:
        """How many events of a kind; for `trial` the number of trials with an outcome, baseline included."""
        if event == "trial":
            return len(self._at)
        return int(pc.sum(pc.equal(self._table["event"], event)).as_py() or 0)

    def trials(self) -> list[Row]:
        """All trial rows, with later confirmation and sealed facts folded in."""
        return self._rows(range(len(self._at)))

    def _index(self, trial: str) -> int | None:
        at = pc.index(self._column("trial"), trial).as_py() if len(self._at) else -1
        return None if at < 0 else int(at)

    def trial(self, trial: str) -> Row | None:
        index = self._index(trial)
        return None if index is None else self._rows([index])[0]

    def events(self, kind: EventKind) -> list[Row]:
        """All events of a kind, as written: nothing folded."""
        return self._build(np.flatnonzero(np.asarray(pc.equal(self._table["event"], kind))).tolist())

    def open_trials(self) -> list[Row]:
        """`submitted` events of trials that have no outcome yet; the last one where a trial was retried."""
        found = np.flatnonzero(np.asarray(pc.equal(self._table["event"], "submitted")))
        if not len(found):
            return []
        ids = self._table["trial"].take(pa.array(found))
        done = np.asarray(pc.is_in(ids, value_set=self._column("trial")), dtype=bool)
        rows = {row.trial: row for row in self._build(found[~done].tolist())}
        return list(rows.values())

    # --- the tree ------------------------------------------------------------------------------

    def baseline(self) -> Row | None:
        found = np.flatnonzero(self._is("status", "baseline"))
        return self._rows(found[:1])[0] if len(found) else None

    def _best(self, indices: Positions) -> Row | None:
        """The best scored trial among these; the earlier one when scores tie."""
        scored = indices[np.isfinite(self._score[indices])]
        if not len(scored):
            return None
        return self._rows([int(scored[np.argmax(self._score[scored])])])[0]

    def incumbent(self) -> Row | None:
        """The best confirmed trial; the baseline while nothing is confirmed."""
        confirmed = sorted(index for index, verdict in self._verdicts.items() if verdict == "confirmed")
        return self._best(np.array(confirmed, dtype=np.int64)) or self.baseline()

    def leader(self) -> Row | None:
        """The best keep or baseline by its measured score, unless it failed its confirmation."""
        fit = self._is("status", "keep", "baseline")
        fit[[index for index, verdict in self._verdicts.items() if verdict == "unconfirmed"]] = False
        return self._best(np.flatnonzero(fit))

    def champions(self) -> list[Row]:
        """Confirmed trials in the order in which they were confirmed."""
        return self._rows(index for index, verdict in self._verdicts.items() if verdict == "confirmed")

    def chain(self, trial: str) -> list[Row]:
        """From the root to this trial along `parent`; stops where a parent is unknown."""
        path: list[int] = []
        index = self._index(trial)
        parents = self._column("parent")
        while index is not None and index not in path:
            path.append(index)
            parent = parents[index].as_py()
            index = None if parent is None else self._index(parent)
        return self._rows(reversed(path))

    def children(self, trial: str) -> list[Row]:
        return self._rows(np.flatnonzero(self._is("parent", trial)))

    # --- what a prompt shows ---------------------------------------------------------------------

    def recent(self, n: int) -> list[Row]:
        """The last n trials, oldest of them first."""
        return self._rows(_last(np.flatnonzero(self._visible), n))

    def by_role(self, role: str, n: int) -> list[Row]:
        """The last n trials of a role, oldest of them first."""
        return self._rows(_last(np.flatnonzero(self._visible & self._is("role", role)), n))

    def neighbours(self, role: str, n: int) -> list[Row]:
        """Up to n trials of other roles, best score first: every keep comes before any other."""
        others = (
            self._visible
            & ~self._is("role", role)
            & np.isfinite(self._score)
            & ~self._is("status", "baseline")
        )
        keeps = np.flatnonzero(others & self._is("status", "keep"))
        rest = np.flatnonzero(others & self._is("status", "discard"))
        ranked = [part[np.argsort(-self._score[part], kind="stable")] for part in (keeps, rest)]
        return self._rows(np.concatenate(ranked)[:n])

    def failures(self, role: str | None, n: int) -> list[Row]:
        """The last n trials without a usable score (of one role, or of all), oldest of them first."""
        failed = self._visible & ~self._is("status", "baseline", *VALID)
        if role is not None:
            failed &= self._is("role", role)
        return self._rows(_last(np.flatnonzero(failed), n))

    def failure_counts(self) -> dict[tuple[str, str | None], int]:
        """(status, cause) -> count over every trial that is no baseline, keep or discard."""
        failed = pa.array(~self._is("status", "baseline", *VALID))
        pairs = pa.table({"s": self._column("status"), "c": self._column("cause")}).filter(failed)
        counted = pairs.group_by(["s", "c"]).aggregate([([], "count_all")]).to_pylist()
        listed = sorted(counted, key=lambda row: (-row["count_all"], row["s"], row["c"] or ""))
        return {(row["s"], row["c"]): row["count_all"] for row in listed}

    def hit_rates(self, by: str = "role") -> list[HitRate]:
        """One line per role, edit_kind or operator, most tried first; baselines and our own faults left out."""
        if by not in ("role", "edit_kind", "operator", "proposer", "model"):
            raise UnknownName(
                "column to count by", by, ("role", "edit_kind", "operator", "proposer", "model")
            )
        counted = self._visible & ~self._is("status", "baseline")
        coded = pc.dictionary_encode(pc.fill_null(self._column(by), ""))
        codes = np.asarray(coded.indices)[counted]
        keeps = self._is("status", "keep")[counted]
        valid = self._is("status", *VALID)[counted]
        gains = (self._floats("delta_parent") * self.sign)[counted]
        measured = valid & np.isfinite(gains)
        size = len(coded.dictionary)
        n, k, v, m = (
            np.bincount(codes[mask], minlength=size) for mask in (codes >= 0, keeps, valid, measured)
        )
        total = np.bincount(codes[measured], weights=gains[measured], minlength=size)
        rates = [
            HitRate(
                key=key,
                n=int(n[at]),
                keeps=int(k[at]),
                valid=int(v[at]),
                failed=int(n[at] - v[at]),
                mean_gain=float(total[at] / m[at]) if m[at] else None,
            )
            for at, key in enumerate(coded.dictionary.to_pylist())
            if key and n[at]
        ]
        return sorted(rates, key=lambda rate: (-rate.n, rate.key))

    def has_program(self, ast_sha: str) -> str | None:
        """The first trial whose program has this normalised hash and that was not cut short by our own fault."""
        hits = self._is("ast_sha256", ast_sha) & self._visible & ~self._is("cause", "abandoned")
        found = np.flatnonzero(hits)
        return str(self._column("trial")[int(found[0])].as_py()) if len(found) else None

    def near_duplicates(self, text: str, n: int) -> list[tuple[str, float]]:
        """(trial, cosine) of the n earlier hypotheses nearest to a text, nearest first."""
        ids = self._column("event_id")
        shared = self._shared
        size = shared.index.size
        if size > len(ids) or (size and ids[size - 1].as_py() != shared.indexed_to):
            shared.index, size = TextIndex(), 0
        shared.index.extend([text or "" for text in self._column("hypothesis").slice(size).to_pylist()])
        if len(ids):
            shared.indexed_to = ids[len(ids) - 1].as_py()
        return [
            (str(self._column("trial")[at].as_py()), cosine) for at, cosine in shared.index.nearest(text, n)
        ]

    def best_so_far(self) -> list[tuple[int, str, float]]:
        """(trials so far, trial, score) at each improvement of the measured best; the baseline counts as 0."""
        scores = np.where(self._is("status", "keep", "baseline"), self._score, np.nan)
        number = np.cumsum(~self._is("status", "baseline"))
        steps: list[tuple[int, str, float]] = []
        best = -np.inf
        for at in np.flatnonzero(np.isfinite(scores)):
            if scores[at] > best:
                best = scores[at]
                trial = str(self._column("trial")[int(at)].as_py())
                steps.append((int(number[at]), trial, float(self._column("score")[int(at)].as_py())))
        return steps

    def to_pandas(self, *, events: bool = False) -> pd.DataFrame:
        """Trials with later facts folded in, or with `events` every event as written, as a DataFrame."""
        if events:
            return _frame(self._table, self.campaign)
        frame = _frame(self._table.take(pa.array(self._at)), self.campaign)
        for index, row in zip(self._folds, self._rows(self._folds), strict=True):
            for name in (*FOLDED["confirmation"], *FOLDED["sealed"]):
                frame.at[index, name] = getattr(row, name)
        return frame


def _last(found: Positions, n: int) -> Positions:
    return found[-n:] if n > 0 else found[:0]


def _frame(table: Any, campaign: str) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    frame.insert(0, "campaign", campaign)
    return frame
