"""How much an edit will give, learnt from the trials so far: a Bayesian linear model of effects.

A program is described by the techniques in it, by where its numbers lie in their ranges (linear and
squared), and by the unknown edits it carries; gain and room are sums of effects. The priors say
"about nothing, give or take", and how much give or take is itself taken from the trials (the width
under which they are most likely), because a good step is ten per cent of a running time and one per
cent of bits per byte. `worth` is the expected improvement over the leader: with forty trials the
model is a regression on a handful of points, so how sure it is matters as much as what it says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agents.catalogue.constants import unit
from agents.catalogue.memory import Memory, State
from agents.catalogue.technique import Catalogue, Range

Array = npt.NDArray[np.float64]
Features = dict[str, float]

# Prior standard deviations of one effect, before scaling, in units of gain (log score) and of room (1 = the
# room at the start): t a technique, c and q a number's way through its range and its square, x an unknown
# edit, a the mean of all techniques of one aim.
PRIOR_GAIN = {"t": 0.07, "c": 0.35, "q": 0.35, "x": 0.10, "a": 0.03}
PRIOR_ROOM = {"t": 0.50, "c": 1.50, "q": 1.50, "x": 0.60, "a": 0.20}
WIDTHS = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 1.6)
NOISES = (1.0, 1.7, 3.0)  # how much wider than told the noise may be
ROOM_NOISE = 0.1
ROOM_WORTH = 4.0  # gain that plenty of room is worth, in prior widths of a technique
MAX_ROWS = 200


def features(state: State, start: Mapping[str, float], catalogue: Catalogue) -> Features:
    """Description of a program; `start` holds the numbers of the start."""
    out: Features = {}
    for name in state.techniques:
        out[f"t:{name}"] = 1.0
        technique = catalogue.get(name)
        aim = f"a:{technique.aim}" if technique else "a:score"
        out[aim] = out.get(aim, 0.0) + 1.0
    for key, value in state.numbers.items():
        span = catalogue.ranges.get(key) or _span(start.get(key, value))
        middle = unit(start[key], span) if key in start else 0.5  # a technique's own number: from the middle
        moved = unit(value, span) - middle
        if moved:
            out[f"c:{key}"] = moved
            out[f"q:{key}"] = moved * moved
    for name in state.others:
        out[f"x:{name}"] = 1.0
    return out


def _span(value: float) -> Range:
    if value > 0:
        return Range(low=value / 8, high=value * 8, log=True)
    return Range(low=value - 1.0, high=value + 1.0)


@dataclass(frozen=True)
class Forecast:
    """Expected gain against the start, its standard deviation, and the expected room per limit."""

    gain: float
    spread: float
    room: dict[str, float]


@dataclass(frozen=True)
class _Fit:
    """Posterior of the effects; `width` scales the prior for effects not seen yet."""

    mean: Array
    cov: Array
    width: float
    noise: float
    prior: Mapping[str, float]

    def of(self, known: Array, unseen: Iterable[tuple[str, float]]) -> tuple[float, float]:
        """Mean and standard deviation of a sum of effects."""
        extra = sum((value * self.width * self.prior[name[0]]) ** 2 for name, value in unseen)
        variance = float(known @ self.cov @ known) + extra
        return float(known @ self.mean), math.sqrt(max(variance, 0.0))


def _evidence(design: Array, target: Array, prior: Array, width: float, noise: float) -> float:
    """Log likelihood of the targets under a prior of this width."""
    scaled = design * (prior * width)
    cov = scaled @ scaled.T + noise**2 * np.eye(len(target))
    chol = np.linalg.cholesky(cov)
    white = np.linalg.solve(chol, target)
    return float(-0.5 * white @ white - np.log(np.diag(chol)).sum())


def _fit(
    design: Array, target: Array, columns: Iterable[str], widths: Mapping[str, float], noise: float
) -> _Fit:
    """Posterior under the likeliest width and noise, averaged: a handful of trials does not settle them."""
    prior = np.array([widths[name[0]] for name in columns])
    recent = slice(-60, None)
    tried = [(w, noise * n) for w in WIDTHS for n in NOISES]
    scores = [_evidence(design[recent], target[recent], prior, w, n) for w, n in tried]
    weights = np.exp(np.array(scores) - max(scores))
    width, noise = (float(x) for x in np.exp(weights @ np.log(np.array(tried)) / weights.sum()))
    precision = design.T @ design / noise**2 + np.diag((prior * width) ** -2.0)
    cov: Array = np.asarray(np.linalg.inv(precision), dtype=np.float64)
    mean: Array = cov @ (design.T @ target) / noise**2
    return _Fit(mean, cov, width, noise, widths)


class Surrogate:
    """The fitted model; built anew from memory at every ask, in a few milliseconds."""

    def __init__(self, memory: Memory, catalogue: Catalogue, start: Mapping[str, float]) -> None:
        self.catalogue, self.start = catalogue, dict(start)
        rows = [t for t in memory.trials.values() if t.gain is not None or t.room][-MAX_ROWS:]
        described = [features(memory.states[t.id], start, catalogue) for t in rows]
        self.columns = {name: i for i, name in enumerate(sorted({k for d in described for k in d}))}
        design = np.zeros((len(rows), len(self.columns)))
        for row, description in enumerate(described):
            for name, value in description.items():
                design[row, self.columns[name]] = value
        gained = np.array([t.gain is not None for t in rows], dtype=bool)
        gains = np.array([t.gain for t in rows if t.gain is not None])
        self.gain = _fit(design[gained], gains, self.columns, PRIOR_GAIN, max(memory.noise, 0.003))
        self.room: dict[str, _Fit] = {}
        for limit in sorted(memory.scales):
            seen = np.array([limit in t.room for t in rows], dtype=bool)
            values = np.array([max(-4.0, t.room[limit]) - 1.0 for t in rows if limit in t.room])
            self.room[limit] = _fit(design[seen], values, self.columns, PRIOR_ROOM, ROOM_NOISE)

    def _split(self, described: Mapping[str, float]) -> tuple[Array, list[tuple[str, float]]]:
        row, unseen = np.zeros(len(self.columns)), list[tuple[str, float]]()
        for name, value in described.items():
            at = self.columns.get(name)
            if at is None:
                unseen.append((name, value))
            else:
                row[at] = value
        return row, unseen

    def forecast(self, state: State) -> Forecast:
        """What a program should measure, against the start."""
        row, unseen = self._split(features(state, self.start, self.catalogue))
        gain, spread = self.gain.of(row, unseen)
        room = {name: 1.0 + fit.of(row, unseen)[0] for name, fit in self.room.items()}
        return Forecast(gain, spread, room)

    def _rooms(self, state: State) -> tuple[float, float]:
        """(smallest expected room, probability that every limit holds)."""
        row, unseen = self._split(features(state, self.start, self.catalogue))
        least, holds = math.inf, 1.0
        for fit in self.room.values():
            mean, spread = fit.of(row, unseen)
            least = min(least, 1.0 + mean)
            holds = min(holds, _normal((1.0 + mean) / math.hypot(spread, fit.noise)))
        return least, holds

    def _spendable(self, room: float) -> float:
        """What room is worth: plenty is no better than enough."""
        if math.isinf(room):
            return 0.0
        unit_of_gain = self.gain.width * PRIOR_GAIN["t"]
        return ROOM_WORTH * unit_of_gain * (1.0 - math.exp(-2.0 * max(room, 0.0)))

    def worth(self, state: State, leader: State) -> float:
        """Expected improvement of a program over the leader, room counted, times the chance that it holds."""
        one, two = (features(s, self.start, self.catalogue) for s in (state, leader))
        change = {k: one.get(k, 0.0) - two.get(k, 0.0) for k in sorted({*one, *two})}
        mean, spread = self.gain.of(*self._split({k: v for k, v in change.items() if v}))
        least, holds = self._rooms(state)
        mean += self._spendable(least) - self._spendable(self._rooms(leader)[0])
        return holds * expected_improvement(mean, max(spread, 1e-6))


def _normal(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def expected_improvement(mean: float, spread: float) -> float:
    """E[max(0, x)] for a normal x."""
    z = mean / spread
    return mean * _normal(z) + spread * math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
