"""What a running campaign reports while it runs, one record for each kind of event; the display takes them.

Nothing here is stored: lineage has the record, these are for a person who watches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lineage.records import Row

if TYPE_CHECKING:
    from flows.engine.budget import Spent


@dataclass(frozen=True)
class Note:
    """A sentence for the person."""

    text: str


@dataclass(frozen=True)
class RowWritten:
    """A row of lineage; the outcome of a trial that another process ran may come twice."""

    row: Row


@dataclass(frozen=True)
class StageStarted:
    trial: str
    role: str
    stage: str


@dataclass(frozen=True)
class RunsDone:
    """`done` of the `total` training runs of a trial have ended."""

    trial: str
    done: int
    total: int


@dataclass(frozen=True)
class Confirming:
    """A confirmation under way: `done` of at most `total` runs of the leader have ended."""

    trial: str
    done: int
    total: int


@dataclass(frozen=True)
class ConfirmationEnded:
    trial: str


@dataclass(frozen=True)
class Spending:
    """What the campaign has used so far."""

    spent: Spent


LiveEvent = Note | RowWritten | StageStarted | RunsDone | Confirming | ConfirmationEnded | Spending
