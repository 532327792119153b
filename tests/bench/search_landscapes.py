"""Invented landscapes for `tests.bench.search_world`: true effects of techniques and numbers, and noisy runs.

Use: `World.drawn(catalogue, start, seed, scale)` or `NoisyWorld.drawn(...)`; `truth(state)` is (gain, room), `ask` gives
facts per seed as `search_worker` does. Limits: effects add up; no technique needs another.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.catalogue import recipe_constants
from agents.catalogue.memory import EditState
from agents.catalogue.technique import Catalogue, Range
from tests.bench.search_play import REFERENCE_S

START_S, GATE, SPARE, SD = 2.2, 0.96, 0.0138, 0.0033  # of airbench_mini, as calibrated
WORKS, BREAKS, RUINS, NOISE = 0.12, 0.03, 0.05, 0.015


@dataclass
class World:
    """Like airbench_mini: seconds to a gate on accuracy. Stands in for the worker; `now` is the program asked about."""

    start: Mapping[str, float]
    ranges: Mapping[str, Range]
    techniques: dict[str, tuple[float, float]]
    trades: dict[str, tuple[float, float, float]]
    optima: dict[str, tuple[float, float]]
    broken: frozenset[str]
    scale: float
    now: EditState = field(default_factory=EditState)

    @classmethod
    def drawn(cls, catalogue: Catalogue, start: Mapping[str, float], seed: int, scale: float) -> World:
        rng = random.Random(f"world {seed}")
        effects = dict[str, tuple[float, float]]()
        trades = dict[str, tuple[float, float, float]]()
        for technique in catalogue.techniques:
            if technique.repeatable:
                lead = technique.constants[0]
                for constant in technique.constants:
                    way = -1.0 if constant.scale and constant.scale[1] < 1 else 1.0
                    if constant is lead or way < 0:
                        trades[constant.key] = (way, rng.uniform(0.3, 0.9), rng.uniform(0.2, 0.6))
                continue
            if rng.random() < WORKS:
                gain = rng.uniform(0.05, 0.4)
                effects[technique.name] = (gain, -gain * rng.uniform(0.0, 2.0))
            else:
                room = rng.gauss(0.0, 0.15) if technique.aim == "room" else rng.gauss(-0.2, 0.25)
                room -= 4.0 * (rng.random() < RUINS)
                effects[technique.name] = (rng.gauss(-0.03, 0.04), room)
        optima = {k: (rng.gauss(0.0, 0.15), rng.uniform(0.5, 4.0)) for k in start if k not in trades}
        names = [t.name for t in catalogue.techniques if not t.repeatable]
        broken = frozenset(name for name in names if rng.random() < BREAKS)
        return cls(dict(start), catalogue.ranges, effects, trades, optima, broken, scale)

    def truth(self, state: EditState) -> tuple[float, float]:
        """(gain, room), room 1 at the start."""
        gain, room = 0.0, 1.0
        for name in state.techniques:
            more, less = self.techniques.get(name, (0.0, 0.0))
            gain, room = gain + more, room + less
        for key, value in state.numbers.items():
            if key not in self.start or value <= 0 or self.start[key] <= 0:
                continue
            if key in self.trades:
                way, steep, price = self.trades[key]
                far = way * math.log(value / self.start[key])
                gain, room = gain + steep * far, room - price * (far + max(far, 0.0) ** 2)
            elif key in self.ranges:
                room += self._by_optimum(key, value)
        return gain * self.scale, room

    def _by_optimum(self, key: str, value: float) -> float:
        """What moving a constant towards its optimum gives, or away from it takes."""
        span, (best, narrow) = self.ranges[key], self.optima[key]
        moved = recipe_constants.unit(value, span) - recipe_constants.unit(self.start[key], span)
        return narrow * (best * best - (moved - best) ** 2)

    def ask(self, source: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Facts per seed, as `search_worker` gives them."""
        if self.now.techniques & self.broken:
            return [{"cause": "crash", "detail": "the world broke it"}]
        facts = [self._run(seed) for seed in seeds]
        failed = next((at for at, run in enumerate(facts) if "cause" in run), len(facts))
        return facts[: failed + 1]

    def _run(self, seed: int) -> dict[str, Any]:
        rng = random.Random(f"{seed} {sorted(self.now.techniques)}")
        gain, room = self.truth(self.now)
        seconds = START_S * math.exp(-gain) * math.exp(rng.gauss(0.0, NOISE * self.scale))
        wider = SD * (1.0 + 0.5 * max(0.0, 1.0 - room))
        accuracy = GATE + 0.95 * SD + SPARE * room + rng.gauss(0.0, wider)
        return {
            "cpu_seconds": seconds,
            "train_cpu_s": seconds,
            "predict_cpu_s": 0.2,
            "accuracy": accuracy,
            "artifact_bytes": 230_000,
            "reference_s": REFERENCE_S,
        }

    def close(self) -> None:
        """Nothing runs."""


