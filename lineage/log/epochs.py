"""Ownership of a campaign: epochs, claimed one after the other in the store, and events of replaced owners.

An owner claims the next epoch with a create-if-absent object and stamps it on every event that it, and the trial
workers that it dispatches, append. `Fence.check` looks for a later epoch before each append and each result; a writer
that finds one stops with `Superseded`. No clock of one machine is compared with that of another.

A check and the write after it are two steps, so a writer that was stopped between them can still add an event. What
becomes of it is decided by the record alone: the first event of a new epoch (the *fence row*, a `campaign` row) carries
in `detail_json.heads` the last event of each earlier writer that its owner had read. An event of an earlier epoch that is
beyond these heads is *superseded*: readers leave it out, `verify` lists it. Rows with epoch 0 were written by a person's
command or by a version without epochs, and always count.

Use: `claim_epoch(store, campaign, owner)`, `Fence(store, campaign, epoch).check()`; `fences(table)` and
`superseded(table, fences)` for readers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lineage.errors import ObjectExists, StoreCorrupt, Superseded
from lineage.ids import check_campaign
from lineage.records import Record
from lineage.store.objects import Store
from lineage.store.results import claim_key, get_result, put_result, results_folder

PLACE = "campaign"  # the place of a trial id in the keys of a campaign's own results
Heads = Mapping[str, int]  # writer -> number of its last event that was read


class Owner(Record):
    """Who claimed an epoch. `home` names the lock folder of its machine, `server` what its trials go through."""

    epoch: int
    host: str
    pid: int
    start: str
    home: str
    server: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (epoch {self.epoch})"


def owner_name(epoch: int) -> str:
    return f"owner-{epoch:06d}"


def owners_after(store: Store, campaign: str, epoch: int) -> list[int]:
    """Epochs claimed after this one, in order; one listing, cheap enough to ask before every append."""
    folder = results_folder(campaign, PLACE)
    keys = store.list(folder, after=claim_key(campaign, PLACE, owner_name(epoch)))
    names = [key.rsplit("/", 1)[-1] for key in keys]
    numbers = [name.removeprefix("owner-").removesuffix(".json") for name in names if name[:6] == "owner-"]
    return [int(number) for number in numbers if number.isdigit()]


def read_owner(store: Store, campaign: str, epoch: int) -> Owner:
    """The owner of a claimed epoch. Raises StoreCorrupt when its claim cannot be read."""
    raw = get_result(store, campaign, PLACE, owner_name(epoch))
    try:
        return Owner.model_validate_json(raw or b"")
    except ValueError as error:
        raise StoreCorrupt(
            f"{claim_key(campaign, PLACE, owner_name(epoch))} in {store.root} names no owner: {error}"
        ) from None


def newest_owner(store: Store, campaign: str) -> Owner | None:
    claimed = owners_after(store, campaign, 0)
    return read_owner(store, campaign, claimed[-1]) if claimed else None


def claim_epoch(store: Store, campaign: str, owner: Owner) -> None:
    """Make `owner` the owner of its epoch. Raises ObjectExists when another process was faster."""
    put_result(store, campaign, PLACE, owner_name(owner.epoch), owner.model_dump_json().encode())


@dataclass
class Fence:
    """Checks before each write of one epoch that no later epoch was claimed. Epoch 0 has no owner and is not checked.

    `follows` is for a trial worker: when the next owner dispatches through the same `server`, it waits for the very
    run that this worker executes, so the worker continues under the new epoch instead of stopping.
    """

    store: Store
    campaign: str
    epoch: int = 0
    server: str = ""
    follows: bool = False
    root: str = ""
    lost_to: Owner | None = field(default=None)

    def check(self) -> int:
        """The epoch to write under. Raises Superseded, naming the new owner, when there is a later one."""
        if not self.epoch:
            return 0
        later = owners_after(self.store, self.campaign, self.epoch)
        if not later:
            return self.epoch
        newest = read_owner(self.store, self.campaign, later[-1])
        if self.follows and self.server and newest.server == self.server:
            self.epoch = newest.epoch
            return self.epoch
        self.lost_to = newest
        raise Superseded(
            f"{self.root or self.store.root}: campaign {self.campaign} belongs to {newest} now, so epoch {self.epoch} of "
            "this process ends and it writes nothing more; watch the campaign with `bakeoff watch`, or take it back "
            "with `bakeoff resume --take-over`"
        )


class FencedStore:
    """A store for the stages of a trial: no result is written for an owner that has been replaced."""

    def __init__(self, store: Store, fence: Fence) -> None:
        self._store, self._fence = store, fence
        self.get, self.get_many, self.list = store.get, store.get_many, store.list
        self.exists, self.delete = store.exists, store.delete

    def __repr__(self) -> str:
        return f"FencedStore({self._store!r}, epoch {self._fence.epoch})"

    @property
    def root(self) -> str:
        return self._store.root

    def create(self, key: str, data: bytes) -> None:
        fenced = key.startswith("results/")
        if fenced:
            self._fence.check()
        try:
            self._store.create(key, data)
        except ObjectExists:
            if fenced:
                self._fence.check()  # whoever wrote it may be the next owner
            raise


def beacon_folder(campaign: str) -> str:
    return f"beacon/campaign={check_campaign(campaign)}"


def beacon_key(campaign: str, epoch: int, beat: int) -> str:
    return f"{beacon_folder(campaign)}/{epoch:06d}-{beat:09d}"


def beacons(store: Store, campaign: str, epoch: int) -> list[str]:
    """Signs of life of an epoch's owner: they change while it lives, and there is none after it left in order."""
    start = f"{beacon_folder(campaign)}/{epoch:06d}-"
    return [key for key in store.list(beacon_folder(campaign)) if key.startswith(start)]


