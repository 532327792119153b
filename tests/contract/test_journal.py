"""Append, read back, compact: nothing lost, nothing doubled, on a folder and on a real S3 server."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lineage.anchors import anchor, anchor_folder
from lineage.errors import ObjectMissing, StoreCorrupt, StoreUnavailable, UsageError
from lineage.ids import uuid7
from lineage.journal import Journal, compact
from lineage.parts import encode_log, log_folder, part_folder, part_key, read_footer
from lineage.records import Row, Status
from lineage.schema import SCHEMA, seal
from lineage.store import LocalStore, Store, open_store
from lineage.table import Lineage

C = "c-test"


def row(number: int, **more: object) -> Row:
    return Row.model_validate(
        {
            "event": "trial",
            "campaign": C,
            "trial": f"t{number:04d}",
            "status": "discard",
            "score": number / 7,
            **more,
        }
    )


def numbers(store: Store) -> list[str | None]:
    return [found.trial for found in Lineage(store, C, "min").refresh().trials()]


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


class Flaky(LocalStore):
    """Fails the nth create after (`late`) or before the object is written, as a lost reply or a full disk does."""

    def __init__(self, root: Path, fail_at: int, *, late: bool) -> None:
        super().__init__(root)
        self.calls, self.fail_at, self.late = 0, fail_at, late

    def create(self, key: str, data: bytes) -> None:
        self.calls += 1
        failing = self.calls == self.fail_at
        if not failing or self.late:
            super().create(key, data)
        if failing:
            raise StoreUnavailable("the server went away; nothing was lost, try again later")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("same", [False, True])
def test_journal_pending_row_is_written_once(tmp_path: Path, late: bool, same: bool) -> None:
    store = Flaky(tmp_path, 2, late=late)
    journal = Journal(store, C, "w")
    journal.append(row(1))
    with pytest.raises(StoreUnavailable):
        journal.append(row(2))
    journal.append(row(2) if same else row(3))
    assert numbers(store) == (["t0001", "t0002"] if same else ["t0001", "t0002", "t0003"])
    frame = Lineage(store, C, "min").refresh().to_pandas(events=True)
    assert list(frame["trial"]) == numbers(store), "the same row was written twice"
    assert list(frame["writer_seq"]) == list(range(len(frame)))


def test_journal_new_writer_links_to_the_newest_row(store_root: str) -> None:
    store = open_store(store_root, create=True)
    Journal(store, C, "a").append(row(1))
    Journal(store, C, "b").append(row(2))
    compact(store, C, min_new=1)
    Journal(store, C, "c").append(row(3))
    frame = Lineage(store, C, "min").refresh().to_pandas(events=True)
    assert list(frame["trial"]) == ["t0001", "t0002", "t0003"]
    assert list(frame["prev_sha256"])[1:] == list(frame["row_sha256"])[:-1]


def test_journal_order_holds_with_a_clock_that_is_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path, create=True)
    monkeypatch.setattr("lineage.ids.time.time_ns", lambda: 4_000_000_000_000_000_000)
    Journal(store, C, "ahead").append(row(1))
    monkeypatch.setattr("lineage.ids.time.time_ns", lambda: 1_000_000_000_000_000_000)
    monkeypatch.setattr("lineage.ids._last", (0, 0))
    Journal(store, C, "behind").append(row(2))
    assert numbers(store) == ["t0001", "t0002"]


def _damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))


def test_journal_damaged_log_object_is_set_aside_not_fatal(tmp_path: Path) -> None:
    store = open_store(tmp_path, create=True)
    journal = Journal(store, C, "w")
    for number in range(3):
        journal.append(row(number))
    broken = store.list(log_folder(C))[1]
    _damage(tmp_path / broken)
    table = Lineage(store, C, "min")
    assert [found.trial for found in table.refresh().trials()] == ["t0000", "t0002"]
    assert list(table.quarantine) == [broken] and "damaged, altered or renamed" in table.quarantine[broken]
    assert table.compact(min_new=1) == 2
    assert store.list(log_folder(C)) == [broken], "the evidence stays where it is"
    assert read_footer(part_key(C, 1), store.get(part_key(C, 1))).quarantine == (broken.rsplit("/", 1)[-1],)
    assert numbers(store) == ["t0000", "t0002"]


def test_journal_foreign_files_are_ignored(tmp_path: Path) -> None:
    store = open_store(tmp_path, create=True)
    Journal(store, C, "w").append(row(1))
    for folder in (log_folder(C), part_folder(C)):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name in ("notes.txt", "part-1.parquet", "_SUCCESS", ".hidden"):
            (tmp_path / folder / name).write_text("not ours")
    compact(store, C, min_new=1)
    assert numbers(store) == ["t0001"]


def three_parts(root: Path) -> Store:
    store = open_store(root, create=True)
    journal = Journal(store, C, "w")
    for number in range(6):
        journal.append(row(number))
        if number % 2:
            compact(store, C, min_new=1)
    return store


def test_journal_damaged_part_is_named(tmp_path: Path) -> None:
    store = three_parts(tmp_path)
    _damage(tmp_path / part_key(C, 2))
    with pytest.raises(
        StoreCorrupt, match=r"part-00000000000[23].parquet (is damaged|does not continue).*verify"
    ):
        Lineage(store, C).refresh()


def test_journal_missing_or_exchanged_part_is_named(tmp_path: Path) -> None:
    store = three_parts(tmp_path)
    middle = tmp_path / part_key(C, 2)
    whole = middle.read_bytes()
    middle.unlink()
    with pytest.raises(StoreCorrupt, match="lacks a part"):
        Lineage(store, C).refresh()
    middle.write_bytes((tmp_path / part_key(C, 1)).read_bytes())
    with pytest.raises(StoreCorrupt, match="part 1"):
        Lineage(store, C).refresh()
    middle.unlink()
    middle.write_bytes(whole)
    assert len(numbers(store)) == 6


class Vanishing(LocalStore):
    """A store where another process compacts and vacuums between this reader's list and its first read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.armed = True

    def get_many(self, keys: Sequence[str]) -> list[bytes]:
        if self.armed and any(key.startswith("log/") for key in keys):
            self.armed = False
            assert compact(LocalStore(self.root), C, min_new=1) == 2
        return super().get_many(keys)


