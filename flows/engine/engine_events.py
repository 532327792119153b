"""Events that an engine sends to its sinks while a campaign runs: the terminal view and the logs read them.

Use: `engine.emit(Note("..."))`; a sink is a function of one `EngineEvent`. They are not stored: the record is lineage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lineage.records import Row

if TYPE_CHECKING:
    from flows.engine.budget import Spent
    from flows.engine.settings import Settings


@dataclass(frozen=True)
class Note:
    """One line for the user."""

    text: str


@dataclass(frozen=True)
class RowAppended:
    """A row of lineage was written."""

    row: Row


@dataclass(frozen=True)
class TrialEnded:
    """A trial has its outcome."""

    row: Row


@dataclass(frozen=True)
class StageStarted:
    """A trial has entered a stage (`lineage.records.STAGES`)."""

    trial: str
    role: str
    stage: str


@dataclass(frozen=True)
class RunsDone:
    """`done` of `total` runs of a trial's stage have ended."""

    trial: str
    done: int
    total: int


@dataclass(frozen=True)
class ReplicatesDone:
    """A confirmation has `done` candidate replicates of at most `total`."""

    trial: str
    done: int
    total: int


@dataclass(frozen=True)
class Decided:
    """A confirmation has ended."""

    trial: str


@dataclass(frozen=True)
class BudgetUsed:
    """What the campaign has used, and its settings where they may have changed."""

    spent: Spent
    settings: Settings | None = None


EngineEvent = (
    Note | RowAppended | TrialEnded | StageStarted | RunsDone | ReplicatesDone | Decided | BudgetUsed
)
