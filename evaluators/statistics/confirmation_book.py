"""The book of a campaign's confirmations: its leaderboard, noise, replicates and the level left, from lineage rows.

Use: `book = Book(plan)`, `book.read(row)` for every row; then `book.candidate()` is the leader if it should
be confirmed now, `book.open()` its attempt, `row_fields(attempt, step, trials)` the columns of the confirmation
event. `bakeoff verify` reads the same rows again (`evaluators.statistics.recompute`), so nothing else may
influence a promotion.

Besides the leaderboard (`lineage.leaderboard`) it keeps the `calibration` scores of the start, the level that each
attempt spent, which programs do not depend on their seed, and the hashes of the measurements of fresh replicates.
Screening scores of a program are never among its fresh replicates; the start's are, because they selected nothing.

Limits: confirmations of one campaign are recorded one after the other; memory grows with the replicates.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from evaluators.statistics.confirmation import (
    Attempt,
    Confirmed,
    ConfirmPlan,
    Continue,
    Step,
    Unconfirmed,
    alpha_for,
    expected_share,
    worth_confirming,
)
from evaluators.statistics.noise import Noise, consecutive, pooled
from lineage.leaderboard import UNLAWFUL, Leaderboard
from lineage.records import Row, Status


class Book(Leaderboard):
    """Read rows in order; every property and method answers for the rows read so far."""

    def __init__(self, plan: ConfirmPlan) -> None:
        super().__init__(plan.sign)
        self.plan = plan
        self.trials = 0
        self.alpha_left = plan.alpha
        self.deterministic: dict[str, bool | None] = {}
        self.failures: dict[
            str, int
        ] = {}  # runs of an incumbent that failed by its own fault, in confirmations
        self._evidence: dict[str, list[str]] = {}
        self._runs: dict[str, int] = {}
        self._differences: list[list[float]] = []
        self._calibrated: list[float] = []
        self._in_a_row: list[float] = []

    def read(self, row: Row) -> None:
        """Update the book by one row; events that do not concern confirmations change nothing."""
        champions = len(self.confirmed)
        super().read(row)
        if row.event == "trial":
            self.trials += 1
            if row.trial is not None:
                self.deterministic[row.trial] = row.deterministic
            if row.trial is not None and row.status is Status.KEEP:
                self._runs[row.trial] = max(1, len(row.scores))
            elif row.trial is not None and row.trial == self.start and not self._in_a_row:
                self._in_a_row = list(row.scores)
                self._evidence[row.trial] = [row.measurement_sha256] if row.measurement_sha256 else []
        elif row.event == "calibration":
            self._calibrated += row.scores
        elif row.event == "confirmation":
            self._spend(row)
            if len(self.confirmed) > champions:
                self.alpha_left = self.plan.alpha

    def _spend(self, row: Row) -> None:
        self.alpha_left = max(0.0, self.alpha_left - (row.alpha_spent or 0.0))
        detail, trial = json.loads(row.detail_json), row.trial or ""
        lawful = detail.get("reason") != UNLAWFUL
        if self.plan.is_paired and lawful:
            theirs = [float(v) for v in detail.get("incumbent_scores", [])]
            pairs = zip(row.scores, theirs, strict=False)
            self._differences.append([ours - beside for ours, beside in pairs])
        if row.deterministic is not None:
            self.deterministic[trial] = row.deterministic
        beaten = row.incumbent or ""
        self._evidence.setdefault(beaten, []).extend(detail.get("incumbent_measurements", []))
        self._evidence.setdefault(trial, []).extend(detail.get("measurements", []) if lawful else [])
        self.failures[beaten] = self.failures.get(beaten, 0) + len(detail.get("incumbent_failures", []))

    def evidence(self, incumbent: str | None = None) -> tuple[str, ...]:
        """Hashes of the measurements that hold the incumbent's fresh replicates, oldest first, with the start's first measurement."""
        return tuple(self._evidence.get(incumbent or self.incumbent or "", ()))

    def must_depend(self, *parents: str | None) -> bool:
        """Whether a program's runs must depend on the seed, because the start's or one of these parents' do."""
        said = [self.deterministic.get(trial) for trial in (self.start, *parents) if trial]
        return self.plan.rules >= 2 and False in said

    def _fresh_of(self, trial: str) -> list[float]:
        """Fresh replicates with the calibration's; one where runs do not depend on the seed, however many there were.

        Times scatter from run to run even where answers do not.
        """
        own = self.replicates.get(trial, [])
        if self.plan.quality and self.deterministic.get(trial) is True:
            return own[:1]
        return self._calibrated + own if trial == self.start else list(own)

    def pool(self, incumbent: str | None = None) -> tuple[float, ...]:
        """All fresh replicates of the incumbent, or of the one named, oldest first."""
        trial = incumbent or self.incumbent
        return tuple(self._fresh_of(trial)) if trial else ()

    def noise(self) -> Noise:
        """Spread of one replicate, within programs."""
        start = self._fresh_of(self.start) if self.start else self._calibrated
        others = [self._fresh_of(trial) for trial in self.replicates if trial != self.start]
        return pooled([start, *others])

    def test_noise(self) -> Noise:
        """Spread of what the test averages: a replicate, or a pair difference for time scores."""
        if not self.plan.is_paired:
            return self.noise()
        return consecutive(self._calibrated or self._in_a_row) + pooled(self._differences)

    def candidate(self) -> str | None:
        """The leader, if it is not the incumbent and is far enough ahead to be worth replicates."""
        leader = self.leader()
        if leader is None or leader[0] == self.incumbent or self.incumbent is None:
            return None
        runs = self._runs.get(leader[0], 1)
        fit = worth_confirming(self.plan, leader[1], runs, self.pool(), self.noise())
        return leader[0] if fit else None

    def alpha(self, trials: int | None = None) -> float:
        """Level of an attempt opened now, or when `trials` trial rows were recorded."""
        seen = self.trials if trials is None else trials
        return float(alpha_for(self.plan, self.alpha_left, self.attempts, seen))

    def open(
        self, trials: int | None = None, incumbent: str | None = None, candidate: str | None = None
    ) -> Attempt:
        """A new attempt: level, noise and pool from the rows before it.

        For an attempt that was opened earlier, `trials` is the number of outcomes then and `incumbent` the program that
        was tested against.
        """
        pool = () if self.plan.is_paired else self.pool(incumbent)
        seen = self.trials if trials is None else trials
        return Attempt(
            alpha=self.alpha(trials),
            noise=self.test_noise(),
            pool=pool,
            share=float(expected_share(self.plan, self.attempts, seen)),
            runs=self._runs.get(candidate or "", 1),
        )


