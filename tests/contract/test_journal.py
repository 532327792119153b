"""Append, read back, compact: nothing lost, nothing doubled, on a folder and on a real S3 server."""

from __future__ import annotations

import io
import time
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq
import pytest
from journal_rows import C, numbers, row

from lineage.errors import UsageError
from lineage.log.journal import Journal
from lineage.log.log_reader import Lineage
from lineage.log.parquet_files import log_folder, part_folder, read_footer
from lineage.log.part_anchors import anchor, anchor_folder
from lineage.records import Row, Status
from lineage.schema import SCHEMA
from lineage.store.objects import open_store
from tests.store_campaign import compact


def test_journal_rows_come_back_as_written(store_root: str) -> None:
    store = open_store(store_root, create=True)
    full = Row(
        event="trial", campaign=C, trial="t1", status=Status.KEEP, cause=None, score=0.1 + 0.2, scores=[1e-300, -0.5],
        seeds=[2**62, 0], gate_ok=True, hypothesis="größer ✓\n\t\0", tokens_in=7, usd=0.25, numbers_json='{"bytes":12}',
        t_started=datetime(2026, 5, 1, 12, 30, 0, 123456, UTC), peak_bytes=2**40, error_excerpt="x" * 4096,
    )  # fmt: skip
    bare = Row(event="submitted", campaign=C, trial="t2")
    journal = Journal(store, C, "w")
    journal.append(full)
    journal.append(bare)
    for _ in range(2):
        view = Lineage(store, C, "min").refresh()
        assert view.trials() == [full]
        assert view.events("submitted") == [bare]
        compact(store, C, min_new=1)


def test_journal_compaction_keeps_every_row_once(store_root: str) -> None:
    store = open_store(store_root, create=True)
    journal = Journal(store, C, "w")
    reader = Lineage(store, C, "min")
    expected = []
    for number in range(23):
        journal.append(row(number))
        expected.append(f"t{number:04d}")
        if number % 5 == 4:
            assert compact(store, C, min_new=3) == 5
            assert compact(store, C, min_new=3) == 0
        if number % 3 == 0:
            assert [found.trial for found in reader.refresh().trials()] == expected
    assert numbers(store) == expected
    reader.refresh()
    assert reader.tail == 3
    assert len(store.list(log_folder(C))) == 3
    assert len(store.list(part_folder(C))) == len(store.list(anchor_folder(C))) == 4


def test_journal_parts_form_a_chain_with_a_footer(store_root: str) -> None:
    store = open_store(store_root, create=True)
    journal = Journal(store, C, "w")
    for number in range(4):
        journal.append(row(number))
        compact(store, C, min_new=1)
    keys = store.list(part_folder(C))
    feet = [read_footer(key, store.get(key)) for key in keys]
    assert [foot.part for foot in feet] == [1, 2, 3, 4]
    assert [foot.rows_before for foot in feet] == [0, 1, 2, 3]
    assert all(len(foot.covers) == 1 for foot in feet)
    assert feet[0].prev_sha256 is None and anchor(store, C).part == 4
    meta = pq.ParquetFile(io.BytesIO(store.get(keys[0])))
    assert meta.schema_arrow.names == SCHEMA.names, (
        "plain readers see the whole schema, campaign is in the path"
    )


def test_journal_refresh_returns_the_same_view_when_nothing_is_new(store_root: str) -> None:
    store = open_store(store_root, create=True)
    journal = Journal(store, C, "w")
    reader = Lineage(store, C, "min")
    assert reader.refresh().count() == 0
    journal.append(row(1))
    first = reader.refresh()
    assert reader.refresh() is first
    journal.append(row(2))
    assert first.count() == 1 and reader.refresh().count() == 2


def test_journal_campaigns_on_one_root_do_not_meet(store_root: str) -> None:
    store = open_store(store_root, create=True)
    Journal(store, C, "w").append(row(1))
    Journal(store, "c-test2", "w").append(Row(event="campaign", campaign="c-test2"))
    compact(store, C, min_new=1)
    assert numbers(store) == ["t0001"]
    other = Lineage(store, "c-test2").refresh()
    assert other.count() == 0 and other.count("campaign") == 1
    with pytest.raises(UsageError, match="cannot be appended"):
        Journal(store, "c-test2", "w").append(row(2))
    with pytest.raises(UsageError, match="must name its trial"):
        Journal(store, C, "w").append(Row(event="trial", campaign=C))


def test_journal_direction_is_read_from_the_campaign_event(store_root: str) -> None:
    store = open_store(store_root, create=True)
    journal = Journal(store, C, "w")
    journal.append(Row(event="campaign", campaign=C, detail_json='{"direction":"max"}'))
    assert Lineage(store, C).refresh().sign == 1


def append_many(job: tuple[str, int, int]) -> None:
    root, who, count = job
    store = open_store(root)
    journal = Journal(store, C, f"w{who}")
    for number in range(count):
        journal.append(row(who * 1000 + number, role=f"w{who}"))


def storm(root: str, writers: int, each: int, compactors: int) -> None:
    """Writers append while this process compacts and reads: every row is there exactly once."""
    store = open_store(root, create=True)
    context = get_context("spawn")
    jobs = [context.Process(target=append_many, args=((root, who, each),)) for who in range(writers)]
    for job in jobs:
        job.start()
    tables = [Lineage(store, C, "min") for _ in range(compactors)]
    seen = 0
    while any(job.is_alive() for job in jobs):
        for table in tables:
            table.compact(min_new=10)
            count = table.refresh().count()
            assert count >= seen, "a row that was visible is gone"
            seen = count
        time.sleep(0.02)
    for job in jobs:
        job.join()
        assert job.exitcode == 0
    expected = {f"t{who * 1000 + number:04d}" for who in range(writers) for number in range(each)}
    for _ in range(2):
        frame = Lineage(store, C, "min").refresh().to_pandas(events=True)
        assert len(frame) == writers * each, "lost or doubled"
        assert set(frame["trial"]) == expected
        for _, group in frame.groupby("writer"):
            ordered = group.sort_values("writer_seq")
            assert list(ordered["writer_seq"]) == list(range(each))
            assert list(ordered["prev_sha256"])[1:] == list(ordered["row_sha256"])[:-1]
            assert list(ordered["event_id"]) == sorted(ordered["event_id"])
        compact(store, C, min_new=1)


def test_journal_processes_append_while_others_compact(store_root: str) -> None:
    storm(store_root, writers=4, each=15, compactors=2)


@pytest.mark.slow
def test_journal_sixteen_processes_two_hundred_rows_each(store_root: str) -> None:
    storm(store_root, writers=16, each=200, compactors=2)


def test_a_row_comes_after_what_its_writer_has_read_whatever_the_clocks_say(tmp_path: Path) -> None:
    """Another machine's clock is an hour ahead; what is written in the knowledge of its row is sorted after it."""
    store = open_store(str(tmp_path / "s"), create=True)
    here = Journal(store, "c", "here")
    here.append(Row(event="campaign", campaign="c", operator="start"))
    ahead = Journal(store, "c", "ahead")
    with mock.patch("lineage.ids.time.time_ns", return_value=time.time_ns() + 3600 * 10**9):
        ahead.append(Row(event="trial", campaign="c", trial="t1", status="keep", score=1.0))
    with mock.patch("lineage.ids._last", (0, 0)):
        lineage = Lineage(store, "c", "min")
        lineage.refresh()
        here.append(
            Row(event="trial", campaign="c", trial="t2", status="discard", score=2.0), after=lineage.newest
        )
    assert [row.trial for row in lineage.refresh().events("trial")] == ["t1", "t2"]
