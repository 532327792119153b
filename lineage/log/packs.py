"""Packs: copies of 16, 256 or 4096 neighbouring parts in one file, so that a cold reader opens few files.

packs/campaign=C/pack-<first part>-<last part>-<first 16 hex of the file's sha256>.parquet

A pack is derived and never the truth: the parts stay where they are, plain tools read only those, a damaged
or missing pack costs nothing but time, and `verify` compares each with its parts. Measured at 100,000 rows: 391
parts of 256 rows take 2.5 s to open, the packs and rest of the same rows 0.4 s.
Limits: a pack takes its parts' space once more per level (about 0.3 KB a row).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lineage.errors import StoreCorrupt
from lineage.ids import canonical_json, check_campaign, sha256
from lineage.log.parquet_files import read_parquet, write_parquet
from lineage.schema import conform

PACK_NAME = re.compile(r"pack-([0-9]{12})-([0-9]{12})-([0-9a-f]{16})\.parquet")
SIZES = (16, 256, 4096)
Range = tuple[int, int]


@dataclass(frozen=True)
class Pack:
    """Rows of parts first..last, the sha256 of each of those parts, and of the part before them."""

    table: Any
    first: int
    shas: tuple[str, ...]
    prev_sha256: str | None


def pack_folder(campaign: str) -> str:
    return f"packs/campaign={check_campaign(campaign)}"


def pack_key(campaign: str, first: int, last: int, data: bytes) -> str:
    return f"{pack_folder(campaign)}/pack-{first:012d}-{last:012d}-{sha256(data)[:16]}.parquet"


def pack_range(key: str) -> Range | None:
    """First and last part of a pack key; None for any other file."""
    match = PACK_NAME.fullmatch(key.rsplit("/", 1)[-1])
    return (int(match[1]), int(match[2])) if match else None


def encode_pack(tables: Sequence[Any], first: int, shas: Sequence[str], prev: str | None) -> bytes:
    table = pa.concat_tables(tables)
    meta = {"first": first, "sha256": list(shas), "prev_sha256": prev, "rows": table.num_rows}
    # Dictionaries make a file of many rows a third faster to read.
    return write_parquet(table.replace_schema_metadata({"pack": canonical_json(meta)}), use_dictionary=True)


def decode_pack(key: str, data: bytes) -> Pack:
    """The pack in a file; raises StoreCorrupt when name, footer and rows disagree."""
    match = PACK_NAME.fullmatch(key.rsplit("/", 1)[-1])
    if match is None or sha256(data)[:16] != match[3]:
        raise StoreCorrupt(f"{key}: the bytes do not match the name; delete it, packs are only copies")
    table = read_parquet(data, key)
    try:
        meta = json.loads((table.schema.metadata or {})[b"pack"])
        pack = Pack(conform(table, key), int(meta["first"]), tuple(meta["sha256"]), meta["prev_sha256"])
        sound = meta["rows"] == table.num_rows and pack_range(key) == (
            pack.first,
            pack.first + len(pack.shas) - 1,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise StoreCorrupt(
            f"{key} was not written by Bakeoff ({error!r}); delete it, packs are only copies"
        ) from error
    if not sound:
        raise StoreCorrupt(f"{key}: name, footer and rows disagree; delete it, packs are only copies")
    return pack


def choose(known: int, total: int, packs: Iterable[Range]) -> list[Range]:
    """The fewest files for parts known+1..total: the largest pack that starts at each point, else the part."""
    best: dict[int, int] = {}
    for first, last in packs:
        if last <= total:
            best[first] = max(best.get(first, 0), last)
    chosen: list[Range] = []
    at = known + 1
    while at <= total:
        last = best.get(at, at)
        chosen.append((at, last))
        at = last + 1
    return chosen


def wanted(total: int, packs: Iterable[Range]) -> list[Range]:
    """Packs that should exist after `total` parts and do not, small ones first; a larger one makes smaller ones moot."""
    have = set(packs)
    ranges = [(first, first + size - 1) for size in SIZES for first in range(1, total - size + 2, size)]
    return [
        (first, last)
        for first, last in ranges
        if (first, last) not in have and not any(a <= first and last <= b for a, b in have)
    ]