def book_of(rows: Iterable[Row], plan: ConfirmPlan) -> Book:
    """The book after all these rows."""
    book = Book(plan)
    for row in rows:
        book.read(row)
    return book


def row_fields(attempt: Attempt, step: Step, trials: int) -> dict[str, Any]:
    """Columns of the confirmation event; `trials` is `Book.trials` when the attempt was opened.

    The caller adds trial, time, seeds and measurement hashes. `detail_json` is a dict here, so that the caller can add
    hashes; dump it with sorted keys. Raises ValueError for an attempt that is not decided.
    """
    if isinstance(step, Continue):
        raise ValueError("the attempt is not decided: run what Continue asks for and call next_step again")
    last = step.looks[-1] if step.looks else None
    scores = attempt.candidate
    reason = step.reason if isinstance(step, Unconfirmed) else ""
    return {
        "verdict": "confirmed" if isinstance(step, Confirmed) else "unconfirmed",
        "p_value": last.p_value if last else None,
        "alpha_spent": attempt.alpha,
        "gain": last.gain if last else None,
        "gain_low": last.low if last else None,
        "gain_high": last.high if last else None,
        "score": math.fsum(scores) / len(scores) if scores else None,
        "scores": list(scores),
        "noise_sd": attempt.noise.sd,
        "gate_ok": all(attempt.gates),
        "detail_json": {
            "reason": reason,
            "trials": trials,
            "incumbent_scores": list(attempt.incumbent),
            "gates": list(attempt.gates),
            "hopeless": list(attempt.hopeless),
            "looks": [
                {
                    "n": look.n,
                    "incumbent_n": look.incumbent_n,
                    "p_value": look.p_value,
                    "level": look.level,
                    **({"se_seeds": look.se_seeds, "se_items": look.se_items} if look.items else {}),
                }
                for look in step.looks
            ],
            **({"items": [chance.as_json() for chance in attempt.items]} if attempt.items else {}),
            **({"fixed": list(attempt.fixed)} if any(attempt.fixed) else {}),
        },
    }