# As calibrated on nanochat_mini: centered accuracy of the start and of 1 sd, CPU seconds of the start, their cap.
START_SCORE, SCORE_SD, START_CPU_S, CAP_S = 0.104, 0.0115, 9.9, 40.0
TRADES = {  # gain and logarithm of the cost per factor of e, each drawn from a range
    "schedule.py:STEPS": ((0.4, 0.6), (1.0, 1.0)),
    "model.py:WIDTH": ((0.1, 0.35), (0.6, 1.0)),
    "text.py:BATCH": ((0.0, 0.3), (0.9, 0.9)),
}


@dataclass
class NoisyWorld(World):
    """Like nanochat_mini: a score that scatters by a ninth of the start's, CPU seconds that multiply up to a hard cap.

    One technique in seven gives 5 to 50 per cent of the start's score and costs up to a third more seconds; the rest
    do nothing or a little harm. Longer training has falling returns.
    """

    costs: dict[str, float] = field(default_factory=dict)

    @classmethod
    def drawn(cls, catalogue: Catalogue, start: Mapping[str, float], seed: int, scale: float) -> NoisyWorld:
        rng = random.Random(f"noisy world {seed}")
        names = [t for t in catalogue.techniques if not t.repeatable]
        effects, costs = dict[str, tuple[float, float]](), dict[str, float]()
        for technique in names:
            if technique.aim == "room":
                gain, cost = rng.gauss(0.0, 0.02), rng.gauss(-0.03, 0.1)
            elif rng.random() < 1 / 7:
                gain, cost = rng.uniform(0.05, 0.5), rng.uniform(0.0, 0.3)
            else:
                gain, cost = rng.gauss(-0.04, 0.06), abs(rng.gauss(0.0, 0.1))
            effects[technique.name], costs[technique.name] = (gain, 0.0), cost
        trades = {key: (1.0, rng.uniform(*gain), rng.uniform(*cost)) for key, (gain, cost) in TRADES.items()}
        optima = {k: (rng.gauss(0.0, 0.15), rng.uniform(0.2, 1.5)) for k in start if k not in trades}
        broken = frozenset(t.name for t in names if rng.random() < BREAKS)
        return cls(dict(start), catalogue.ranges, effects, trades, optima, broken, scale, EditState(), costs)

    def truth(self, state: EditState) -> tuple[float, float]:
        """(gain in units of the start's score, room of the CPU cap, 1 at the start)."""
        gain = sum(self.techniques.get(name, (0.0, 0.0))[0] for name in state.techniques)
        cost = sum(self.costs.get(name, 0.0) for name in state.techniques)
        for key, value in state.numbers.items():
            if key not in self.start or value <= 0 or self.start[key] <= 0:
                continue
            if key in self.trades:
                _, steep, price = self.trades[key]
                far = math.log(value / self.start[key])
                gain, cost = gain + steep * far - 0.08 * max(far, 0.0) ** 2, cost + price * far
            elif key in self.ranges:
                gain += self._by_optimum(key, value)
        return max(gain * self.scale, -0.9), (CAP_S - START_CPU_S * math.exp(cost)) / (CAP_S - START_CPU_S)

    def _run(self, seed: int) -> dict[str, Any]:
        rng = random.Random(f"{seed} {sorted(self.now.techniques)}")
        gain, room = self.truth(self.now)
        seconds = (CAP_S - room * (CAP_S - START_CPU_S)) * math.exp(rng.gauss(0.0, 0.03))
        if seconds > CAP_S:
            return {"cause": "cpu_cap", "detail": "stopped at the cap"}
        return {
            "centered_accuracy": START_SCORE * (1.0 + gain) + rng.gauss(0.0, SCORE_SD),
            "bits_per_byte": 3.1 - 0.4 * min(gain, 2.0),
            "cpu_seconds": seconds,
            "train_cpu_s": seconds,
            "predict_cpu_s": 5.0,
            "artifact_bytes": 400_000,
            "reference_s": REFERENCE_S,
        }
