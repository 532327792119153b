"""Every query of agents, report and CLI about a campaign, answered from columns.

Use: `view = Lineage(store, campaign).refresh()`, or `View.from_rows(rows, "min")` in tests. A View is frozen:
it shows one moment. Lists are in lineage order, oldest first, unless the method's docstring differs.
`sign` is +1 when a higher score is better, -1 when a lower one is.
Rows that agents must not see as failures (`harness_abort`: faults of the machine or of Bakeoff) are left out of `recent`,
`by_role`, `neighbours`, `failures` and `hit_rates`; `trials`, `count` and `failure_counts` have them.
Limits: one campaign; rows are built only for what a question returns (100,000 rows: <= 50 ms a prompt).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from lineage.columnar_view import Block, Floats, Frame, Ints, Mask
from lineage.errors import UnknownName, UsageError
from lineage.ids import uuid7
from lineage.leaderboard import Leaderboard
from lineage.records import EventKind, Row, Status
from lineage.schema import SCHEMA, seal, to_row, to_table

if TYPE_CHECKING:
    import pandas as pd

SCORED = ("keep", "discard")
# What a later event adds to the trial row it speaks of.
FOLDED = {
    "confirmation": ("verdict", "p_value", "alpha_spent", "gain", "gain_low", "gain_high"),
    "sealed": (
        "sealed_score",
        "public_score",
        "sealed_gain",
        "sealed_low",
        "sealed_high",
        "sealed_p",
        "sealed_level",
        "sealed_looks",
        "sealed_verdict",
    ),
}
ROW_CACHE = 20_000


@dataclass(frozen=True)
class HitRate:
    """How one role, edit kind or operator has done. `mean_gain`: against the parent, positive is better."""

    key: str
    n: int
    keeps: int
    valid: int
    failed: int
    mean_gain: float | None


@dataclass
class Shared:
    """What successive views of one campaign may reuse: rows already built."""

    rows: dict[str, Row] = field(default_factory=dict)


class View:
    """A campaign at one moment."""

    def __init__(
        self,
        frame: Frame,
        campaign: str,
        direction: Literal["min", "max"] | None,
        shared: Shared | None = None,
    ) -> None:
        self.campaign = campaign
        self._frame = frame
        self._direction = direction
        self._shared = shared or Shared()

    @classmethod
    def from_rows(cls, rows: Iterable[Row], direction: Literal["min", "max"]) -> View:
        """A view of rows that are in no store, in the order given."""
        listed = list(rows)
        now = datetime.now(UTC)
        records = [
            seal(row, event_id=uuid7(), writer="rows", seq=at, prev=None, now=now)
            for at, row in enumerate(listed)
        ]
        frame = Frame(Block(SCHEMA.empty_table()), 0, to_table(records))
        return cls(frame, listed[0].campaign if listed else "", direction)

    @property
    def sign(self) -> int:
        if self._direction is None:
            raise UsageError(
                f"campaign {self.campaign!r} records no direction of its score; open it with"
                ' Lineage(store, campaign, direction="min") or "max"'
            )
        return 1 if self._direction == "max" else -1

    @cached_property
    def _score(self) -> Floats:
        """Scores with the better one higher; NaN where there is none."""
        return self._frame.floats("score") * self.sign

    @cached_property
    def _quoted_scores(self) -> Floats:
        """The same with the mean of fresh replicates where a trial has them."""
        scores = self._score.copy()
        for trial, mean in self.ranking.fresh.items():
            if (index := self._frame.index(trial)) is not None:
                scores[index] = mean * self.sign
        return scores

    @cached_property
    def _visible(self) -> Mask:
        return ~self._frame.mask("status", "harness_abort")

    @cached_property
    def _folds(self) -> dict[int, list[int]]:
        return self._frame.folds()

    @cached_property
    def ranking(self) -> Leaderboard:
        """Leader, incumbent and champions of this moment."""
        leaderboard = Leaderboard(self.sign)
        for _, step in self._steps():
            _take(leaderboard, step)
        return leaderboard

    def _steps(self) -> list[tuple[int, Row | tuple[str, float]]]:
        """What decides who leads, with its position, in order; a keep as its id and score, which builds no row."""
        frame = self._frame
        starts = [frame.position(int(at)) for at in np.flatnonzero(frame.mask("status", "baseline"))]
        later = frame.events("confirmation", "sealed", "intervention")
        positions = np.sort(np.concatenate([np.array(starts, dtype=np.int64), later]))
        steps: list[tuple[int, Row | tuple[str, float]]] = list(
            zip(positions.tolist(), self._build(positions), strict=True)
        )
        scores = frame.floats("score")
        keeps = np.flatnonzero(frame.mask("status", "keep") & np.isfinite(scores))
        where, names = frame.positions(keeps).tolist(), frame.take_values("trial", keeps)
        steps += list(zip(where, zip(names, scores[keeps].tolist(), strict=True), strict=True))
        steps.sort(key=lambda step: step[0])
        return steps

    def led_since(self, trial: str) -> list[str]:
        """Trials that led at some time since this one was last submitted, the last of them now; none if it never was."""
        begun = self._submitted(trial)
        if begun is None:
            return []
        leaderboard, led = Leaderboard(self.sign), [""]
        for position, step in self._steps():
            if position > begun:
                _note_leader(led, leaderboard)
            _take(leaderboard, step)
        _note_leader(led, leaderboard)
        return led[1:]

    def ended_since(self, trial: str, other: str) -> bool:
        """Was the outcome of `trial` recorded after `other` was last submitted?"""
        begun, index = self._submitted(other), self._frame.index(trial)
        return begun is not None and index is not None and self._frame.position(index) > begun

    def _submitted(self, trial: str) -> int | None:
        """Position of the last `submitted` event of a trial."""
        found = self._frame.events("submitted")
        names = self._frame.column("trial").take(pa.array(found)).to_pylist() if len(found) else []
        return max(
            (at for at, name in zip(found.tolist(), names, strict=True) if name == trial), default=None
        )

    # --- rows ----------------------------------------------------------------------------------

    def _build(self, positions: Ints) -> list[Row]:
        """Rows at these positions among all events, from the shared cache where they are there."""
        if not len(positions):
            return []
        if len(self._shared.rows) > ROW_CACHE:
            self._shared.rows = {}
        cache = self._shared.rows
        ids = self._frame.ids(positions)
        missing = np.array([event not in cache for event in ids])
        if missing.any():
            for values in self._frame.take(positions[missing]).to_pylist():
                cache[values["event_id"]] = to_row(values, self.campaign)
        return [cache[event] for event in ids]

    def _rows(self, indices: Iterable[int]) -> list[Row]:
        """Trial rows by index, with later facts folded in."""
        wanted = [int(index) for index in indices]
        rows = self._build(np.array([self._frame.position(index) for index in wanted], dtype=np.int64))
        if not self._folds:
            return rows
        return [
            self._fold(row, self._folds[at]) if at in self._folds else row
            for at, row in zip(wanted, rows, strict=True)
        ]

    def _fold(self, row: Row, positions: list[int]) -> Row:
        update: dict[str, Any] = {}
        for later in self._build(np.array(positions, dtype=np.int64)):
            for name in FOLDED[later.event]:
                value = getattr(later, name)
                if value is not None:
                    update[name] = value
        return row.model_copy(update=update)

    def count(self, event: EventKind = "trial") -> int:
        """How many events of a kind; for `trial` the number of trials with an outcome, baseline included."""
        return self._frame.trials if event == "trial" else len(self._frame.events(event))

    def trials(self) -> list[Row]:
        """All trial rows, with later confirmation and sealed facts folded in."""
        return list(self._trials)

    @cached_property
    def _trials(self) -> list[Row]:
        return self._rows(range(self._frame.trials))

    def numbers(self, name: str) -> Floats:
        """A column of all trials as written, NaN where empty; of a time the seconds since 1970."""
        return self._frame.floats(name)

    def where(self, name: str, *values: str) -> Mask:
        """Which trials have one of these words in a column of words."""
        return self._frame.mask(name, *values)

    def trial(self, trial: str) -> Row | None:
        index = self._frame.index(trial)
        return None if index is None else self._rows([index])[0]

    def events(self, kind: EventKind) -> list[Row]:
        """All events of a kind, as written: nothing folded."""
        return self._build(self._frame.events(kind))

    def milestones(self) -> list[Row]:
        """What decides promotions, as recorded and in order: starts, keeps, confirmations, sealed scores, calibrations, interventions."""
        frame = self._frame
        tried = np.flatnonzero(frame.mask("status", "keep", "baseline"))
        positions = np.array([frame.position(int(index)) for index in tried], dtype=np.int64)
        others = frame.events("confirmation", "sealed", "calibration", "intervention")
        return self._build(np.sort(np.concatenate([positions, others])))

    def rows(self) -> list[Row]:
        """Every event as it was recorded, in lineage order, nothing folded; one outcome per trial."""
        frame = self._frame
        tried = np.array([frame.position(index) for index in range(frame.trials)], dtype=np.int64)
        others = frame.events(
            "campaign", "submitted", "confirmation", "sealed", "intervention", "calibration"
        )
        return self._build(np.sort(np.concatenate([tried, others])))

    def open_trials(self) -> list[Row]:
        """`submitted` events of trials that have no outcome yet; the last one where a trial was retried."""
        rows = {row.trial: row for row in self._build(self._frame.unfinished())}
        return list(rows.values())

    # --- the tree ------------------------------------------------------------------------------

    def baseline(self) -> Row | None:
        found = np.flatnonzero(self._frame.mask("status", "baseline"))
        return self._rows(found[:1])[0] if len(found) else None

    def row_of_leader(self) -> Row | None:
        leader = self.ranking.leader()
        return self.trial(leader[0]) if leader is not None else None

    def row_of_incumbent(self) -> Row | None:
        trial = self.ranking.incumbent
        return self.trial(trial) if trial is not None else self.baseline()

    def rows_of_champions(self) -> list[Row]:
        """Confirmed trials without a veto, in the order in which they were confirmed."""
        found = [self._frame.index(trial) for trial in self.ranking.champions]
        return self._rows(index for index in found if index is not None)

    def quoted(self, trial: str) -> float | None:
        """What a trial is said to score: the mean of its fresh replicates where it has been tested, else as measured."""
        if trial in self.ranking.fresh:
            return self.ranking.fresh[trial]
        index = self._frame.index(trial)
        score = None if index is None else self._frame.value("score", index)
        return None if score is None else float(score)

    def chain(self, trial: str) -> list[Row]:
        """From the root to this trial along `parent`; stops where a parent is unknown."""
        path: list[int] = []
        index = self._frame.index(trial)
        while index is not None and index not in path:
            path.append(index)
            parent = self._frame.value("parent", index)
            index = None if parent is None else self._frame.index(parent)
        return self._rows(reversed(path))

    def children(self, trial: str) -> list[Row]:
        return self._rows(self._frame.find("parent", trial))

    # --- what a prompt shows ---------------------------------------------------------------------

    def recent(self, n: int) -> list[Row]:
        """The last n trials, oldest of them first."""
        return self._rows(_last(np.flatnonzero(self._visible), n))

    def by_role(self, role: str, n: int) -> list[Row]:
        """The last n trials of a role, oldest of them first."""
        return self._rows(_last(np.flatnonzero(self._visible & self._frame.mask("role", role)), n))

    def neighbours(self, role: str, n: int) -> list[Row]:
        """Up to n trials of other roles, best score first: every keep comes before any other."""
        others = (
            self._visible
            & ~self._frame.mask("role", role)
            & np.isfinite(self._score)
            & ~self._frame.mask("status", "baseline")
        )
        keeps = np.flatnonzero(others & self._frame.mask("status", "keep"))
        rest = np.flatnonzero(others & self._frame.mask("status", "discard"))
        scores = self._quoted_scores
        ranked = [part[np.argsort(-scores[part], kind="stable")] for part in (keeps, rest)]
        return self._rows(np.concatenate(ranked)[:n])

    def failures(self, role: str | None, n: int) -> list[Row]:
        """The last n trials without a usable score (of one role, or of all), oldest of them first."""
        failed = self._visible & ~self._frame.mask("status", "baseline", *SCORED)
        if role is not None:
            failed &= self._frame.mask("role", role)
        return self._rows(_last(np.flatnonzero(failed), n))

    def failure_counts(self) -> dict[tuple[str, str | None], int]:
        """(status, cause) -> count over every trial that is no baseline, keep or discard."""
        failed = ~self._frame.mask("status", "baseline", *SCORED)
        (status, words), (cause, causes) = self._frame.codes("status"), self._frame.codes("cause")
        counts = np.bincount((status * len(causes) + cause)[failed], minlength=len(words) * len(causes))
        found = [divmod(int(at), len(causes)) for at in np.flatnonzero(counts)]
        named = [(words[s], causes[c] or None, int(counts[s * len(causes) + c])) for s, c in found]
        named.sort(key=lambda item: (-item[2], item[0], item[1] or ""))
        return {(status_word, cause_word): count for status_word, cause_word, count in named}

    def hit_rates(self, by: str = "role") -> list[HitRate]:
        """One line per role, edit_kind or operator, most tried first; baselines and our own faults left out."""
        if by not in ("role", "edit_kind", "operator", "proposer", "model"):
            raise UnknownName(
                "column to count by", by, ("role", "edit_kind", "operator", "proposer", "model")
            )
        counted = self._visible & ~self._frame.mask("status", "baseline")
        codes, words = self._frame.codes(by)
        codes = codes[counted]
        keeps = self._frame.mask("status", "keep")[counted]
        valid = self._frame.mask("status", *SCORED)[counted]
        gains = (self._frame.floats("delta_parent") * self.sign)[counted]
        measured = valid & np.isfinite(gains)
        size = len(words)
        n, k, v, m = (
            np.bincount(codes[mask], minlength=size) for mask in (codes >= 0, keeps, valid, measured)
        )
        total = np.bincount(codes[measured], weights=gains[measured], minlength=size)
        rates = [
            HitRate(
                key=key,
                n=int(n[at]),
                keeps=int(k[at]),
                valid=int(v[at]),
                failed=int(n[at] - v[at]),
                mean_gain=float(total[at] / m[at]) if m[at] else None,
            )
            for at, key in enumerate(words)
            if key and n[at]
        ]
        return sorted(rates, key=lambda rate: (-rate.n, rate.key))

    def has_program(self, ast_sha: str) -> str | None:
        """The first trial whose program has this normalised hash and that was not cut short by our own fault."""
        judged = self._visible & ~self._frame.mask("cause", "abandoned")
        found = [index for index in self._frame.find("ast_sha256", ast_sha) if judged[index]]
        return str(self._frame.value("trial", int(found[0]))) if found else None

    def best_so_far(self) -> list[tuple[int, str, float]]:
        """(trials so far, trial, score) at each improvement of the measured best; the baseline counts as 0."""
        scores = np.where(self._frame.mask("status", "keep", "baseline"), self._score, np.nan)
        number = np.cumsum(~self._frame.mask("status", "baseline"))
        steps: list[tuple[int, str, float]] = []
        best = -np.inf
        for at in np.flatnonzero(np.isfinite(scores)):
            if scores[at] > best:
                best = scores[at]
                trial = str(self._frame.value("trial", int(at)))
                steps.append((int(number[at]), trial, float(scores[at] * self.sign)))
        return steps

    def to_pandas(self, *, events: bool = False) -> pd.DataFrame:
        """Trials with later facts folded in, or with `events` every event as written, as a DataFrame."""
        if events:
            return _pandas(self._frame.table, self.campaign)
        at = np.array([self._frame.position(index) for index in range(self._frame.trials)], dtype=np.int64)
        frame = _pandas(self._frame.take(at), self.campaign)
        for index, row in zip(self._folds, self._rows(self._folds), strict=True):
            for name in (*FOLDED["confirmation"], *FOLDED["sealed"]):
                frame.at[index, name] = getattr(row, name)
        return frame


def made_by(row: Row) -> str:
    """What made a proposal: the proposer, or the coding agent that it ran, and the model as far as it is known."""
    name = (row.operator if row.proposer == "command" else "") or row.proposer or ""
    return " ".join(part for part in (name, row.model) if part)


def cost_unknown(row: Row) -> bool:
    """Did a coding agent make the proposal without reporting its dollars?"""
    if '"agent"' not in row.detail_json:  # most rows have none, and parsing costs
        return False
    agent = json.loads(row.detail_json).get("agent")
    return isinstance(agent, dict) and agent.get("cost") != "reported"


def _take(leaderboard: Leaderboard, step: Row | tuple[str, float]) -> None:
    if isinstance(step, Row):
        leaderboard.read(step)
    else:
        leaderboard.measured(step[0], Status.KEEP, step[1])


def _note_leader(led: list[str], leaderboard: Leaderboard) -> None:
    leader = leaderboard.leader()
    if leader is not None and leader[0] != led[-1]:
        led.append(leader[0])


def _last(found: Ints, n: int) -> Ints:
    return found[-n:] if n > 0 else found[:0]


def _pandas(table: Any, campaign: str) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    frame.insert(0, "campaign", campaign)
    return frame
