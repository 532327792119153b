"""The writer of a campaign's events: one immutable object per event, no shared state, no lock.

Use: `Journal(store, campaign, "campaign").append(row)` returns the event id once the row is durable.
Every Journal is its own chain (name plus 8 random hex digits): its first row points at the newest row
it found, each later one at its own row before.
A row whose append raised StoreUnavailable may or may not have arrived: append the same row again, or
any other; the pending one is written first, under the same key, so nothing is doubled and no chain forks.
Limits: one process, any number of threads. `row.campaign` must be the journal's.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from lineage.errors import ObjectExists, StoreCorrupt, UsageError
from lineage.ids import check_campaign, check_segment, sha256, uuid7
from lineage.log.parquet_files import (
    Footer,
    decode_log,
    decode_part,
    encode_log,
    encode_part,
    log_event,
    log_folder,
    part_folder,
    part_key,
    part_number,
)
from lineage.log.part_anchors import write_anchor
from lineage.records import Row
from lineage.schema import StoredRow, seal
from lineage.store.objects import Store

ABOUT_TRIALS = ("submitted", "trial", "confirmation", "sealed")


class Journal:
    """Appends rows to one campaign. `epoch` is asked before each write and gives the epoch to stamp, or raises."""

    def __init__(
        self, store: Store, campaign: str, writer: str, epoch: Callable[[], int] | None = None
    ) -> None:
        self._store = store
        self._campaign = check_campaign(campaign)
        self._epoch = epoch or (lambda: 0)
        self.writer = f"{check_segment('writer', writer)}-{uuid.uuid4().hex[:8]}"
        self._lock = threading.Lock()
        self._opened = False
        self._seq = 0
        self._prev: str | None = None
        self._newest = ""
        self._pending: tuple[Row, StoredRow, str, bytes] | None = None

    def append(self, row: Row, after: str = "") -> str:
        """Make a row durable and return its event id; see the module text for what a failure means.

        `after`: newest event that the writer has read; the row gets a later id, even when other machines' clocks are ahead.
        """
        if row.campaign != self._campaign:
            raise UsageError(f"a row of campaign {row.campaign!r} cannot be appended to {self._campaign!r}")
        if row.trial is None and row.event in ABOUT_TRIALS:
            raise UsageError(f"a {row.event!r} row must name its trial")
        with self._lock:
            if not self._opened:
                self._open()
            epoch = self._epoch()
            if self._pending is not None:
                same = self._pending[0] == row
                event_id = self._flush()
                if same:
                    return event_id
            event_id = uuid7(after=max(self._newest, after))
            record = seal(
                row.model_copy(update={"epoch": epoch}) if epoch else row,
                event_id=event_id,
                writer=self.writer,
                seq=self._seq,
                prev=self._prev,
                now=datetime.now(UTC),
            )
            self._pending = (row, record, *encode_log(record, self._campaign))
            return self._flush()

    def _flush(self) -> str:
        assert self._pending is not None
        _, record, key, data = self._pending
        self._store.create(key, data)
        self._pending = None
        self._seq += 1
        self._prev = record["row_sha256"]
        self._newest = record["event_id"]
        return str(record["event_id"])

    def _open(self) -> None:
        """Find the newest row of the campaign: the first row links to it and gets a later id."""
        for key in sorted(self._store.list(log_folder(self._campaign)), reverse=True)[:20]:
            if log_event(key) is None:
                continue
            try:
                record = decode_log(key, self._store.get(key), self._campaign)
            except (StoreCorrupt, FileNotFoundError):
                continue  # damaged, or compacted a moment ago: any other row serves as well
            self._newest, self._prev = record["event_id"], record["row_sha256"]
            break
        else:
            self._open_from_parts()
        self._opened = True

    def _open_from_parts(self) -> None:
        keys = [key for key in self._store.list(part_folder(self._campaign)) if part_number(key) is not None]
        if not keys:
            return
        table, _ = decode_part(keys[-1], self._store.get(keys[-1]))
        if table.num_rows:
            last = table.select(["event_id", "row_sha256"]).slice(table.num_rows - 1).to_pylist()[0]
            self._newest, self._prev = last["event_id"], last["row_sha256"]


def load(store: Store, campaign: str, writer: str, rows: Sequence[Row]) -> None:
    """Write rows as the first part of a new campaign: one commit, all of them or none. For imports."""
    name = f"{check_segment('writer', writer)}-{uuid.uuid4().hex[:8]}"
    now = datetime.now(UTC)
    records: list[StoredRow] = []
    prev: str | None = None
    for seq, row in enumerate(rows):
        if row.campaign != campaign:
            raise UsageError(f"a row of campaign {row.campaign!r} cannot be loaded into {campaign!r}")
        records.append(seal(row, event_id=uuid7(), writer=name, seq=seq, prev=prev, now=now))
        prev = records[-1]["row_sha256"]
    if store.list(log_folder(campaign)) or store.list(part_folder(campaign)):
        raise UsageError(f"campaign {campaign!r} in {store.root} already has rows; name another campaign")
    covers = tuple(f"{record['event_id']}-{record['row_sha256'][:16]}.parquet" for record in records)
    data = encode_part(records, Footer(1, None, 0, len(records), covers, ()))
    try:
        store.create(part_key(campaign, 1), data)
    except ObjectExists:
        raise UsageError(
            f"campaign {campaign!r} in {store.root} was begun a moment ago by another process"
        ) from None
    write_anchor(store, campaign, 1, sha256(data), len(records))
