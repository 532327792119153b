"""The columnar inside of a view: two blocks of events, the settled one computed once and shared.

`Block` has the events of one table and caches what queries need of its trial rows: category codes,
numbers, ids. A `Frame` is a prefix of the settled block (everything compacted) plus a small fresh block
(the log's tail), so that a new view costs what is new and not the length of the campaign.
Limits: internal to `lineage.queries`; indices count trial rows, positions count events.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lineage.schema import SCHEMA

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
ABOUT_OUTCOMES = ("confirmation", "sealed")


def encode(column: Any) -> tuple[Ints, list[str]]:
    """Category codes of a string column and the words they stand for; null is the word ''."""
    coded = pc.dictionary_encode(pc.fill_null(column, ""))
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.unify_dictionaries().combine_chunks()
        coded = coded.chunk(0) if isinstance(coded, pa.ChunkedArray) and coded.num_chunks else coded
    if not len(coded):
        return np.empty(0, np.int64), []
    return np.asarray(coded.indices, dtype=np.int64), coded.dictionary.to_pylist()


class Block:
    """Events in order. `before`: trial ids that already have an outcome in the block before this one."""

    def __init__(self, table: Any, before: Any = None) -> None:
        self.table = table
        self._batches = table.to_batches()
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self.kinds, self.kind_words = encode(table["event"])
        found = self.positions_of("trial")
        if len(found):
            ids = table["trial"].take(pa.array(found)).combine_chunks()
            if before is not None:
                # Scanning the long side with a short value set needs no hash table of the long one.
                known = before.filter(pc.is_in(before, value_set=ids))
                fresh = ~np.asarray(pc.is_in(ids, value_set=known), dtype=bool)
                found, ids = found[fresh], ids.filter(pa.array(fresh))
            if pc.count_distinct(ids, mode="all").as_py() < len(ids):
                # A second outcome of a trial comes from a process that had been replaced; the first one counts.
                groups = pa.table({"t": ids, "i": found}).group_by("t").aggregate([("i", "min")])
                found = np.sort(np.asarray(groups["i_min"]))
        self.at: Ints = found
        self._arrays: dict[str, Any] = {}
        self._codes: dict[str, tuple[Ints, list[str]]] = {}
        self._floats: dict[str, Floats] = {}

    def take(self, positions: Ints) -> Any:
        """Whole events by position. By hand: pyarrow's take joins all chunks first, 45 ms for 30 rows of 100,000."""
        if not len(positions):
            return self.table.slice(0, 0)
        where = np.searchsorted(self._starts, positions, side="right") - 1
        groups = [np.flatnonzero(where == batch) for batch in np.unique(where)]
        taken = [
            self._batches[where[group[0]]].take(pa.array(positions[group] - self._starts[where[group[0]]]))
            for group in groups
        ]
        table = pa.Table.from_batches(taken)
        if len(groups) == 1:
            return table
        order = np.empty(len(positions), dtype=np.int64)
        order[np.concatenate(groups)] = np.arange(len(positions))
        return table.combine_chunks().take(pa.array(order))

    def positions_of(self, *kinds: str) -> Ints:
        wanted = [at for at, word in enumerate(self.kind_words) if word in kinds]
        return np.flatnonzero(np.isin(self.kinds, wanted)).astype(np.int64)

    @cached_property
    def later(self) -> Ints:
        """Positions of the events that add facts to a trial row."""
        return self.positions_of(*ABOUT_OUTCOMES)

    def array(self, name: str) -> Any:
        """A column of the trial rows, contiguous."""
        if name not in self._arrays:
            column = self.table[name]
            taken = column if len(self.at) == len(column) else column.take(pa.array(self.at))
            whole = taken.combine_chunks()
            if isinstance(whole, pa.ChunkedArray):
                whole = whole.chunk(0) if whole.num_chunks else pa.array([], SCHEMA.field(name).type)
            self._arrays[name] = whole
        return self._arrays[name]

    def codes(self, name: str) -> tuple[Ints, list[str]]:
        if name not in self._codes:
            self._codes[name] = encode(self.array(name))
        return self._codes[name]

    def floats(self, name: str) -> Floats:
        """Numbers, NaN where there is none; of a time the seconds since 1970."""
        if name not in self._floats:
            column = self.array(name)
            if pa.types.is_timestamp(column.type):
                column = pc.divide(column.cast(pa.int64()).cast(pa.float64()), 1e6)  # schema.TIME
            self._floats[name] = column.to_numpy(zero_copy_only=False).astype(np.float64)
        return self._floats[name]

    @cached_property
    def folds(self) -> list[tuple[int, int | None]]:
        """(position of a later event, index of its trial in this block or None), in order."""
        if not len(self.later):
            return []
        about = self.table["trial"].take(pa.array(self.later))
        return list(
            zip(
                self.later.tolist(),
                pc.index_in(about, value_set=self.array("trial")).to_pylist(),
                strict=True,
            )
        )


