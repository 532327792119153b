"""Epochs on a store: who may write, and what becomes of an event that came too late."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lineage.errors import ObjectExists, Superseded
from lineage.log.epochs import Fence, Owner, claim_epoch, newest_owner
from lineage.log.journal import Journal
from lineage.log.log_reader import Lineage
from lineage.records import Row, Status
from lineage.store.objects import Store, open_store
from lineage.verify.store_checks import verify

C = "c-owned"


def owner(epoch: int, host: str, server: str = "") -> Owner:
    return Owner(epoch=epoch, host=host, pid=epoch, start=host, home=host, server=server)


def begin(store: Store, host: str, server: str = "") -> tuple[Fence, Journal]:
    last = newest_owner(store, C)
    epoch = last.epoch + 1 if last else 1
    claim_epoch(store, C, owner(epoch, host, server))
    fence = Fence(store, C, epoch)
    journal = Journal(store, C, host, fence.check)
    heads = Lineage(store, C, "max").heads()
    journal.append(
        Row(event="campaign", campaign=C, operator="start", detail_json=json.dumps({"heads": heads}))
    )
    return fence, journal


def outcome(trial: str, score: float) -> Row:
    return Row(event="trial", campaign=C, trial=trial, status=Status.KEEP, score=score)


def test_an_epoch_has_one_owner_and_the_old_one_stops_naming_the_new(store_root: str) -> None:
    store = open_store(store_root, create=True)
    old, journal = begin(store, "machine-a")
    journal.append(outcome("t0001", 1.0))
    with pytest.raises(ObjectExists):
        claim_epoch(store, C, owner(1, "machine-b"))
    begin(store, "machine-b")
    with pytest.raises(Superseded, match="belongs to process 2 on machine-b"):
        journal.append(outcome("t0002", 2.0))
    assert old.lost_to is not None
    assert [row.trial for row in Lineage(store, C, "max").refresh().events("trial")] == ["t0001"]


def late(store: Store) -> None:
    """The old owner passes its check, is stopped, and writes after the new one has begun: the same trial, another end."""
    begin(store, "machine-a")
    zombie = Journal(store, C, "machine-a", lambda: 1)
    zombie.append(outcome("t0001", 1.0))
    _, journal = begin(store, "machine-b")
    zombie.append(outcome("t0002", 9.0))
    journal.append(outcome("t0002", 2.0))


@pytest.mark.parametrize("compacted", [False, True])
def test_a_late_event_is_left_out_by_readers_and_listed_by_verify(tmp_path: Path, compacted: bool) -> None:
    store = open_store(tmp_path / "store", create=True)
    late(store)
    if compacted:
        Lineage(store, C, "max").compact(1)
    view = Lineage(store, C, "max").refresh()
    assert [(row.trial, row.score) for row in view.trials()] == [("t0001", 1.0), ("t0002", 2.0)]
    report = verify(store)
    assert report.ok, report.problems
    said = [finding.text for finding in report.findings if finding.kind == "superseded"]
    assert len(said) == 1 and "of epoch 1 was written after epoch 2 began" in said[0]


def test_a_reader_that_saw_the_late_event_first_drops_it_with_the_fence(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", create=True)
    begin(store, "machine-a")
    zombie, lineage = Journal(store, C, "machine-a", lambda: 1), Lineage(store, C, "max")
    claim_epoch(store, C, owner(2, "machine-b"))
    heads = Lineage(store, C, "max").heads()
    zombie.append(outcome("t0001", 9.0))
    assert lineage.refresh().count() == 1
    lineage.compact(1)
    row = Row(event="campaign", campaign=C, operator="resume", detail_json=json.dumps({"heads": heads}))
    Journal(store, C, "machine-b", lambda: 2).append(row)
    assert lineage.refresh().count() == 0


def test_a_worker_goes_on_for_the_next_owner_of_its_own_server_only(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store", create=True)
    claim_epoch(store, C, owner(1, "a", "http://one/api"))
    mine = Fence(store, C, 1, "http://one/api", follows=True)
    other = Fence(store, C, 1, "http://two/api", follows=True)
    claim_epoch(store, C, owner(2, "b", "http://one/api"))
    assert mine.check() == 2
    with pytest.raises(Superseded):
        other.check()
