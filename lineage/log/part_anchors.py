"""Anchors: the hash of the last part, stored outside that part, so that a rewritten part is found.

Use: every compaction writes `anchors/campaign=C/part-<n>.json`; print `anchor(store, campaign)` at the end of
a campaign and keep the line outside the store: `verify(store, anchor=line)` then finds a rolled-back or
rewritten last part even when somebody rewrote the stored anchor too.
Limits: an anchor covers compacted rows only; compact before taking one.
"""

from __future__ import annotations

from dataclasses import dataclass

from lineage.errors import StoreError, UsageError
from lineage.ids import canonical_json, check_campaign, sha256
from lineage.log.parquet_files import part_folder, part_number, read_footer
from lineage.store.objects import Store


@dataclass(frozen=True)
class Anchor:
    """campaign, number of the part, its sha256, and how many rows parts 1..n hold."""

    campaign: str
    part: int
    sha256: str
    rows: int

    def __str__(self) -> str:
        return f"{self.campaign}:{self.part}:{self.rows}:{self.sha256}"


def parse_anchor(text: str) -> Anchor:
    try:
        campaign, part, rows, sha = text.strip().rsplit(":", 3)
        if len(sha) != 64:
            raise ValueError("the last field must be a sha256")
        return Anchor(check_campaign(campaign), int(part), sha, int(rows))
    except ValueError as error:
        raise UsageError(f"{text!r} is no anchor ({error}); it reads CAMPAIGN:PART:ROWS:SHA256") from error


def anchor_folder(campaign: str) -> str:
    return f"anchors/campaign={check_campaign(campaign)}"


def anchor_key(campaign: str, part: int) -> str:
    return f"{anchor_folder(campaign)}/part-{part:012d}.json"


def anchor_bytes(campaign: str, part: int, sha: str, rows: int) -> bytes:
    return canonical_json({"campaign": campaign, "part": part, "rows": rows, "sha256": sha})


def write_anchor(store: Store, campaign: str, part: int, sha: str, rows: int) -> None:
    """Create-if-absent, so any compactor may write it; ObjectExists when the stored one disagrees."""
    store.create(anchor_key(campaign, part), anchor_bytes(campaign, part, sha, rows))


def anchor(store: Store, campaign: str) -> Anchor:
    """The anchor of the last part, computed from the part itself."""
    keys = [key for key in store.list(part_folder(campaign)) if part_number(key) is not None]
    if not keys:
        raise StoreError(f"campaign {campaign} in {store.root} has no compacted part yet; compact it first")
    data = store.get(keys[-1])
    footer = read_footer(keys[-1], data)
    return Anchor(campaign, footer.part, sha256(data), footer.rows_before + footer.rows)
