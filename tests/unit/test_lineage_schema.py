"""The stored schema is pinned: a change is deliberate, additive, and leaves old files readable."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from lineage.errors import StoreCorrupt, UsageError
from lineage.ids import uuid7
from lineage.log.parquet_files import Footer, decode_part, encode_log, encode_part, part_key, write_parquet
from lineage.records import Row
from lineage.schema import SCHEMA, SCHEMA_VERSION, row_hash, seal, strip, to_row

C = "c-schema"
# A changed column name, type or order breaks readers of old stores: add columns at the end, raise SCHEMA_VERSION,
# then pin the new text here.
PINNED = {1: "cd62831cb9351ae4", 2: "44086fc2ea01e6ca", 3: "521221bb21c2261a", 4: "1b1c66ceac6c8df0"}


def schema_text() -> str:
    return "\n".join(f"{field.name}: {field.type}" for field in SCHEMA).replace("element:", "item:")


def test_lineage_schema_is_the_pinned_one() -> None:
    assert hashlib.sha256(schema_text().encode()).hexdigest()[:16] == PINNED[SCHEMA_VERSION], schema_text()


def test_lineage_schema_holds_every_field_of_a_row() -> None:
    stored = set(SCHEMA.names)
    assert set(Row.model_fields) - stored == {"campaign"}, "the campaign is in the path"
    assert all(not pa.types.is_null(field.type) for field in SCHEMA)


def record(**more: object) -> dict[str, object]:
    row = Row.model_validate(
        {"event": "trial", "campaign": C, "trial": "t1", "score": 0.5, "usd": 0.25, **more}
    )
    return seal(row, event_id=uuid7(), writer="w-1", seq=0, prev=None, now=datetime.now(UTC))


def test_lineage_part_of_an_older_schema_reads_with_defaults() -> None:
    sealed = record()
    table, _ = decode_part(part_key(C, 1), encode_part([sealed], Footer(1, None, 0, 1, (), ())))
    old = table.drop_columns(["tokens_in", "usd", "verdict", "scores"])
    footer = {
        "lineage": b'{"covers":[],"part":1,"prev_sha256":null,"quarantine":[],"rows":1,"rows_before":0}'
    }
    back, _ = decode_part(part_key(C, 1), write_parquet(old.replace_schema_metadata(footer)))
    assert back.schema.equals(SCHEMA)
    values = back.to_pylist()[0]
    assert (values["tokens_in"], values["usd"], values["verdict"], values["scores"]) == (0, 0.0, None, [])
    row = to_row(values, C)
    assert row.score == 0.5 and row.scores == []


def test_lineage_columns_at_their_default_do_not_change_the_hash() -> None:
    """So a column added later, with a default, leaves every old row hash true."""
    sealed = record()
    explicit = {**sealed, "tokens_in": 0, "scores": [], "verdict": None, "numbers_json": "{}"}
    assert row_hash(strip(explicit, C)) == sealed["row_sha256"]


def test_lineage_part_of_a_newer_schema_is_refused_with_advice() -> None:
    newer = {**record(), "schema_version": SCHEMA_VERSION + 1}
    with pytest.raises(StoreCorrupt, match=r"reads up to \d+: upgrade"):
        decode_part(part_key(C, 1), encode_part([newer], Footer(1, None, 0, 1, (), ())))


def test_lineage_values_that_do_not_fit_are_named() -> None:
    with pytest.raises(UsageError, match="does not fit the schema"):
        encode_log(record(peak_bytes=2**63), C)
    with pytest.raises(UsageError, match="has no time zone"):
        record(t_started=datetime(2026, 1, 1))
