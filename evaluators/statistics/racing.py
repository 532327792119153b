"""Racing: a screen ends after k of n runs when the trial can no longer become a keep, or no longer meet a gate. Pure.

Use: `plan_for(runs)` once per campaign; after the runs of a look `look(plan, spec, results, leader, start)` says
why the screen ends, or None. With m the mean of the first k runs, M that of all n, sd and df of the noise:

    M - m is normal around 0 with variance sd^2 (n - k) / (n k), whatever the program's true mean is
    so the screen ends when m + t(1 - level, df) sd sqrt((n - k) / (n k)) does not reach the leader (or the gate)

and a trial that all n runs would have made a keep is ended with a chance of at most `level` at this look. The
levels of all looks and all means that are asked about add up to `error` (Bonferroni). sd is the start's or the trial's own,
whichever is larger; the start's runs count as no more than `GUIDE` degrees of freedom, because an edit can change the noise. A gate on `each` run is missed for good by one run. A bound lies on
the far side of its mean, so a bound that cannot be reached by the mean cannot be met. tests/bench/racing.py simulates it.

Limits: noise is taken as normal; that of a trial whose noise is much larger than the start's is told from two runs. The leader is that of the look: one that loses its title later was still the bar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from evaluators.judge.gates import judge_gate
from lineage.environment_spec import EnvironmentSpec, Gate
from lineage.records import Finite, Record, SeedResult

ERROR = 0.02  # chance that a screen is ended which all its runs would have made a keep
GUIDE = 4  # degrees of freedom that the start's noise counts as, at most


class RacingPlan(Record):
    """How a campaign's screens are raced: after how many of `runs` runs, and with which total error."""

    runs: int
    looks: tuple[int, ...]
    error: Finite = ERROR


class Stopped(Record):
    """Why a screen ended early: this quantity's `mean` of `runs` runs would at best become `best`, `limit` is needed.

    `leader`: trial that had the score `limit`; empty where a gate is what cannot be met.
    """

    runs: int
    planned: int
    quantity: str
    mean: Finite
    best: Finite
    limit: Finite
    level: Finite
    leader: str = ""

    @property
    def text(self) -> str:
        return f"stopped after {self.runs} of {self.planned} runs"


def plan_for(runs: int) -> RacingPlan | None:
    """Looks after two runs and, of many, after half of them; None where there is nothing to save."""
    looks = tuple(sorted({2, runs // 2} if runs >= 8 else {2}))
    return RacingPlan(runs=runs, looks=looks) if runs > 2 else None


def parts(plan: RacingPlan | None, runs: int) -> list[tuple[int, int]]:
    """First and last index (exclusive) of the runs between looks.

    >>> parts(plan_for(5), 5), parts(plan_for(10), 10), parts(None, 10)
    ([(0, 2), (2, 5)], [(0, 2), (2, 5), (5, 10)], [(0, 10)])
    """
    ends = [*(plan.looks if plan is not None and plan.runs == runs else ()), runs]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def look(
    plan: RacingPlan,
    spec: EnvironmentSpec,
    results: Sequence[SeedResult],
    leader: tuple[str, float] | None,
    start: Sequence[SeedResult],
) -> Stopped | None:
    """Why the screen ends after these runs; None while it goes on, and after all of them.

    `leader`: trial and score that a keep must be better than. `start`: the start's own runs, which say how large the
    noise is.
    """
    if not 2 <= len(results) < plan.runs:
        return None
    for gate in spec.gates:
        if gate.on == "each" and (missed := _missed(plan, gate, results)) is not None:
            return missed
    means = [gate for gate in spec.gates if gate.on != "each"]
    level = plan.error / (len(plan.looks) * (1 + len(means)))
    for gate in means:
        least = gate.at_least is not None
        limit = float(gate.at_least if gate.at_least is not None else gate.at_most or 0.0)
        found = _behind(plan, gate.quantity, 1 if least else -1, limit, results, start, level)
        if found is not None and found.best != limit:
            return found
    if leader is None:
        return None
    found = _behind(plan, spec.score.metric, spec.sign, leader[1], results, start, level)
    return found.model_copy(update={"leader": leader[0]}) if found is not None else None


def _missed(plan: RacingPlan, gate: Gate, results: Sequence[SeedResult]) -> Stopped | None:
    """A gate on each run that one of these runs misses."""
    check = judge_gate(gate, [seed.quantities.get(gate.quantity, math.nan) for seed in results])
    worst = check.numbers.get("worst")
    if check.passed or worst is None:
        return None
    return Stopped(
        runs=len(results),
        planned=plan.runs,
        quantity=gate.quantity,
        mean=float(check.numbers["mean"]),
        best=float(worst),
        limit=float(check.numbers["limit"]),
        level=0.0,
    )


def _behind(
    plan: RacingPlan,
    quantity: str,
    sign: int,
    limit: float,
    results: Sequence[SeedResult],
    start: Sequence[SeedResult],
    level: float,
) -> Stopped | None:
    """The mean that all runs could have at best, where that is no better than `limit`."""
    values = [seed.quantities.get(quantity, math.nan) for seed in results]
    known = [seed.quantities.get(quantity, math.nan) for seed in start]
    if not all(map(math.isfinite, (*values, *known))) or len(known) < 3:
        return None
    sd, df = noise(values, known)
    from scipy.special import stdtrit  # scipy.stats costs a second to import, this a tenth

    k, n = len(values), plan.runs
    mean = math.fsum(values) / k
    reach = float(stdtrit(df, 1 - level)) * sd * math.sqrt((n - k) / (n * k))
    best = mean + sign * reach
    if sign * (best - limit) > 0:
        return None
    return Stopped(runs=k, planned=n, quantity=quantity, mean=mean, best=best, limit=limit, level=level)


def noise(values: Sequence[float], start: Sequence[float]) -> tuple[float, int]:
    """Spread of one run, and the degrees of freedom that it is known with."""
    return max(_sd(start), _sd(values)), min(len(start) - 1, GUIDE) + len(values) - 1


def _sd(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
