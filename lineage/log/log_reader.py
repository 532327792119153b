"""The reader of a campaign's events: log and parts joined into one view, refreshed incrementally; and compaction.

Use: `lineage = Lineage(store, campaign)`; `lineage.refresh()` returns a frozen `queries.View`;
`lineage.compact(min_new=256)` moves the log's tail into the next part.
Protocol: list the log, THEN list the parts; rows = parts + (log - rows already in parts); an object that
vanished in between was compacted meanwhile: look again. Creating part n+1 exclusively is the
commit, so any number of compactors may run or die at any point. No clocks.
Limits: one thread at a time per object; the whole campaign is in memory (about 0.3 KB a row).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from lineage.columnar_view import Block, Frame
from lineage.errors import ObjectExists, ObjectMissing, StoreCorrupt, StoreUnavailable
from lineage.ids import check_campaign, sha256
from lineage.log.epochs import FenceRow, fences, heads, superseded, without
from lineage.log.packs import (
    SIZES,
    choose,
    decode_pack,
    encode_pack,
    pack_folder,
    pack_key,
    pack_range,
    wanted,
)
from lineage.log.parquet_files import (
    Footer,
    decode_log,
    decode_part,
    encode_part,
    log_event,
    log_folder,
    part_folder,
    part_key,
    part_number,
    read_footer,
)
from lineage.log.part_anchors import write_anchor
from lineage.queries import Shared, View
from lineage.schema import SCHEMA, StoredRow, to_table
from lineage.store.objects import Store

Direction = Literal["min", "max"]
# Above this many un-compacted events a cold reader on S3 waits seconds (280 GETs/s through s3fs).
COMPACT_AT = 256
TAIL_CHUNKS = 16


class Lineage:
    """One campaign's events, refreshed incrementally. `quarantine` names what could not be read and why."""

    def __init__(self, store: Store, campaign: str, direction: Direction | None = None) -> None:
        self._store = store
        self.campaign = check_campaign(campaign)
        self.quarantine: dict[str, str] = {}
        self.lost: set[str] = set()
        self._direction = direction
        self._part_sha: list[str] = []
        self._base: Any = SCHEMA.empty_table()
        self._settled: Block | None = None  # of the parts, without superseded events
        self._newest = ""  # largest event id in the parts
        self._tail: dict[str, StoredRow] = {}
        self._tail_table: Any = SCHEMA.empty_table()
        self._covered: set[str] = set()
        self._deletable: set[str] = set()
        self._fences: dict[int, FenceRow] = {}
        self._superseded: set[str] = set()  # of the parts
        self._shared = Shared()
        self._view: View | None = None

    @property
    def tail(self) -> int:
        """Events not compacted yet, as of the last refresh."""
        return len(self._tail)

    @property
    def newest(self) -> str:
        """The largest event id seen by the last refresh; empty before the first event."""
        return max(self._newest, *(str(record["event_id"]) for record in self._tail.values()), "")

    def refresh(self) -> View:
        """The campaign as of now; cheap when little is new, the same object when nothing is."""
        changed = self._look()
        if changed:
            self._fold_epochs()
        if changed or self._view is None:
            self._view = View(self._joined(), self.campaign, self._direction, self._shared)
            if self._direction is None:
                self._direction = recorded_direction(self._view)
                self._view = View(self._joined(), self.campaign, self._direction, self._shared)
        return self._view

    def compact(self, min_new: int = COMPACT_AT) -> int:
        """Move the tail into a new part when it has at least `min_new` events; return how many moved.

        0 also when another compactor won the race. Afterwards log objects that a part covers are deleted.
        """
        self.refresh()
        moved = 0
        if len(self._tail) >= max(1, min_new):
            moved = self._commit()
        self._vacuum()
        if moved and len(self._part_sha) % SIZES[0] == 0:
            self.pack()
        return moved

    def _commit(self) -> int:
        number = len(self._part_sha) + 1
        if number > 1:
            write_anchor(self._store, self.campaign, number - 1, self._part_sha[-1], self._base.num_rows)
        footer = Footer(
            part=number,
            prev_sha256=self._part_sha[-1] if self._part_sha else None,
            rows_before=self._base.num_rows,
            rows=len(self._tail),
            covers=tuple(sorted(_name(key) for key in self._tail)),
            quarantine=tuple(sorted(_name(key) for key in self.quarantine)),
        )
        records = sorted(self._tail.values(), key=lambda record: str(record["event_id"]))
        try:
            self._store.create(part_key(self.campaign, number), encode_part(records, footer))
        except ObjectExists:
            return 0
        self.refresh()  # reads the part back, so nothing is deleted on the strength of an unread write
        if len(self._part_sha) >= number:
            rows = footer.rows_before + len(records)
            write_anchor(self._store, self.campaign, number, self._part_sha[number - 1], rows)
        return len(records)

    def pack(self) -> None:
        """Write the packs that are due, from the files as they are stored."""
        for first, last in wanted(len(self._part_sha), self._list_packs()):
            reader = Lineage(self._store, self.campaign)
            reader._part_sha = self._part_sha[: first - 1]
            packs = self._list_packs()
            tables = reader._read_ranges(choose(first - 1, last, packs), packs, {})
            prev = self._part_sha[first - 2] if first > 1 else None
            data = encode_pack(tables, first, self._part_sha[first - 1 : last], prev)
            self._store.create(pack_key(self.campaign, first, last, data), data)

    def _vacuum(self) -> None:
        """Delete log objects that a part covers; the covering part has been read, not only written."""
        left = {_name(key): key for key in self._covered - self._deletable}
        # Left by a compactor that died between commit and vacuum: look for the part that names them.
        for number in range(len(self._part_sha), 0, -1) if left else ():
            key = part_key(self.campaign, number)
            for name in read_footer(key, self._store.get(key)).covers:
                if name in left:
                    self._deletable.add(left.pop(name))
            if not left:
                break
        if self._deletable:
            self._store.delete(sorted(self._deletable))
            self._deletable = set()

    def _look(self) -> bool:
        for _ in range(20):
            log = [key for key in self._store.list(log_folder(self.campaign)) if log_event(key)]
            changed = self._load_parts(log)
            changed |= self._classify(log)
            fresh = [
                key
                for key in log
                if not (key in self._tail or key in self._covered or key in self.quarantine)
            ]
            try:
                found = self._store.get_many(fresh)
            except ObjectMissing:
                continue
            return self._take_in(fresh, found) or changed
        raise StoreUnavailable(
            f"campaign {self.campaign} in {self._store.root} changed under 20 reads in a row; try again"
        )

    def _load_parts(self, log: list[str]) -> bool:
        """Read parts not seen yet, check their chain, note which log objects they cover."""
        keys = [key for key in self._store.list(part_folder(self.campaign)) if part_number(key) is not None]
        known, total = len(self._part_sha), len(keys)
        if [part_number(key) for key in keys] != list(range(1, total + 1)) or total < known:
            raise StoreCorrupt(
                f"{part_folder(self.campaign)} in {self._store.root} lacks a part between 1 and"
                f" {max(known, total)}; run `bakeoff verify` and restore it from a copy"
            )
        if total == known:
            return False
        packs = self._list_packs() if total - known >= SIZES[0] else {}
        tables = [
            self._base,
            *self._read_ranges(choose(known, total, packs), packs, {_name(key): key for key in log}),
        ]
        tables = [table for table in tables if table.num_rows]
        ends = [(table["event_id"][0].as_py(), table["event_id"][-1].as_py()) for table in tables]
        self._base = pa.concat_tables(tables) if tables else self._base
        if any(left[1] > right[0] for left, right in pairwise(ends)):
            self._base = self._base.sort_by("event_id").combine_chunks()
        elif self._base.num_columns and self._base.column(0).num_chunks > 4 * SIZES[0]:
            self._base = self._base.combine_chunks()
        self._newest = max([self._newest, *(end for _, end in ends)])
        self._settled = None
        return True

    def _list_packs(self) -> dict[tuple[int, int], str]:
        found = {pack_range(key): key for key in self._store.list(pack_folder(self.campaign))}
        return {span: key for span, key in found.items() if span is not None and key not in self.quarantine}

    def _read_ranges(
        self, spans: Sequence[tuple[int, int]], packs: Mapping[tuple[int, int], str], names: Mapping[str, str]
    ) -> list[Any]:
        """Tables of these runs of parts, in order; a damaged pack is read part by part."""
        keys = [part_key(self.campaign, a) if a == b else packs[a, b] for a, b in spans]
        tables = []
        for (first, last), key, data in zip(spans, keys, self._store.get_many(keys), strict=True):
            if first == last:
                tables.append(self._admit_part(key, data, names))
                continue
            try:
                pack = decode_pack(key, data)
                if pack.prev_sha256 != (self._part_sha[-1] if self._part_sha else None):
                    raise StoreCorrupt(
                        f"{key} does not continue the part before it; delete it, packs are only copies"
                    )
            except StoreCorrupt as error:
                self.quarantine[key] = str(error)
                tables += self._read_ranges([(at, at) for at in range(first, last + 1)], packs, names)
                continue
            self._part_sha += pack.shas
            tables.append(pack.table)
        return tables

    def _admit_part(self, key: str, data: bytes, names: Mapping[str, str]) -> Any:
        table, footer = decode_part(key, data)
        if footer.prev_sha256 != (self._part_sha[-1] if self._part_sha else None):
            raise StoreCorrupt(
                f"{key} does not continue the part before it: one of the two was altered; run `bakeoff verify`"
            )
        self._part_sha.append(sha256(data))
        self._deletable |= {names[name] for name in footer.covers if name in names}
        return table

    def _classify(self, log: list[str]) -> bool:
        """Find log objects whose event is already in a part, by event id and not by name; True when a row is lost."""
        listed = set(log)
        lost = {key for key in self._tail if key not in listed and not self._in_parts([key])}
        self.lost |= lost
        self._covered &= listed
        self._deletable &= listed
        open_keys = [key for key in log if key not in self._covered and key not in self.quarantine]
        self._covered |= self._in_parts(open_keys)
        gone = [key for key in self._tail if key in self._covered or key not in listed]
        if gone:
            for key in gone:
                del self._tail[key]
            kept = pa.array([record["event_id"] for record in self._tail.values()], pa.string())
            self._tail_table = self._tail_table.filter(pc.is_in(self._tail_table["event_id"], value_set=kept))
        return bool(lost)

    def _in_parts(self, keys: list[str]) -> set[str]:
        old = {key: event for key in keys if (event := log_event(key) or "") <= self._newest}
        if not old:
            return set()
        wanted = pa.array(list(old.values()), pa.string())
        ids = self._base["event_id"]
        hits = set(ids.filter(pc.is_in(ids, value_set=wanted)).to_pylist())
        return {key for key, event in old.items() if event in hits}

    def _take_in(self, keys: list[str], found: list[bytes]) -> bool:
        fresh: list[StoredRow] = []
        have = {str(record["event_id"]) for record in self._tail.values()}
        for key, data in zip(keys, found, strict=True):
            try:
                record = decode_log(key, data, self.campaign)
            except StoreCorrupt as error:
                self.quarantine[key] = str(error)
                continue
            if record["event_id"] in have:
                self.quarantine[key] = (
                    f"{key}: a second object for event {record['event_id']}; the first one counts"
                )
                continue
            have.add(record["event_id"])
            self._tail[key] = record
            fresh.append(record)
        if fresh:
            tail = pa.concat_tables([self._tail_table, to_table(fresh)])
            # each row is a chunk of its own, and questions of a table of 200 chunks take five times as long
            self._tail_table = _ordered(tail if tail[0].num_chunks < TAIL_CHUNKS else tail.combine_chunks())
        return bool(fresh)

    def _joined(self) -> Frame:
        """Parts and tail in order of event id; only where the two overlap is anything sorted."""
        tail = without(self._tail_table, superseded(self._tail_table, self._fences))
        if self._settled is None:
            self._settled = Block(without(self._base, self._superseded))
        base = self._settled.table
        at = base.num_rows
        if tail.num_rows and tail["event_id"][0].as_py() < self._newest:
            later = pc.greater(base["event_id"], tail["event_id"][0])
            at -= pc.sum(later).as_py() or 0
            tail = _ordered(pa.concat_tables([base.slice(at), tail]))
        return Frame(self._settled, at, tail)

    def _fold_epochs(self) -> None:
        """Note new owners and which events they superseded; rows of the parts are looked at only when that changed."""
        known = {**self._fences, **fences(self._tail_table)}
        if self._settled is None:
            known |= fences(self._base)
        if self._settled is not None and known.keys() == self._fences.keys():
            return
        self._fences = known
        superseded_ids = superseded(self._base, known)
        if superseded_ids != self._superseded:
            self._superseded, self._settled = superseded_ids, None

    def heads(self) -> dict[str, int]:
        """What the owner of a new epoch has read: the last event of each writer that a takeover would cut off."""
        self.refresh()
        since = max(self._fences, default=1)
        return heads(pa.concat_tables([self._base, self._tail_table]), since)


def list_campaigns(store: Store) -> list[str]:
    """Names of all campaigns with at least one event, sorted."""
    keys = [*store.list("log"), *store.list("lineage")]
    folders = {key.split("/")[1] for key in keys if key.count("/") == 2}
    return sorted(name.removeprefix("campaign=") for name in folders if name.startswith("campaign="))


def _name(key: str) -> str:
    return key.rsplit("/", 1)[-1]


def _ordered(table: Any) -> Any:
    """The table sorted by event id; untouched when it already is."""
    ids = table["event_id"].combine_chunks() if table.num_rows > 1 else None
    if ids is None or pc.all(pc.less_equal(ids.slice(0, len(ids) - 1), ids.slice(1))).as_py():
        return table
    return table.sort_by("event_id")


def recorded_direction(view: View) -> Direction | None:
    """`direction` in the detail of the first campaign event that has one."""
    for row in view.events("campaign"):
        try:
            detail = json.loads(row.detail_json)
        except ValueError:
            continue
        if isinstance(detail, dict) and detail.get("direction") in ("min", "max"):
            return "min" if detail["direction"] == "min" else "max"
    return None
