"""How much an edit will give, learnt from the trials so far: a Bayesian linear model of effects.

A program is described by the techniques in it, by where its numbers lie in their ranges (linear and
squared), and by the unknown edits it carries; gain and room are sums of effects. The priors say
"about nothing, give or take": a technique some per cent, a number more the further it moves. With
forty trials this is a regression on a handful of points, so the width of the answer matters as much
as its middle: choices draw from it (`draw`), and forecasts quote its mean (`Forecast`).
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

# Prior standard deviations of one effect, in units of gain (log score) and of room (1 = the room at the start).
PRIOR_GAIN = {"t": 0.10, "c": 0.35, "q": 0.35, "x": 0.15, "a": 0.05}
PRIOR_ROOM = {"t": 0.60, "c": 1.50, "q": 1.50, "x": 0.80, "a": 0.30}
ROOM_NOISE = 0.35
MAX_ROWS = 300


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
        moved = unit(value, span) - unit(start.get(key, value), span)
        if key not in start:  # a technique's own number: its place in its range, from the middle
            moved = unit(value, span) - 0.5
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
class _Posterior:
    mean: Array
    root: Array  # root @ root.T is the covariance

    def draw(self, rng: np.random.Generator) -> Array:
        return self.mean + self.root @ rng.standard_normal(len(self.mean))


def _fit(design: Array, target: Array, prior: Array, noise: float) -> _Posterior:
    precision = design.T @ design / noise**2 + np.diag(prior**-2)
    chol = np.linalg.cholesky(precision)
    inverse = np.linalg.inv(chol)
    mean = inverse.T @ (inverse @ (design.T @ target / noise**2))
    return _Posterior(mean, inverse.T)


class Surrogate:
    """The fitted model; built anew from memory at every ask, in a few milliseconds."""

    def __init__(self, memory: Memory, catalogue: Catalogue, start: Mapping[str, float]) -> None:
        self.catalogue, self.start = catalogue, dict(start)
        self.limits = sorted(memory.scales)
        rows = [t for t in memory.trials.values() if t.gain is not None or t.room]
        rows = rows[-MAX_ROWS:]
        described = [features(memory.states[t.id], start, catalogue) for t in rows]
        self.columns = {name: i for i, name in enumerate(sorted({k for d in described for k in d}))}
        design = self._design(described)
        gained = np.array([t.gain is not None for t in rows], dtype=bool)
        gains = np.array([t.gain for t in rows if t.gain is not None])
        noise = max(memory.noise, 0.005)
        self.gain = _fit(design[gained], gains, self._prior(PRIOR_GAIN), noise)
        self.room: dict[str, _Posterior] = {}
        for limit in self.limits:
            seen = np.array([limit in t.room for t in rows], dtype=bool)
            values = np.array([max(-4.0, t.room[limit]) - 1.0 for t in rows if limit in t.room])
            self.room[limit] = _fit(design[seen], values, self._prior(PRIOR_ROOM), ROOM_NOISE)

    def _prior(self, widths: Mapping[str, float]) -> Array:
        return np.array([widths[name[0]] for name in self.columns])

    def _design(self, described: Iterable[Features]) -> Array:
        listed = list(described)
        design = np.zeros((len(listed), len(self.columns)))
        for row, description in enumerate(listed):
            for name, value in description.items():
                if name in self.columns:
                    design[row, self.columns[name]] = value
        return design

    def _unseen(self, description: Features, widths: Mapping[str, float]) -> float:
        """Variance that effects never measured add."""
        return sum((v * widths[k[0]]) ** 2 for k, v in description.items() if k not in self.columns)

    def forecast(self, state: State) -> Forecast:
        described = features(state, self.start, self.catalogue)
        row = self._design([described])[0]
        spread = math.sqrt(float(np.sum((row @ self.gain.root) ** 2)) + self._unseen(described, PRIOR_GAIN))
        room = {name: 1.0 + float(row @ fit.mean) for name, fit in self.room.items()}
        return Forecast(float(row @ self.gain.mean), spread, room)

    def draw(self, rng: np.random.Generator) -> Draw:
        """One world that the trials so far leave possible."""
        rooms = {name: fit.draw(rng) for name, fit in self.room.items()}
        return Draw(self, self.gain.draw(rng), rooms, rng)


class Draw:
    """Effects drawn once; asked about many programs it answers consistently."""

    def __init__(
        self, model: Surrogate, gain: Array, room: Mapping[str, Array], rng: np.random.Generator
    ) -> None:
        self.model, self.gain, self.room, self.rng = model, gain, room, rng
        self.new: dict[tuple[str, str], float] = {}

    def _fresh(self, what: str, name: str, width: float) -> float:
        key = (what, name)
        if key not in self.new:
            self.new[key] = float(self.rng.normal(0.0, width))
        return self.new[key]

    def of(self, state: State) -> tuple[float, float]:
        """(gain against the start, smallest room) of a program in this world."""
        described = features(state, self.model.start, self.model.catalogue)
        row = self.model._design([described])[0]
        unseen = [(k, v) for k, v in sorted(described.items()) if k not in self.model.columns]
        gain = float(row @ self.gain) + sum(v * self._fresh("gain", k, PRIOR_GAIN[k[0]]) for k, v in unseen)
        rooms = [
            1.0 + float(row @ effects) + sum(v * self._fresh(name, k, PRIOR_ROOM[k[0]]) for k, v in unseen)
            for name, effects in self.room.items()
        ]
        return gain, min(rooms, default=1.0)
