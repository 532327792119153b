"""`verify` finds every kind of damage and tampering, and nothing where there is none."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from store_campaign import (
    C,
    log_records,
    overwrite,
    part_records,
    put_log,
    rehash,
    rewrite_part,
    write_campaign,
    write_trial,
)

from lineage.errors import UnknownName
from lineage.ids import uuid7
from lineage.log.journal import Journal
from lineage.log.log_reader import Lineage
from lineage.log.parquet_files import log_folder, part_folder, part_key
from lineage.log.part_anchors import anchor
from lineage.records import Row
from lineage.schema import seal
from lineage.store.blobs import blob_key, pack, put_blob
from lineage.store.objects import LocalStore, Store, open_store
from lineage.store.results import claim_key, put_result
from lineage.verify.findings import Finding, VerifyReport
from lineage.verify.store_checks import verify


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Store:
    made = open_store(root, create=True)
    write_campaign(made)
    return made


def kinds(report: VerifyReport) -> set[str]:
    return {finding.kind for finding in report.problems}


def test_verify_whole_store_is_sound(store_root: str) -> None:
    made = open_store(store_root, create=True)
    write_campaign(made)
    write_campaign(made, trials=3, campaign="c-second", tail=1)
    steps: list[tuple[int, int]] = []
    report = verify(made, progress=lambda done, total: steps.append((done, total)))
    assert report.problems == []
    assert report.campaigns == ["c-second", C]
    assert report.rows == (6 * 2 + 2) + (3 * 2 + 1)
    assert report.anchors[C] == str(anchor(made, C))
    assert steps[-1][0] == steps[-1][1] == report.objects
    assert "every hash and chain holds" in report.summary()
    assert verify(made, C, anchor=str(anchor(made, C))).ok


def test_verify_names_an_unknown_campaign(store: Store) -> None:
    with pytest.raises(UnknownName, match=f"did you mean '{C}'"):
        verify(store, "c-verifi")


# --- the five that must be found ------------------------------------------------------------------


def test_verify_finds_a_changed_score(store: Store, root: Path) -> None:
    records, footer = part_records(store, 2)
    victim = next(at for at, record in enumerate(records) if record["event"] == "trial")
    records[victim]["score"] = 99.0
    rewrite_part(store, root, 2, records, footer)
    report = verify(store)
    assert any("value of trial t0002 was changed" in finding.text for finding in report.problems)


def test_verify_finds_a_changed_score_with_every_hash_recomputed(store: Store, root: Path) -> None:
    records, footer = part_records(store, 3)
    victim = max(at for at, record in enumerate(records) if record["event"] == "trial")
    records[victim] = rehash({**records[victim], "score": 99.0})
    rewrite_part(store, root, 3, records, footer)
    report = verify(store)
    assert any("score 99.0 where its measurement says 0.5" in finding.text for finding in report.problems)
    assert any("differs from the recorded label" in finding.text for finding in report.problems)
    assert any("does not match its anchor" in finding.text for finding in report.problems)


def test_verify_finds_a_deleted_row_in_a_part(store: Store, root: Path) -> None:
    records, footer = part_records(store, 2)
    gone = records.pop(1)
    rewrite_part(store, root, 2, records, footer)
    report = verify(store)
    assert {"missing"} <= kinds(report)
    assert any(gone["event_id"] in finding.text for finding in report.problems)
    assert any("chain are gone" in finding.text for finding in report.problems)


def test_verify_finds_the_deleted_last_trial_by_its_label(root: Path) -> None:
    made = open_store(root, create=True)
    journal = write_campaign(made, trials=4, per_part=2, tail=2)
    journal.append(Row(event="campaign", campaign=C, operator="end"))
    for key, record in log_records(made):
        if record.get("trial") == "t0003" or record["event"] == "campaign":
            (root / key).unlink()
    report = verify(made)
    assert any(finding.kind == "unfinished" and "t0003" in finding.where for finding in report.findings)


def test_verify_finds_a_deleted_log_object(root: Path) -> None:
    made = open_store(root, create=True)
    write_campaign(made, trials=4, tail=2)
    (root / made.list(log_folder(C))[1]).unlink()
    assert any("of its chain are gone" in finding.text for finding in verify(made).problems)


def test_verify_finds_the_deleted_last_row_of_a_writer_by_the_next_writer(root: Path) -> None:
    made = open_store(root, create=True)
    for name in ("first", "second"):
        Journal(made, C, name).append(Row(event="intervention", campaign=C, notes=name))
    assert verify(made).ok
    (root / made.list(log_folder(C))[0]).unlink()
    assert any("the row that its first row continues" in finding.text for finding in verify(made).problems)


def test_verify_finds_a_deleted_part_and_a_rolled_back_one(store: Store, root: Path) -> None:
    line = str(anchor(store, C))
    keys = store.list(part_folder(C))
    last = (root / keys[-1]).read_bytes()
    (root / keys[-1]).unlink()
    assert any("vouches for it" in finding.text for finding in verify(store).problems)
    (root / keys[-1].replace("lineage/", "anchors/").replace(".parquet", ".json")).unlink()
    assert any("anchor given says" in finding.text for finding in verify(store, anchor=line).problems)
    overwrite(root, keys[-1], last)
    (root / keys[1]).unlink()
    assert any("a part between others is gone" in finding.text for finding in verify(store).problems)


def test_verify_finds_swapped_blobs(store: Store, root: Path) -> None:
    one, two = blob_key(put_blob(store, b"class Net: pass\n")), blob_key(put_blob(store, b"LR = 1\n"))
    first, second = store.get(one), store.get(two)
    overwrite(root, one, second)
    overwrite(root, two, first)
    report = verify(store)
    assert {finding.where for finding in report.problems if finding.kind == "swapped"} == {one, two}


def test_verify_finds_exchanged_claims_and_measurements(store: Store, root: Path) -> None:
    one, two = claim_key(C, "t0001", "screen"), claim_key(C, "t0002", "screen")
    first, second = store.get(one), store.get(two)
    overwrite(root, one, second)
    overwrite(root, two, first)
    report = verify(store)
    assert {
        finding.where for finding in report.problems if "exchanged with another claim" in finding.text
    } == {one, two}


def test_verify_finds_two_log_objects_with_exchanged_contents(root: Path) -> None:
    made = open_store(root, create=True)
    write_campaign(made, trials=4, tail=2)
    one, two = made.list(log_folder(C))[:2]
    first, second = made.get(one), made.get(two)
    overwrite(root, one, second)
    overwrite(root, two, first)
    assert {one, two} <= {finding.where for finding in verify(made).problems}


def test_verify_finds_an_added_trial_with_a_sound_chain(store: Store) -> None:
    forged = Row.model_validate(
        {"event": "trial", "campaign": C, "trial": "t0099", "status": "keep", "score": 42.0}
    )
    Journal(store, C, "engine").append(forged)
    report = verify(store)
    assert any(finding.kind == "added" and "t0099" in finding.text for finding in report.problems)


def test_verify_finds_an_added_row_in_a_part(store: Store, root: Path) -> None:
    records, footer = part_records(store, 3)
    forged = Row(event="intervention", campaign=C, operator="steer")
    records.append(seal(forged, event_id=uuid7(), writer="x-1", seq=0, prev=None, now=datetime.now(UTC)))
    rewrite_part(store, root, 3, records, footer)
    assert "added" in kinds(verify(store))


def test_verify_finds_a_doubled_row_and_a_second_outcome(store: Store, root: Path) -> None:
    records, footer = part_records(store, 3)
    rewrite_part(
        store, root, 3, sorted([*records, records[0]], key=lambda record: str(record["event_id"])), footer
    )
    assert "doubled" in kinds(verify(store))
    rewrite_part(store, root, 3, records, footer)
    trial = next(record for record in records if record["event"] == "trial")
    again = {
        **trial,
        "event_id": uuid7(),
        "writer": "z-1",
        "writer_seq": 0,
        "prev_sha256": trial["row_sha256"],
    }
    put_log(root, rehash(again))
    assert any("a second outcome" in finding.text for finding in verify(store).problems)


def test_verify_finds_reordered_rows_in_a_part(store: Store, root: Path) -> None:
    records, footer = part_records(store, 2)
    rewrite_part(store, root, 2, records[::-1], footer)
    assert "reordered" in kinds(verify(store))


def test_verify_finds_a_reordered_chain_with_every_hash_recomputed(root: Path) -> None:
    made = open_store(root, create=True)
    write_campaign(made, trials=4, tail=2)
    (key_a, a), (key_b, b) = log_records(made)[1:3]
    a["writer_seq"], b["writer_seq"] = b["writer_seq"], a["writer_seq"]
    b = rehash({**b, "prev_sha256": a["prev_sha256"]})
    a = rehash({**a, "prev_sha256": b["row_sha256"]})
    for key in (key_a, key_b):
        (root / key).unlink()
    put_log(root, a)
    put_log(root, b)
    assert {"reordered", "chain"} <= kinds(verify(made))


# --- one flipped bit anywhere ---------------------------------------------------------------------


def flips(root: Path, places: Callable[[bytes], list[int]]) -> list[str]:
    """Flip a bit at each of these places of every file and verify; return the flips that went unnoticed."""
    unnoticed = []
    for path in sorted(found for found in root.rglob("*") if found.is_file()):
        whole = path.read_bytes()
        path.chmod(0o644)
        for at in places(whole):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << (at % 8))]) + whole[at + 1 :])
            if verify(LocalStore(root)).ok:
                unnoticed.append(f"{path.relative_to(root)} byte {at} of {len(whole)}")
        path.write_bytes(whole)
    return unnoticed


def test_verify_finds_a_flipped_bit_in_every_object(root: Path) -> None:
    made = open_store(root, create=True)
    write_campaign(made, trials=2, per_part=1)
    write_campaign(made, trials=2, per_part=1, campaign="c-tail", tail=1)
    rng = random.Random(7)
    assert flips(root, lambda data: [0, len(data) - 1, rng.randrange(len(data))]) == []


@pytest.mark.slow
def test_verify_finds_a_flipped_bit_at_every_byte(root: Path) -> None:
    made = open_store(root, create=True)
    write_campaign(made, trials=1, per_part=1)
    assert flips(root, lambda data: list(range(0, len(data), 7))) == []


# --- objects --------------------------------------------------------------------------------------


def test_verify_names_missing_blobs_and_who_needs_them(store: Store, root: Path) -> None:
    key = blob_key(put_blob(store, b"- LR\n+ LR = 3\n"))
    (root / key).unlink()
    found = [finding for finding in verify(store).problems if finding.where == key]
    assert len(found) == 1 and found[0].kind == "missing" and "refers to it" in found[0].text


def test_verify_names_a_missing_file_of_a_source_tree(store: Store, root: Path) -> None:
    key = blob_key(put_blob(store, b"LR = 2\n"))
    (root / key).unlink()
    found = [finding for finding in verify(store).problems if finding.where == key]
    assert len(found) == 1 and found[0].kind == "missing"


def test_verify_orphans_and_foreign_files_are_notes(store: Store, root: Path) -> None:
    key = blob_key(put_blob(store, b"written before a crash"))
    for name in (
        "README.txt",
        "log/campaign=c-verify/x.parquet",
        "blobs/sha256/zz/y.zst",
        "results/notes.json",
        "reports/c-verify/report.html",  # made from the record: neither part of it nor a stranger
    ):
        overwrite(root, name, b"hello")
    report = verify(store)
    assert report.ok
    notes = {(finding.kind, finding.where) for finding in report.notes}
    assert ("orphaned", key) in notes
    assert {where for kind, where in notes if kind == "foreign"} == {
        "README.txt", "log/campaign=c-verify/x.parquet", "blobs/sha256/zz/y.zst", "results/notes.json",
    }  # fmt: skip


def test_verify_running_campaign_has_notes_not_problems(root: Path) -> None:
    made = open_store(root, create=True)
    journal = write_campaign(made, trials=3, tail=3)
    row = write_trial(made, journal, 3)
    put_result(
        made, C, "t0004", "label", row.model_copy(update={"trial": "t0004"}).model_dump_json().encode()
    )
    report = verify(made)
    assert report.ok
    assert {finding.kind for finding in report.notes} >= {"unfinished", "unvouched"}


def test_verify_checks_packs_against_their_parts(root: Path) -> None:
    made = open_store(root, create=True)
    journal = Journal(made, C, "w")
    table = Lineage(made, C)
    for number in range(34):
        journal.append(Row(event="intervention", campaign=C, notes=f"note {number}"))
        table.compact(min_new=1)
    packs = made.list("packs")
    assert [key.rsplit("/")[-1][:30] for key in packs] == [
        "pack-000000000001-000000000016",
        "pack-000000000017-000000000032",
    ]
    assert verify(made).ok
    fresh = Lineage(made, C)
    assert [row.notes for row in fresh.refresh().events("intervention")] == [
        f"note {number}" for number in range(34)
    ]
    data = bytearray(made.get(packs[0]))
    data[len(data) // 2] ^= 1
    overwrite(root, packs[0], bytes(data))
    assert {finding.where for finding in verify(made).problems} == {packs[0]}
    fallback = Lineage(made, C)
    assert fallback.refresh().count("intervention") == 34, "a damaged pack costs time, not rows"
    assert list(fallback.quarantine) == [packs[0]]


def test_verify_calls_back_for_labels(store: Store) -> None:
    seen: list[int] = []

    def relabel(where: Store, view: object) -> list[Finding]:
        seen.append(view.count())
        return [Finding("differs", "t0003", "keep where the facts give discard")]

    report = verify(store, relabel=relabel)
    assert seen == [6] and not report.ok and str(report.problems[0]).startswith("differs: t0003")


def test_verify_altered_blob_content_under_a_sound_checksum(store: Store, root: Path) -> None:
    key = blob_key(put_blob(store, b"class Net: pass\n"))
    overwrite(root, key, pack(b"class Net: cheat\n"))
    assert [(finding.kind, finding.where) for finding in verify(store).problems] == [("altered", key)]


def test_verify_foreign_parquet_in_the_table_folder_is_not_read(store: Store, root: Path) -> None:
    data = store.get(part_key(C, 1))
    overwrite(root, f"{part_folder(C)}/part-000000000001-copy.parquet", data)
    report = verify(store)
    assert report.ok and any(finding.kind == "foreign" for finding in report.notes)
    assert Lineage(store, C).refresh().count() == 6
