"""Findings of a verification, and its report.

A *problem* means that the record is not what was written; a *note* is worth knowing and harmless: an
orphan left by a crash, a campaign that has not ended, a foreign file.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "missing",  # an object or row that something refers to is not there
    "altered",  # bytes or values do not match their hash
    "swapped",  # an object has the content that belongs under another name
    "added",  # a row that the campaign did not write
    "doubled",  # the same event or outcome twice
    "reordered",  # rows of a chain out of their order
    "chain",  # a part or row does not continue the one before it
    "differs",  # a label or promotion recomputed from the facts is not the recorded one
    "orphaned",  # an object that nothing refers to
    "unfinished",  # facts without their row yet: a resume appends it
    "superseded",  # an event that an owner wrote after another had taken over; readers leave it out
    "unvouched",  # rows or parts that no anchor covers
    "foreign",  # a file that Bakeoff did not write
]
NOTES = frozenset({"orphaned", "unfinished", "superseded", "unvouched", "foreign"})


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be: what kind, where, and a sentence."""

    kind: Kind
    where: str
    text: str

    @property
    def is_note(self) -> bool:
        return self.kind in NOTES

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.text}"


@dataclass
class VerifyReport:
    """What was checked and what was found. `ok` means: no problem; notes do not count."""

    root: str
    campaigns: list[str] = field(default_factory=list)
    objects: int = 0
    bytes: int = 0
    rows: int = 0
    anchors: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.is_note]

    @property
    def notes(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.is_note]

    @property
    def ok(self) -> bool:
        return not self.problems

    def summary(self) -> str:
        """One line for a person."""
        size = f"{self.objects} objects, {self.bytes / 1e6:.1f} MB, {self.rows} rows in {len(self.campaigns)} campaigns"
        if self.ok:
            return f"{self.root}: {size}: every hash and chain holds; {len(self.notes)} notes"
        kinds = ", ".join(
            f"{count} {kind}" for kind, count in Counter(f.kind for f in self.problems).most_common()
        )
        return f"{self.root}: {size}: {len(self.problems)} problems ({kinds}); {len(self.notes)} notes"
