"""The two kinds of Parquet file in a store: one-row log objects and compacted parts.

log/campaign=C/<event_id>-<first 16 hex of the file's sha256>.parquet   one event, only the columns it sets
lineage/campaign=C/part-<12 digits>.parquet                             many events, the full schema

A part's footer has, under the key `lineage`, the log objects that it covers and those that were damaged, its number
and the sha256 of the part before it. Pages carry checksums and every read verifies them: without,
124 of 150 flipped bits were read back silently wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lineage.errors import StoreCorrupt, UsageError
from lineage.ids import canonical_json, check_campaign, sha256
from lineage.schema import FIELDS, SCHEMA, SCHEMA_VERSION, StoredRow, conform, row_hash, strip, to_table

LOG_NAME = re.compile(
    r"([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})-([0-9a-f]{16})\.parquet"
)
PART_NAME = re.compile(r"part-([0-9]{12})\.parquet")


@dataclass(frozen=True)
class Footer:
    """The metadata that a part carries about itself."""

    part: int
    prev_sha256: str | None
    rows_before: int
    rows: int
    covers: tuple[str, ...]
    quarantine: tuple[str, ...]


def log_folder(campaign: str) -> str:
    return f"log/campaign={check_campaign(campaign)}"


def part_folder(campaign: str) -> str:
    return f"lineage/campaign={check_campaign(campaign)}"


def part_key(campaign: str, number: int) -> str:
    return f"{part_folder(campaign)}/part-{number:012d}.parquet"


def part_number(key: str) -> int | None:
    """Number of a part key; None for any other file."""
    match = PART_NAME.fullmatch(key.rsplit("/", 1)[-1])
    return int(match[1]) if match else None


@lru_cache(maxsize=4096)  # a reader asks of the whole tail at every look
def log_event(key: str) -> str | None:
    """Event id in a log key; None for any other file."""
    match = LOG_NAME.fullmatch(key.rsplit("/", 1)[-1])
    return match[1] if match else None


def write_parquet(table: Any, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    # Dictionaries and statistics cost 4 to 8 KB in a file of one row and 10 % in a part of 256.
    chosen = {"compression": "zstd", "use_dictionary": False, "write_statistics": False, **options}
    pq.write_table(table, sink, write_page_checksum=True, **chosen)
    return bytes(sink.getvalue().to_pybytes())


def _open(data: bytes, **options: Any) -> Any:
    # From a Python file object Arrow reads ahead on a thread of its own; one still at work when the interpreter
    # ends aborts the process after its last line (1 of 308 `bakeoff show`, github.com/apache/arrow/issues/34314).
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, **options)


def read_parquet(data: bytes, key: str) -> Any:
    try:
        return _open(data, page_checksum_verification=True).read(use_threads=False)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise StoreCorrupt(
            f"{key} is damaged: {_short(error)}; run `bakeoff verify`, restore it from a copy"
        ) from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def encode_log(record: StoredRow, campaign: str) -> tuple[str, bytes]:
    """Key and bytes of one event."""
    columns = [name for name in SCHEMA.names if name in record]
    values = {name: [record[name]] for name in columns}
    try:
        table = pa.table(values, schema=pa.schema([FIELDS[name] for name in columns]))
        # One value per page does not compress: without zstd and Arrow's copy of the schema it is 7.9 KB, not 11.9,
        # and 1.5 ms, not 2.9, to write; the same to read.
        data = write_parquet(table, compression="none", store_schema=False)
    except (OverflowError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UsageError(f"a row does not fit the schema: {error}") from error
    return f"{log_folder(campaign)}/{record['event_id']}-{sha256(data)[:16]}.parquet", data


def decode_log(key: str, data: bytes, campaign: str) -> StoredRow:
    """The record in a log object; StoreCorrupt when bytes, name, place or row hash disagree."""
    match = LOG_NAME.fullmatch(key.rsplit("/", 1)[-1])
    if match is None or sha256(data)[:16] != match[2]:
        raise StoreCorrupt(
            f"{key}: the bytes do not match the name; the object was damaged, altered or renamed"
        )
    rows = read_parquet(data, key).to_pylist()
    if len(rows) != 1 or rows[0].get("event_id") != match[1]:
        raise StoreCorrupt(f"{key}: does not hold the one event that its name says")
    record = strip(rows[0], campaign)
    if int(record.get("schema_version", 0)) > SCHEMA_VERSION:
        raise StoreCorrupt(
            f"{key}: schema {record['schema_version']}, this Bakeoff reads up to {SCHEMA_VERSION}: upgrade"
        )
    if row_hash(record) != record.get("row_sha256"):
        raise StoreCorrupt(
            f"{key}: the row does not match its hash; it was altered or moved from another campaign"
        )
    return record


def encode_part(records: Sequence[StoredRow], footer: Footer) -> bytes:
    meta = {
        "part": footer.part,
        "prev_sha256": footer.prev_sha256,
        "rows": footer.rows,
        "rows_before": footer.rows_before,
        "covers": list(footer.covers),
        "quarantine": list(footer.quarantine),
        "schema_version": SCHEMA_VERSION,
    }
    return write_parquet(to_table(records).replace_schema_metadata({"lineage": canonical_json(meta)}))


def decode_part(key: str, data: bytes) -> tuple[Any, Footer]:
    """Table (current schema) and footer of a part; raises StoreCorrupt when they disagree."""
    table = read_parquet(data, key)
    footer = _footer(key, table.schema.metadata, table.num_rows)
    return conform(table, key), footer


def read_footer(key: str, data: bytes) -> Footer:
    """Only the footer of a part: cheap."""
    try:
        file = _open(data)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise StoreCorrupt(f"{key} is damaged: {_short(error)}; run `bakeoff verify`") from error
    return _footer(key, file.schema_arrow.metadata, file.metadata.num_rows)


def _footer(key: str, metadata: dict[bytes, bytes] | None, rows: int) -> Footer:
    try:
        meta = json.loads((metadata or {})[b"lineage"])
        footer = Footer(
            part=int(meta["part"]),
            prev_sha256=meta["prev_sha256"],
            rows_before=int(meta["rows_before"]),
            rows=int(meta["rows"]),
            covers=tuple(meta["covers"]),
            quarantine=tuple(meta["quarantine"]),
        )
        agrees = footer.rows == rows and footer.part == part_number(key)
    except (KeyError, ValueError, TypeError) as error:
        raise StoreCorrupt(
            f"{key} was not written by Bakeoff ({error!r}); move it out of the folder"
        ) from error
    if not agrees:
        raise StoreCorrupt(
            f"{key}: its footer says part {footer.part} with {footer.rows} rows, found {rows} rows"
        )
    return footer
