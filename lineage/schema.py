"""The Parquet schema of lineage, and conversion of rows to stored rows and back.

A *record* is a plain dict of column values: the fields of `records.Row` that differ from their
default, plus the storage columns. `row_sha256` is over exactly that dict, so adding a column with a default
never changes the hash of an old row.
Rules of evolution: never change the type or the default of a column, never remove one; add at the end of
`Row` and raise SCHEMA_VERSION. Old files lack the new columns and are read with their defaults.
Limits: integers are 64 bit; `campaign` is in the path (`campaign=C/`), not in the files.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import pyarrow as pa

from lineage.errors import StoreCorrupt, UsageError
from lineage.ids import canonical_json, sha256
from lineage.records import Row, Status

SCHEMA_VERSION = 4
TIME = pa.timestamp("us", tz="UTC")
STORAGE = (
    ("event_id", pa.string()),
    ("writer", pa.string()),
    ("writer_seq", pa.int64()),
    ("prev_sha256", pa.string()),
    ("row_sha256", pa.string()),
    ("schema_version", pa.int16()),
    ("t_written", TIME),
)
StoredRow = dict[str, Any]


def _arrow(annotation: Any) -> Any:
    """Arrow type of a Row field, from its Python type."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _arrow(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        (inner,) = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
        return _arrow(inner)
    if origin is typing.Literal:
        return pa.string()
    if origin is list:
        return pa.list_(_arrow(typing.get_args(annotation)[0]))
    simple = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), datetime: TIME}
    if annotation in simple:
        return simple[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return pa.string()
    raise TypeError(f"no Parquet type for {annotation!r}; add it to lineage.schema")


def _build() -> Any:
    hints = typing.get_type_hints(Row, include_extras=True)
    names = [name for name in Row.model_fields if name != "campaign"]
    return pa.schema([*STORAGE, *((name, _arrow(hints[name])) for name in names)])


SCHEMA = _build()
ROW_FIELDS = tuple(name for name in SCHEMA.names if name in Row.model_fields)
DEFAULTS: dict[str, Any] = {
    name: field.get_default(call_default_factory=True)
    for name, field in Row.model_fields.items()
    if not field.is_required()
}
_FILL = {name: value for name, value in DEFAULTS.items() if value is not None}
FIELDS = {name: SCHEMA.field(name) for name in SCHEMA.names}


def _stored(value: Any) -> Any:
    if isinstance(value, str):
        text = str(value.value) if isinstance(value, Enum) else value
        # A lone surrogate (a broken byte of somebody's log) has no UTF-8 form; the rest of the text matters.
        return text if text.isascii() else text.encode("utf-8", "replace").decode()
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise UsageError(f"the time {value.isoformat()} has no time zone; rows hold UTC times only")
        return value.astimezone(UTC)
    return value


def seal(row: Row, *, event_id: str, writer: str, seq: int, prev: str | None, now: datetime) -> StoredRow:
    """The record of a row at its place in a writer's chain, with its hash."""
    record = {name: _stored(value) for name, value in row.model_dump(exclude_defaults=True).items()}
    record |= {"event_id": event_id, "writer": writer, "writer_seq": seq, "schema_version": SCHEMA_VERSION}
    record |= {"t_written": now} | ({"prev_sha256": prev} if prev else {})
    record["row_sha256"] = row_hash(record)
    return record


def row_hash(record: Mapping[str, Any]) -> str:
    """sha256 of a record without its own hash; `campaign` counts, so a row cannot move to another one."""
    return sha256(canonical_json({name: value for name, value in record.items() if name != "row_sha256"}))


def strip(values: Mapping[str, Any], campaign: str) -> StoredRow:
    """The record behind stored column values: nulls and defaults dropped, campaign added."""
    record = {
        name: value
        for name, value in values.items()
        if value is not None and (name not in _FILL or value != _FILL[name])
    }
    record["campaign"] = campaign
    return record


def to_row(values: Mapping[str, Any], campaign: str) -> Row:
    """A Row from stored column values; trusted, so not validated again (it was when it was written)."""
    known = {name: value for name in ROW_FIELDS if (value := values.get(name)) is not None}
    if "status" in known:
        known["status"] = Status(known["status"])
    return Row.model_construct(**known, campaign=campaign)


def to_table(records: Iterable[Mapping[str, Any]]) -> Any:
    """Records as a table of the full schema, defaults filled in."""
    filled = [{**_FILL, **record} for record in records]
    try:
        return pa.Table.from_pylist(filled, schema=SCHEMA)
    except (OverflowError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UsageError(f"a row does not fit the schema: {error}") from error


def conform(table: Any, name: str) -> Any:
    """A table read from a file, brought to the current schema: missing columns get their defaults."""
    if "schema_version" in table.column_names and table.num_rows:
        newest = max(table["schema_version"].unique().to_pylist())
        if newest > SCHEMA_VERSION:
            raise StoreCorrupt(
                f"{name} has schema {newest}, this Bakeoff reads up to {SCHEMA_VERSION}: upgrade Bakeoff"
            )
    if table.schema.equals(SCHEMA):
        return table.replace_schema_metadata(None)
    columns = []
    for field in SCHEMA:
        if field.name in table.column_names:
            try:
                columns.append(table[field.name].cast(field.type))
            except pa.ArrowException as error:  # a damaged file can name another type
                raise StoreCorrupt(f"{name}: column {field.name} is no {field.type}: {error}") from error
        else:
            fill = _FILL.get(field.name)
            columns.append(pa.array([fill] * table.num_rows, field.type))
    return pa.table(columns, schema=SCHEMA)
