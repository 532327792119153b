"""Where a campaign's promotions stand: a fold over lineage rows, in the order in which they were recorded.

Use: `book = Book(plan)`, `book.read(row)` for every row; then `book.candidate()` is the leader if it should
be confirmed now, `book.open(trial)` its attempt, `row_fields(attempt, step, book)` what the confirmation event
records. `bakeoff verify` folds the same rows again (`evaluators.recompute`), so nothing else may
influence a promotion.

What is read from rows: `trial` (status, score, scores), `confirmation` (verdict, scores, and in `detail_json`
`incumbent_scores`, `gates`, `trials`, `reason`, `incumbent_failures`), `sealed` (verdict), `calibration` (scores of the
start), `intervention` with operator `veto`. What only plans with `rules` 2 record is absent from older rows. Fresh replicates are kept per program; a program's screening scores are never among them, the
start's are, because nothing was chosen by them.

Leader: the best standing score; unconfirmed and vetoed trials have none. A champion's standing score
is the mean of its fresh replicates, not the lucky measurement that made it a leader: otherwise every
later improvement would have to beat that luck.

Limits: confirmations of one campaign are recorded one after the other; memory grows by the replicates.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from evaluators.noise import Noise, consecutive, pooled
from evaluators.promote import (
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
from lineage.records import Row, Status


class Book:
    """The running state; read rows in order, ask at any time."""

    def __init__(self, plan: ConfirmPlan) -> None:
        self.plan = plan
        self.trials = 0
        self.attempts = 0
        self.alpha_left = plan.alpha
        self.start: str | None = None
        self.champions: list[str] = []
        self.vetoed: set[str] = set()
        self.fallen: dict[str, str] = {}
        self.deterministic: dict[str, bool | None] = {}
        self.failures: dict[str, int] = {}
        self._evidence: dict[str, list[str]] = {}
        self._standing: dict[str, float] = {}
        self._runs: dict[str, int] = {}
        self._fresh: dict[str, list[float]] = {}
        self._differences: list[list[float]] = []
        self._calibrated: list[float] = []
        self._in_a_row: list[float] = []

    @property
    def incumbent(self) -> str | None:
        """The last confirmed trial that nobody vetoed and that kept its title; the start while there is none."""
        gone = self.vetoed | set(self.fallen)
        return next((t for t in reversed(self.champions) if t not in gone), self.start)

    def read(self, row: Row) -> None:
        """Take one row in; events that say nothing about promotions are passed over."""
        if row.event == "trial":
            self._read_trial(row)
        elif row.event == "confirmation":
            self._read_confirmation(row)
        elif row.event == "calibration":
            self._calibrated += row.scores
        elif row.event == "sealed" and row.sealed_verdict == "reversed" and row.trial:
            self._fall(row.trial, "reversed")
        elif row.event == "intervention" and row.operator == "veto" and row.trial:
            self.vetoed.add(row.trial)
            self._standing.pop(row.trial, None)

    def _fall(self, trial: str, why: str) -> None:
        """A champion loses its title: the sealed split reversed its gain, or it failed on a fresh seed."""
        self.fallen[trial] = why
        self._standing.pop(trial, None)

    def _read_trial(self, row: Row) -> None:
        self.trials += 1
        if row.trial is not None:
            self.deterministic[row.trial] = row.deterministic
        if row.trial is None or row.score is None or row.trial in self.vetoed:
            return
        if row.status is Status.BASELINE and self.start is None:
            self.start = row.trial
            self._in_a_row = list(row.scores)
            self._fresh[row.trial] = (
                [row.score] if self._is_one_run(row.trial) else list(row.scores) or [row.score]
            )
            self._evidence[row.trial] = [row.measurement_sha256] if row.measurement_sha256 else []
            self._standing[row.trial] = row.score
        elif row.status is Status.KEEP:
            self._standing[row.trial] = row.score
            self._runs[row.trial] = max(1, len(row.scores))

    def _read_confirmation(self, row: Row) -> None:
        detail = json.loads(row.detail_json)
        new = [float(v) for v in detail.get("incumbent_scores", [])]
        trial = row.trial or ""
        self.attempts += 1
        self.alpha_left = max(0.0, self.alpha_left - (row.alpha_spent or 0.0))
        reason, ours = str(detail.get("reason", "")), list(row.scores)
        if reason == "unlawful":  # nothing of a program that broke a rule says how programs scatter
            ours = []
        if self.plan.is_paired:
            pairs = zip(ours, new, strict=False)
            self._differences.append([mine - theirs for mine, theirs in pairs])
        beaten = row.incumbent or self.incumbent  # named, as a veto may have come in the meantime
        if beaten is not None:
            self._add(beaten, new, detail.get("incumbent_measurements", []))
            self.failures[beaten] = self.failures.get(beaten, 0) + len(detail.get("incumbent_failures", []))
        if row.deterministic is not None:
            self.deterministic[trial] = row.deterministic
        self._add(trial, ours, detail.get("measurements", []) if ours else [])
        if reason == "incumbent_failed" and beaten is not None and beaten != self.start:
            self._fall(beaten, "failed")  # the candidate stays what it was: a leader to confirm
        elif row.verdict == "confirmed" and trial not in self.vetoed:
            self.champions.append(trial)
            self.alpha_left = self.plan.alpha
            self._standing[trial] = math.fsum(self._fresh[trial]) / len(self._fresh[trial])
        else:
            self._standing.pop(trial, None)

    def _add(self, trial: str, scores: list[float], measurements: list[str]) -> None:
        """Fresh replicates of a program; one whose runs do not depend on the seed has one run, however often it ran."""
        held = self._fresh.setdefault(trial, [])
        held.extend(scores[: max(0, 1 - len(held))] if self._is_one_run(trial) else scores)
        self._evidence.setdefault(trial, []).extend(measurements)

    def evidence(self, incumbent: str | None = None) -> tuple[str, ...]:
        """Hashes of the measurements that hold the incumbent's fresh replicates, oldest first, the start's first too."""
        return tuple(self._evidence.get(incumbent or self.incumbent or "", ()))

    def must_depend(self, *parents: str | None) -> bool:
        """Must the runs of a program depend on the seed, because those of the start or of one of these do?"""
        said = [self.deterministic.get(trial) for trial in (self.start, *parents) if trial]
        return self.plan.rules >= 2 and False in said

    def pool(self, incumbent: str | None = None) -> tuple[float, ...]:
        """All fresh replicates of the incumbent, or of the one named, oldest first."""
        trial = incumbent or self.incumbent
        own = self._fresh.get(trial, []) if trial else []
        return tuple(self._before() + own) if trial == self.start else tuple(own)

    def _before(self) -> list[float]:
        """The start's scores from a calibration; none where its runs do not depend on the seed and all are one."""
        return [] if self._is_one_run(self.start or "") else self._calibrated

    def _is_one_run(self, trial: str) -> bool:
        """Times scatter from run to run even where answers do not."""
        return bool(self.plan.quality) and self.deterministic.get(trial) is True

    def noise(self) -> Noise:
        """Spread of one replicate, within programs."""
        start = self._before() + self._fresh.get(self.start or "", [])
        others = [values for trial, values in self._fresh.items() if trial != self.start]
        return pooled([start, *others])

    def test_noise(self) -> Noise:
        """Spread of what the test averages: a replicate, or a pair difference for time scores."""
        if not self.plan.is_paired:
            return self.noise()
        return consecutive(self._calibrated or self._in_a_row) + pooled(self._differences)

    def leader(self) -> tuple[str, float] | None:
        """Best standing trial and its score; the earlier one on a tie; None before a valid start."""
        best: tuple[str, float] | None = None
        for trial, score in self._standing.items():
            if best is None or self.plan.sign * (score - best[1]) > 0:
                best = (trial, score)
        return best

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
        """An attempt opened now, or earlier: at `trials` outcomes, against an `incumbent` that led then.

        Everything that the first look may know from before.
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


def unsealed(rows: Iterable[Row]) -> list[tuple[int, str]]:
    """Number of the attempt and trial of each champion whose sealed score is not recorded, oldest first.

    `rows`: confirmations, sealed events and interventions in the order recorded. A vetoed champion needs none.
    """
    waiting: dict[str, int] = {}
    vetoed: set[str] = set()
    number = 0
    for row in rows:
        trial = row.trial or ""
        if row.event == "confirmation":
            if row.verdict == "confirmed":
                waiting[trial] = number
            number += 1
        elif row.event == "sealed":
            waiting.pop(trial, None)
        elif row.event == "intervention" and row.operator == "veto":
            vetoed.add(trial)
    return sorted((number, trial) for trial, number in waiting.items() if trial not in vetoed)


def row_fields(attempt: Attempt, step: Step, trials: int) -> dict[str, Any]:
    """Columns of the confirmation event; `trials` is `Book.trials` when the attempt was opened.

    The caller adds who, when, seeds and measurement hashes (`detail_json` is a dict here, so that
    hashes can be put beside; dump it with sorted keys).
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
