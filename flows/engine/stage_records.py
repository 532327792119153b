"""Small frozen records that only flows pass between stages."""

from __future__ import annotations

from typing import Literal, cast

from pydantic import Field

from lineage.records import Check, Record, TrainRun

Purpose = Literal["screen", "calibrate", "confirm", "sealed", "replay"]


def part_name(purpose: str, first: int) -> str:
    """Under which purpose the runs of a trial from `first` on are stored: `screen`, `screen-2`."""
    return f"{purpose}-{first}" if first else purpose


class TrialRef(Record):
    """Names one trial to any process: where its store is, which campaign, which id, which role."""

    store: str
    campaign: str
    trial: str
    role: str
    environment: str = ""


class Patched(Record):
    parent_sha256: str
    source_sha256: str
    ast_sha256: str
    diff_sha256: str | None
    source_bytes: int
    units: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    changed_lines: int = 0
    parent: str = Field(
        "", description="trial whose program the edits were applied to; empty in older records"
    )


class BuildChecks(Record):
    checks: tuple[Check, ...]


Curve = tuple[tuple[float, float], ...]  # (step, value) as the candidate reported them: advice


class Pruning(Record):
    """What the pruning rule said of a trial: at which step it would have ended a run, and of which.

    `is_checked`: the trial was drawn to run to its end whatever the rule says, so that false prunes are counted.
    """

    step: float
    run: int
    is_checked: bool
    against: str = Field("", description="trial whose curves the rule compared with")


class Trained(Record):
    """Finished trainings of one purpose. `places` are folders of this machine's scratch space.

    `curves` has one training curve per run, empty where the recipe reports none.
    """

    purpose: str
    attempt: int
    machine: str
    runs: tuple[TrainRun, ...]
    places: tuple[str, ...]
    curves: tuple[Curve, ...] = ()
    pruning: Pruning | None = None
    beyond: tuple[TrainRun, ...] = Field(
        (), description="runs that were under way beside one that failed: they cost, and count for nothing"
    )

    @property
    def purpose_word(self) -> Purpose:
        """The purpose without the replicate number that confirmations append (`confirm-3` is `confirm`)."""
        return cast("Purpose", self.purpose.split("-", 1)[0])
