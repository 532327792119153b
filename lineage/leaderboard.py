"""Leader, incumbent, champions and vetoed trials: the one fold over lineage rows that every reader uses.

Use: `leaderboard = Leaderboard(sign)`, `leaderboard.read(row)` for every row in the order recorded; then `leader()`,
`incumbent`, `champions`. `View.ranking` is this fold over a whole campaign, `evaluators.statistics.confirmation_book.Book` adds
noise, levels and the next candidate. No other module ranks trials.

Leader: the best standing score; unconfirmed and vetoed trials have none. A champion's standing score is the
mean of its fresh replicates, not the lucky measurement that made it a leader: otherwise every later
improvement would have to exceed that luck too. Incumbent: the last confirmed trial without a veto, each having
beaten the one before it on fresh seeds; the start while there is none. A champion loses its title, as by a veto,
when the sealed split reverses its gain or when it fails by its own fault on a fresh seed.

What is read from rows: `trial` (status, score, scores), `confirmation` (verdict, scores, the incumbent's scores),
`sealed`, and `intervention` with operator `veto`. Limits: no statistics; memory grows by the replicates.
"""

from __future__ import annotations

import json
import math

from lineage.records import Row, Status

UNLAWFUL, INCUMBENT_FAILED = "unlawful", "incumbent_failed"  # reasons of a confirmation that ended so


class Leaderboard:
    """Read rows in order; every property and method answers for the rows read so far. `sign` is +1 when a higher score is better.

    `fresh`: mean of the fresh replicates of each trial that was tested on fresh seeds, confirmed or not.
    """

    def __init__(self, sign: int) -> None:
        self.sign = sign
        self.start: str | None = None
        self.attempts = 0
        self.confirmed: list[str] = []
        self.vetoed: set[str] = set()  # by a person, or fallen
        self.fallen: dict[str, str] = {}  # trial -> `reversed` or `failed`
        self.fresh: dict[str, float] = {}
        self.replicates: dict[str, list[float]] = {}
        self._scores: dict[str, float] = {}
        self._unsealed: dict[str, int] = {}

    @property
    def incumbent(self) -> str | None:
        """The last confirmed trial without a veto; the start while there is none."""
        return next((t for t in reversed(self.confirmed) if t not in self.vetoed), self.start)

    @property
    def champions(self) -> list[str]:
        """Confirmed trials without a veto, once each, by their last confirmation."""
        last = {trial: at for at, trial in enumerate(self.confirmed) if trial not in self.vetoed}
        return sorted(last, key=last.__getitem__)

    @property
    def unsealed(self) -> list[tuple[int, str]]:
        """Number of the attempt and trial of each champion without a recorded sealed score, oldest first."""
        return sorted((at, trial) for trial, at in self._unsealed.items() if trial not in self.vetoed)

    def leader(self) -> tuple[str, float] | None:
        """Best standing trial and its score; the earlier one on a tie; None before a valid start."""
        best: tuple[str, float] | None = None
        for trial, score in self._scores.items():
            if best is None or self.sign * (score - best[1]) > 0:
                best = (trial, score)
        return best

    def read(self, row: Row) -> None:
        """Update by one row; events that do not affect the ranking change nothing."""
        if row.event == "trial" and row.trial is not None:
            self.measured(row.trial, row.status, row.score, row.scores)
        elif row.event == "confirmation":
            self._decided(row)
        elif row.event == "sealed":
            self._unsealed.pop(row.trial or "", None)
            if row.sealed_verdict == "reversed" and row.trial:
                self._fall(row.trial, "reversed")
        elif row.event == "intervention" and row.operator == "veto" and row.trial:
            self.vetoed.add(row.trial)
            self._scores.pop(row.trial, None)

    def measured(
        self, trial: str, status: Status | None, score: float | None, scores: list[float] | None = None
    ) -> None:
        """The outcome of a trial. The start's own runs count as fresh, because nothing was chosen by them."""
        if score is None or trial in self.vetoed:
            return
        if status is Status.BASELINE and self.start is None:
            self.start = trial
            self.replicates[trial] = list(scores or [score])
            self._scores[trial] = score
        elif status is Status.KEEP:
            self._scores[trial] = score

    def _fall(self, trial: str, why: str) -> None:
        self.fallen[trial] = why
        self.vetoed.add(trial)
        self._scores.pop(trial, None)

    def _decided(self, row: Row) -> None:
        trial, beaten = row.trial or "", row.incumbent or self.incumbent
        detail = json.loads(row.detail_json)
        if beaten is not None:
            theirs = detail.get("incumbent_scores", [])
            self.replicates.setdefault(beaten, []).extend(float(value) for value in theirs)
        ours = self.replicates.setdefault(trial, [])
        if detail.get("reason") != UNLAWFUL:  # an unlawful run is no measurement of the program
            ours.extend(row.scores)
        mean = math.fsum(ours) / len(ours) if ours else row.score  # an imported event may have no replicates
        if mean is not None:
            self.fresh[trial] = mean
        if row.verdict == "confirmed" and not detail.get("no_sealed_split"):
            self._unsealed[trial] = self.attempts
        if detail.get("reason") == INCUMBENT_FAILED and beaten is not None and beaten != self.start:
            self._fall(beaten, "failed")  # the candidate stays a leader to confirm
        elif row.verdict == "confirmed" and trial not in self.vetoed:
            self.confirmed.append(trial)
            if trial in self.fresh:
                self._scores[trial] = self.fresh[trial]
        else:
            self._scores.pop(trial, None)
        self.attempts += 1