def test_journal_reader_survives_compaction_under_its_hands(tmp_path: Path) -> None:
    store = open_store(tmp_path, create=True)
    journal = Journal(store, C, "w")
    journal.append(row(1))
    journal.append(row(2))
    assert numbers(Vanishing(tmp_path)) == ["t0001", "t0002"]


def test_journal_log_object_that_reappears_after_vacuum_counts_once(tmp_path: Path) -> None:
    """A writer whose reply was lost writes again what was compacted and deleted meanwhile."""
    store = open_store(tmp_path, create=True)
    Journal(store, C, "w").append(row(1))
    (key,) = store.list(log_folder(C))
    data = store.get(key)
    old_reader = Lineage(store, C, "min")
    old_reader.refresh()
    compact(store, C, min_new=1)
    store.create(key, data)
    assert numbers(store) == ["t0001"]
    assert old_reader.refresh().count() == 1
    assert compact(store, C, min_new=1) == 0
    assert store.list(log_folder(C)) == []


def test_journal_store_that_went_away_is_not_an_empty_one(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s", create=True)
    (tmp_path / "s").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable, match="moved, or is the disk unmounted"):
        Lineage(store, C).refresh()
    with pytest.raises(ObjectMissing):
        open_store(tmp_path / "s")


class Overtaking(LocalStore):
    """A store where another process compacts and vacuums right after this reader's first listing."""

    armed = True

    def list(self, folder: str) -> list[str]:
        found = super().list(folder)
        if self.armed:
            self.armed = False
            assert compact(LocalStore(self.root), C, min_new=1) == 2
        return found


def test_journal_reader_lists_the_log_before_the_parts(tmp_path: Path) -> None:
    """The other way round, a row compacted between the two listings would be in neither."""
    store = open_store(tmp_path, create=True)
    journal = Journal(store, C, "w")
    journal.append(row(1))
    journal.append(row(2))
    assert numbers(Overtaking(tmp_path)) == ["t0001", "t0002"]


def test_journal_log_object_deleted_by_hand_is_noticed(tmp_path: Path) -> None:
    store = open_store(tmp_path, create=True)
    Journal(store, C, "w").append(row(1))
    table = Lineage(store, C, "min")
    table.refresh()
    (key,) = store.list(log_folder(C))
    (tmp_path / key).unlink()
    assert table.refresh().count() == 0 and table.lost == {key}


def test_journal_late_row_takes_its_place(tmp_path: Path) -> None:
    """A row whose id was drawn before others, written after they were compacted, sorts before them for everyone."""
    store = open_store(tmp_path, create=True)
    warm = Lineage(store, C, "min")
    journal = Journal(store, C, "w")
    journal.append(row(0))
    early = uuid7()
    journal.append(row(2))
    journal.append(row(3))
    compact(store, C, min_new=1)
    warm.refresh()
    late = seal(row(1), event_id=early, writer="slow-1", seq=0, prev=None, now=datetime.now(UTC))
    store.create(*encode_log(late, C))
    expected = ["t0000", "t0001", "t0002", "t0003"]
    for _ in range(2):
        assert [found.trial for found in warm.refresh().trials()] == expected
        assert numbers(store) == expected
        assert [step[1] for step in warm.refresh().best_so_far()] == []
        assert warm.refresh().trial("t0003") == row(3) and warm.refresh().recent(2) == [row(2), row(3)]
        compact(store, C, min_new=1)


@pytest.mark.parametrize("compacted", [False, True])
def test_journal_second_outcome_of_a_trial_does_not_count(tmp_path: Path, compacted: bool) -> None:
    store = open_store(tmp_path, create=True)
    Journal(store, C, "alive").append(row(1, status="keep"))
    if compacted:
        compact(store, C, min_new=1)
    Journal(store, C, "zombie").append(row(1, status="crash", score=None))
    view = Lineage(store, C, "min").refresh()
    assert view.count() == 1 and view.trials() == [row(1, status="keep")]
    assert view.failure_counts() == {} and view.failures(None, 5) == []


def test_journal_leftover_of_a_part_inside_a_pack_is_vacuumed(tmp_path: Path) -> None:
    """A cold reader takes the pack and so does not see which log objects the old parts cover."""
    store = open_store(tmp_path, create=True)
    journal = Journal(store, C, "w")
    journal.append(row(0))
    (key,) = store.list(log_folder(C))
    data = store.get(key)
    table = Lineage(store, C, "min")
    for number in range(1, 17):
        table.compact(min_new=1)
        journal.append(row(number))
    assert len(store.list("packs")) == 1
    store.create(key, data)
    cold = Lineage(store, C, "min")
    assert cold.refresh().count() == 17
    cold.compact(min_new=1)
    assert store.list(log_folder(C)) == []
    assert len(numbers(store)) == 17
