"""Journal and table when things go wrong between two steps: lost replies, damage, rivals, late and doubled rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from journal_rows import C, numbers, row

from lineage.errors import ObjectMissing, StoreCorrupt, StoreUnavailable
from lineage.ids import uuid7
from lineage.log.journal import Journal
from lineage.log.log_reader import Lineage
from lineage.log.parquet_files import encode_log, log_folder, part_folder, part_key, read_footer
from lineage.schema import seal
from lineage.store.objects import LocalStore, Store, open_store
from tests.store_campaign import compact


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
