"""Forecast of an edit's gain from the trials so far: a Bayesian linear model of effects.

A program is described by the techniques in it, by where its numbers lie in their ranges (linear and
squared), and by the unknown edits it carries; gain and room are sums of effects. The priors say
"about nothing, give or take", and how much give or take is itself taken from the trials (the width
under which they are most likely), because a good step is ten per cent of a running time and one per
cent of bits per byte. `worth` is the expected improvement over the leader: with forty trials the
model is a regression on a handful of points, so its uncertainty matters as much as its mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agents.catalogue.memory import EditState, Memory
from agents.catalogue.recipe_constants import unit
from agents.catalogue.technique import Catalogue, Range

Array = npt.NDArray[np.float64]
Features = dict[str, float]

# Prior standard deviations of one effect, before scaling, in units of gain (log score) and of room (1 = the
# room at the start): t a technique, c and q a number's way through its range and its square, x an unknown
# edit, a the mean of all techniques of one aim, d a factor of e in a constant that trades room for score.
PRIOR_GAIN = {"t": 0.10, "c": 0.20, "q": 0.20, "x": 0.10, "a": 0.03, "d": 0.40}
PRIOR_ROOM = {"t": 0.50, "c": 1.00, "q": 1.00, "x": 0.60, "a": 0.20, "d": 1.00}
# What a trade gives and takes before any is tried: that is what such an entry of the catalogue is for.
MEAN_GAIN, MEAN_ROOM = {"d": 0.40}, {"d": -1.00}
WIDTHS = (0.06, 0.17, 0.5, 1.4)  # tried as factors of the prior, for techniques and for numbers apart
NOISES = (1.0, 2.0)  # factors on the stated noise
# The bound of a gate on five runs of the CPU minis moves by 0.15 to 0.4 of the start's room, bytes do not move.
ROOM_NOISE, ROOM_NOISES = 0.1, (0.5, 2.0, 5.0)
ROOM_WORTH = 4.0  # gain that one unit of room buys until trials show it, in widths of a technique's effect
MOST_WORTH = 1.5
RARE = 0.2  # share of techniques that do much more than the others
MAX_ROWS = 200
RECENT = 60  # rows that settle the widths


def features(state: EditState, start: Mapping[str, float], catalogue: Catalogue) -> Features:
    """Description of a program; `start` has the numbers of the start."""
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
        if key in catalogue.trades and value > 0 and start.get(key, 0.0) > 0:
            out[f"d:{key}"] = catalogue.trades[key] * math.log(value / start[key])
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
    """Posterior of the effects; `prior` and `centre` are fitted widths and means of effects not seen yet."""

    mean: Array
    cov: Array
    noise: float
    prior: Mapping[str, float]
    centre: Mapping[str, float]

    def of(self, known: Array, unseen: Sequence[tuple[str, float]]) -> tuple[float, float]:
        """Mean and standard deviation of a sum of effects."""
        extra = sum((value * self.prior[name[0]]) ** 2 for name, value in unseen)
        more = sum(value * self.centre.get(name[0], 0.0) for name, value in unseen)
        variance = float(known @ self.cov @ known) + extra
        return float(known @ self.mean) + more, math.sqrt(max(variance, 0.0))


def _scaled(prior: Mapping[str, float], techniques: float, numbers: float) -> dict[str, float]:
    return {kind: width * (numbers if kind in "cq" else techniques) for kind, width in prior.items()}


def _evidence(design: Array, target: Array, prior: Array, noise: float) -> float:
    """Log likelihood of the targets under a prior of these widths."""
    scaled = design * prior
    chol = np.linalg.cholesky(scaled @ scaled.T + noise**2 * np.eye(len(target)))
    white = np.linalg.solve(chol, target)
    return float(-0.5 * white @ white - np.log(np.diag(chol)).sum())


def _fit(
    design: Array,
    target: Array,
    columns: Iterable[str],
    prior: Mapping[str, float],
    centre: Mapping[str, float],
    noise: float,
    noises: Iterable[float] = NOISES,
) -> _Fit:
    """Posterior under the likeliest widths and noise, averaged: a handful of trials does not settle them."""
    kinds = [name[0] for name in columns]
    usual = np.array([centre.get(kind, 0.0) for kind in kinds])
    recent, shown = slice(-RECENT, None), design @ usual  # prior means grow with the widths of techniques
    tried = [(t, c, n) for t in WIDTHS for c in WIDTHS for n in noises]
    scores = []
    for t, c, n in tried:
        widths = _scaled(prior, t, c)
        left = target[recent] - t * shown[recent]
        scores.append(_evidence(design[recent], left, np.array([widths[k] for k in kinds]), noise * n))
    weights = np.exp(np.array(scores) - max(scores))
    wide, numbers, wider = map(float, np.exp(weights @ np.log(np.array(tried)) / weights.sum()))
    fitted, noise = _scaled(prior, wide, numbers), noise * wider
    spread = np.array([fitted[k] for k in kinds])
    precision = design.T @ design / noise**2 + np.diag(spread**-2.0)
    cov: Array = np.asarray(np.linalg.inv(precision), dtype=np.float64)
    mean: Array = wide * usual + cov @ (design.T @ (target - wide * shown)) / noise**2
    return _Fit(mean, cov, noise, fitted, {kind: wide * value for kind, value in centre.items()})


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
        self.gain = _fit(design[gained], gains, self.columns, PRIOR_GAIN, MEAN_GAIN, max(memory.noise, 0.003))
        self.room: dict[str, _Fit] = {}
        for limit in sorted(memory.scales):
            seen = np.array([limit in t.room for t in rows], dtype=bool)
            values = np.array([max(-4.0, t.room[limit]) - 1.0 for t in rows if limit in t.room])
            self.room[limit] = _fit(
                design[seen], values, self.columns, PRIOR_ROOM, MEAN_ROOM, ROOM_NOISE, ROOM_NOISES
            )

    @property
    def outlier(self) -> float:
        """Gain that a working technique can give: most do nothing, so the fitted width is too small."""
        seen = [abs(float(self.gain.mean[at])) for name, at in self.columns.items() if name[0] == "t"]
        if len(seen) < 5:
            return PRIOR_GAIN["t"]
        return max(1.5 * max(seen), self.gain.prior["t"])

    def _split(self, described: Mapping[str, float]) -> tuple[Array, list[tuple[str, float]]]:
        row, unseen = np.zeros(len(self.columns)), list[tuple[str, float]]()
        for name, value in described.items():
            at = self.columns.get(name)
            if at is None:
                unseen.append((name, value))
            else:
                row[at] = value
        return row, unseen

    def forecast(self, state: EditState) -> Forecast:
        """What a program should measure, against the start."""
        row, unseen = self._split(features(state, self.start, self.catalogue))
        gain, spread = self.gain.of(row, unseen)
        room = {name: 1.0 + fit.of(row, unseen)[0] for name, fit in self.room.items()}
        return Forecast(gain, spread, room)

    def _rooms(self, described: Mapping[str, float]) -> tuple[float, float]:
        """(smallest expected room, probability that every limit is kept)."""
        row, unseen = self._split(described)
        least, kept = math.inf, 1.0
        for fit in self.room.values():
            mean, spread = fit.of(row, unseen)
            least = min(least, 1.0 + mean)
            kept = min(kept, _normal((1.0 + mean) / math.hypot(spread, fit.noise)))
        return least, kept

    def exchange(self, state: EditState) -> float:
        """Gain that one unit of room buys at this program, by the number that sells it dearest.

        Slopes count where gain and room both surely depend on the number, in opposite ways.
        """
        here = features(state, self.start, self.catalogue)
        rates = [ROOM_WORTH * self.gain.prior["t"]]
        for name, at in self.columns.items():
            if name[0] != "c" or f"q:{name[2:]}" not in self.columns:
                continue
            slope = np.zeros(len(self.columns))
            slope[at], slope[self.columns[f"q:{name[2:]}"]] = 1.0, 2.0 * here.get(name, 0.0)
            gain, unsure = self.gain.of(slope, ())
            for fit in self.room.values():
                room, doubt = fit.of(slope, ())
                if gain * room < 0 and abs(gain) > unsure and abs(room) > doubt:
                    rates.append(abs(gain / room))
        return min(max(rates), MOST_WORTH)

    def potential(self, state: EditState, rate: float) -> float:
        """Expected gain, and what the room left could still buy: the first bit of room is worth most."""
        described = features(state, self.start, self.catalogue)
        least, _ = self._rooms(described)
        return self.gain.of(*self._split(described))[0] + spendable(least, rate)

    def worth(self, state: EditState, leader: EditState, best: EditState, rate: float) -> float:
        """Expected improvement over the leader's gain and over the best potential, if the limits are kept."""
        described = features(state, self.start, self.catalogue)
        least, kept = self._rooms(described)
        rare = RARE if any(name[0] == "t" and name not in self.columns for name in described) else 0.0
        total = 0.0
        for other, room_counts in ((leader, 0.0), (best, 1.0)):
            against = features(other, self.start, self.catalogue)
            change = {k: described.get(k, 0.0) - against.get(k, 0.0) for k in sorted({*described, *against})}
            mean, spread = self.gain.of(*self._split({k: v for k, v in change.items() if v}))
            mean += room_counts * (spendable(least, rate) - spendable(self._rooms(against)[0], rate))
            total += (1.0 - rare) * expected_improvement(mean, max(spread, 1e-6))
            if rare:
                total += rare * expected_improvement(mean, math.hypot(spread, self.outlier))
        return kept * total


def spendable(room: float, rate: float) -> float:
    """What room is worth: `rate` for the first bit of it, less and less for more."""
    return 0.0 if math.isinf(room) else rate * (1.0 - math.exp(-2.0 * max(room, 0.0))) / 2.0


def _normal(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def expected_improvement(mean: float, spread: float) -> float:
    """E[max(0, x)] for a normal x."""
    z = mean / spread
    return mean * _normal(z) + spread * math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