def heads(table: Any, since: int) -> dict[str, int]:
    """The last event of each writer of epochs from `since` on, for the fence row of a new epoch."""
    mine = table.filter(pc.greater_equal(table["epoch"], max(1, since))).select(["writer", "writer_seq"])
    found = mine.group_by("writer").aggregate([("writer_seq", "max")])
    return dict(zip(found["writer"].to_pylist(), found["writer_seq_max"].to_pylist(), strict=True))


def heads_of(detail_json: str) -> Heads | None:
    """The heads that a campaign row carries; None when it is no fence row."""
    try:
        fenced = json.loads(detail_json).get("heads")
    except (ValueError, AttributeError):
        return None
    return fenced if isinstance(fenced, dict) else None


@dataclass(frozen=True)
class FenceRow:
    """The first event of an epoch: its position in its writer's chain, and the heads that its owner had read."""

    writer: str
    seq: int
    heads: Heads


def fences(table: Any) -> dict[int, FenceRow]:
    """epoch -> its fence row, from a table of events."""
    wanted = pc.and_(pc.equal(table["event"], "campaign"), pc.greater(table["epoch"], 0))
    names = ["epoch", "writer", "writer_seq", "detail_json"]
    found: dict[int, FenceRow] = {}
    for values in table.filter(wanted).select(names).to_pylist():
        fenced = heads_of(values["detail_json"])
        if fenced is not None:
            found.setdefault(values["epoch"], FenceRow(values["writer"], values["writer_seq"], fenced))
    return found


def valid_fences(known: Mapping[int, FenceRow]) -> dict[int, Heads]:
    """epoch -> heads, without fence rows that came from an owner which had been replaced itself."""
    kept: dict[int, Heads] = {}
    for epoch in sorted(known, reverse=True):
        row = known[epoch]
        if not is_superseded(epoch, row.writer, row.seq, kept):
            kept[epoch] = row.heads
    return kept


def is_superseded(epoch: int, writer: str, seq: int, known: Mapping[int, Heads]) -> bool:
    """Was this event beyond what the first owner after its epoch had read?"""
    later = [number for number in known if number > epoch] if epoch else []
    return bool(later) and seq > known[min(later)].get(writer, -1)


def superseded(table: Any, known: Mapping[int, FenceRow]) -> set[str]:
    """Ids of the events in a table that had been superseded when they were written."""
    if not known or not table.num_rows:
        return set()
    epochs, fenced = table["epoch"].to_numpy(), valid_fences(known)
    at = np.flatnonzero((epochs > 0) & (epochs < max(fenced)))
    if not len(at):
        return set()
    rows = table.select(["event_id", "epoch", "writer", "writer_seq"]).take(pa.array(at)).to_pydict()
    columns = zip(*rows.values(), strict=True)
    return {event for event, epoch, writer, seq in columns if is_superseded(epoch, writer, seq, fenced)}


def without(table: Any, event_ids: Iterable[str]) -> Any:
    """The table without these events; the same object when it contains none of them."""
    values = pa.array(list(event_ids), pa.string())
    if not len(values) or not table.num_rows:
        return table
    hit = pc.is_in(table["event_id"], value_set=values)
    return table.filter(pc.invert(hit)) if pc.any(hit).as_py() else table
