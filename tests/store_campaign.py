"""A small campaign written the way the engine writes one: sources, measurements, labels, rows, compaction."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from lineage.ids import canonical_json, sha256
from lineage.log.journal import Journal
from lineage.log.log_reader import Lineage
from lineage.log.parquet_files import (
    Footer,
    encode_log,
    encode_part,
    log_folder,
    part_folder,
    part_key,
    read_footer,
)
from lineage.records import Measurement, Row, SeedResult
from lineage.schema import StoredRow, row_hash, strip
from lineage.store.blobs import put_blob, put_tree
from lineage.store.objects import Store
from lineage.store.results import put_result

C = "c-verify"
WHEN = datetime(2026, 5, 1, tzinfo=UTC)


def compact(store: Store, campaign: str, min_new: int = 256) -> int:
    """Compact once, with a reader that has read nothing before."""
    return Lineage(store, campaign).compact(min_new)


def write_trial(store: Store, journal: Journal, number: int, campaign: str = C) -> Row:
    trial = f"t{number:04d}"
    tree = put_tree(store, {"train.py": f"LR = {number}\n".encode(), "model.py": b"class Net: pass\n"})
    measurement = Measurement(
        trial=trial, purpose="screen", metric="accuracy", score=number / 10, source_sha256=tree, measured_at=WHEN,
        per_seed=(SeedResult(seed=number, quantities={"accuracy": number / 10}),), environment_sha256="e" * 64,
        evaluator_sha256="f" * 64, isolation="strong", machine="test",
    )  # fmt: skip
    measured = put_result(store, campaign, trial, "screen", measurement.model_dump_json().encode())
    row = Row.model_validate(
        {
            "event": "trial", "campaign": campaign, "trial": trial, "status": "baseline" if number == 0 else "discard",
            "score": number / 10, "parent": None if number == 0 else "t0000", "hypothesis": f"idea {number}",
            "source_sha256": tree, "measurement_sha256": measured,
            "diff_sha256": put_blob(store, f"- LR\n+ LR = {number}\n".encode()),
        }
    )  # fmt: skip
    put_result(store, campaign, trial, "label", row.model_dump_json().encode())
    journal.append(Row(event="submitted", campaign=campaign, trial=trial))
    journal.append(row)
    return row


def write_campaign(
    store: Store, trials: int = 6, per_part: int = 2, campaign: str = C, *, tail: int = 0
) -> Journal:
    """`trials` trials compacted every `per_part`; the last `tail` trials stay in the log."""
    journal = Journal(store, campaign, "engine")
    journal.append(
        Row(event="campaign", campaign=campaign, operator="start", detail_json='{"direction":"max"}')
    )
    for number in range(trials):
        write_trial(store, journal, number, campaign)
        if number % per_part == per_part - 1 and number < trials - tail:
            compact(store, campaign, min_new=1)
    if not tail:
        journal.append(Row(event="campaign", campaign=campaign, operator="end"))
        compact(store, campaign, min_new=1)
    return journal


# --- what somebody with write access to the folder could do ------------------------------------------------


def overwrite(root: Path, key: str, data: bytes) -> None:
    path = root / key
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def part_records(store: Store, number: int, campaign: str = C) -> tuple[list[StoredRow], Footer]:
    from lineage.log.parquet_files import decode_part

    key = part_key(campaign, number)
    table, footer = decode_part(key, store.get(key))
    return [strip(values, campaign) for values in table.to_pylist()], footer


def rewrite_part(
    store: Store, root: Path, number: int, records: list[StoredRow], footer: Footer, campaign: str = C
) -> None:
    """Put other rows into a part, with a footer that fits and every later part's chain repaired."""
    from dataclasses import replace

    data = encode_part(records, replace(footer, rows=len(records)))
    overwrite(root, part_key(campaign, number), data)
    for key in store.list(part_folder(campaign))[number:]:
        records, later = part_records(store, read_footer(key, store.get(key)).part, campaign)
        data = encode_part(records, replace(later, prev_sha256=sha256(data)))
        overwrite(root, key, data)


def rehash(record: StoredRow) -> StoredRow:
    """The record with a row hash that fits its values."""
    return {**record, "row_sha256": row_hash(record)}


def log_records(store: Store, campaign: str = C) -> list[tuple[str, StoredRow]]:
    from lineage.log.parquet_files import decode_log

    return [(key, decode_log(key, store.get(key), campaign)) for key in store.list(log_folder(campaign))]


def put_log(root: Path, record: StoredRow, campaign: str = C) -> str:
    key, data = encode_log(record, campaign)
    overwrite(root, key, data)
    return key


def canonical(value: object) -> bytes:
    return canonical_json(value)