class Frame:
    """The first `rows` events of a settled block, then all of a fresh one."""

    def __init__(self, settled: Block, rows: int, fresh: Any) -> None:
        self.settled = settled
        self.rows = rows
        self.cut = int(np.searchsorted(settled.at, rows))
        self.fresh = Block(
            fresh, settled.array("trial").slice(0, self.cut) if self.cut and len(fresh) else None
        )
        self.trials = self.cut + len(self.fresh.at)

    @cached_property
    def table(self) -> Any:
        return pa.concat_tables([self.settled.table.slice(0, self.rows), self.fresh.table])

    def column(self, name: str) -> Any:
        """One column of all events: joining the whole tables for it costs a millisecond."""
        old = self.settled.table[name].slice(0, self.rows).chunks
        return pa.chunked_array([*old, *self.fresh.table[name].chunks], SCHEMA.field(name).type)

    def floats(self, name: str) -> Floats:
        return np.concatenate([self.settled.floats(name)[: self.cut], self.fresh.floats(name)])

    def codes(self, name: str) -> tuple[Ints, list[str]]:
        codes, words = self.settled.codes(name)
        new, new_words = self.fresh.codes(name)
        if not len(new):
            return codes[: self.cut], words
        numbers = {word: at for at, word in enumerate(words)}
        for word in new_words:
            numbers.setdefault(word, len(numbers))
        mapped = np.array([numbers[word] for word in new_words], dtype=np.int64)[new]
        return np.concatenate([codes[: self.cut], mapped]), list(numbers)

    def mask(self, name: str, *values: str) -> Mask:
        """Which trial rows have one of these words in a column of few words."""
        codes, words = self.codes(name)
        hits = np.zeros(len(codes), dtype=bool)
        for at, word in enumerate(words):
            if word in values:
                hits |= codes == at
        return hits

    def find(self, name: str, value: str) -> Ints:
        """Indices of the trial rows with this value in a column of many values."""
        parts = [(self.settled.array(name).slice(0, self.cut), 0), (self.fresh.array(name), self.cut)]
        hits = [
            np.flatnonzero(np.asarray(pc.fill_null(pc.equal(part, value), False), dtype=bool)) + offset
            for part, offset in parts
            if len(part)
        ]
        return np.concatenate(hits).astype(np.int64) if hits else np.empty(0, np.int64)

    def index(self, trial: str) -> int | None:
        """Index of a trial; None when it has no outcome here."""
        at = pc.index(self.fresh.array("trial"), trial).as_py() if len(self.fresh.at) else -1
        if at >= 0:
            return self.cut + int(at)
        at = pc.index(self.settled.array("trial").slice(0, self.cut), trial).as_py() if self.cut else -1
        return int(at) if at >= 0 else None

    def value(self, name: str, index: int) -> Any:
        """One cell of the trial rows."""
        if index < self.cut:
            return self.settled.array(name)[index].as_py()
        return self.fresh.array(name)[index - self.cut].as_py()

    def values(self, name: str, start: int) -> list[Any]:
        """Cells of the trial rows from an index on."""
        old = self.settled.array(name).slice(start, max(0, self.cut - start)).to_pylist()
        new: list[Any] = self.fresh.array(name).slice(max(0, start - self.cut)).to_pylist()
        return [*old, *new]

    def take_values(self, name: str, indices: Ints) -> list[Any]:
        """Cells of the trial rows with these indices, which rise."""
        old, new = indices[indices < self.cut], indices[indices >= self.cut] - self.cut
        first: list[Any] = self.settled.array(name).take(pa.array(old)).to_pylist() if len(old) else []
        return first + (self.fresh.array(name).take(pa.array(new)).to_pylist() if len(new) else [])

    def ids(self, positions: Ints) -> list[str]:
        """Event ids by position."""
        settled, fresh = self.settled.table["event_id"], self.fresh.table["event_id"]
        if len(positions) < 64:
            return [
                settled[at].as_py() if at < self.rows else fresh[at - self.rows].as_py()
                for at in positions.tolist()
            ]
        ids: list[str] = self.column("event_id").take(pa.array(positions)).to_pylist()
        return ids

    def unfinished(self) -> Ints:
        """Positions of `submitted` events whose trial has no outcome."""
        found = self.events("submitted")
        if not len(found):
            return found
        ids = self.column("trial").take(pa.array(found))
        done = np.asarray(pc.is_in(ids, value_set=self._outcomes(ids)), dtype=bool)
        unfinished: Ints = found[~done]
        return unfinished

    def _outcomes(self, ids: Any) -> Any:
        """Those of these trial ids that have an outcome."""
        wanted = ids.combine_chunks()
        known = [self.settled.array("trial").slice(0, self.cut), self.fresh.array("trial")]
        return pa.concat_arrays([part.filter(pc.is_in(part, value_set=wanted)) for part in known])

    def position(self, index: int) -> int:
        """Where among all events a trial row is."""
        if index < self.cut:
            return int(self.settled.at[index])
        return self.rows + int(self.fresh.at[index - self.cut])

    def positions(self, indices: Ints) -> Ints:
        """The same for many, whose indices rise."""
        old, new = indices[indices < self.cut], indices[indices >= self.cut] - self.cut
        return np.concatenate([self.settled.at[old], self.fresh.at[new] + self.rows]).astype(np.int64)

    def events(self, *kinds: str) -> Ints:
        """Positions of events of these kinds."""
        old = self.settled.positions_of(*kinds)
        return np.concatenate([old[old < self.rows], self.fresh.positions_of(*kinds) + self.rows])

    def take(self, positions: Ints) -> Any:
        """Whole events by position, in the order asked for."""
        old, new = np.flatnonzero(positions < self.rows), np.flatnonzero(positions >= self.rows)
        if not len(new):
            return self.settled.take(positions)
        if not len(old):
            return self.fresh.take(positions - self.rows)
        taken = pa.concat_tables(
            [self.settled.take(positions[old]), self.fresh.take(positions[new] - self.rows)]
        )
        order = np.empty(len(positions), dtype=np.int64)
        order[np.concatenate([old, new])] = np.arange(len(positions))
        return taken.combine_chunks().take(pa.array(order))

    def folds(self) -> dict[int, list[int]]:
        """trial index -> positions of the later events about it, in order."""
        folds: dict[int, list[int]] = {}
        for position, at in self.settled.folds:
            if position < self.rows:
                index = at if at is not None and at < self.cut else self.index(str(self._about(position)))
                if index is not None:
                    folds.setdefault(index, []).append(position)
        for position in (self.fresh.later + self.rows).tolist():
            index = self.index(str(self._about(position)))
            if index is not None:
                folds.setdefault(index, []).append(position)
        return folds

    def _about(self, position: int) -> Any:
        settled = position < self.rows
        table = self.settled.table if settled else self.fresh.table
        return table["trial"][position if settled else position - self.rows].as_py()
