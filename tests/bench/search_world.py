"""Proposers on invented landscapes: what a change of the proposer does, in minutes instead of hours.

    python -m tests.bench.search_world [--worlds 20] [--trials 40] [--arm ARM]... [--scale 1.0] [--jobs 2]

Everything is real but the measurement: catalogue, edits, labels, confirmations of gates. Scores come
from a world that is drawn anew for every seed, in the shape that trials on airbench_mini had: most
techniques do nothing or cost a little, one in eight gives 5 to 40 per cent and takes room; the constants
of repeatable techniques trade room for score with growing losses; the other constants have an
optimum. All arms meet the same worlds. `--scale 0.15` makes the gains those of bits per byte.

Printed per arm: true gain of the last leader that truly keeps its gate, area under the same, and the
difference of the first arm to it, paired by world, with 95 % bootstrap intervals. Limits: effects add up, so
interactions that lineage could learn are not there; a result here is a reason to spend hours, no result.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.catalogue import constants
from agents.catalogue.memory import State, parse_delta
from agents.catalogue.proposer import ARMS, CatalogueProposer
from agents.catalogue.technique import Catalogue, Range, load_catalogue
from flows.environments import Environment, load_environment
from lineage.records import Measurement, Row, Status
from tests.bench.search import interval, shown
from tests.bench.search_play import REFERENCE_S, Campaign, Files

START_S, GATE, SPARE, SD = 2.2, 0.96, 0.0138, 0.0033  # of airbench_mini, as calibrated
WORKS, BREAKS, RUINS, NOISE = 0.12, 0.03, 0.05, 0.015


@dataclass
class World:
    """True effects; stands in for the worker that measures. `now` is the program to be asked about."""

    start: Mapping[str, float]
    ranges: Mapping[str, Range]
    techniques: dict[str, tuple[float, float]]
    trades: dict[str, tuple[float, float, float]]
    optima: dict[str, tuple[float, float]]
    broken: frozenset[str]
    scale: float
    now: State = field(default_factory=State)

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

    def truth(self, state: State) -> tuple[float, float]:
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
                span = self.ranges[key]
                moved = constants.unit(value, span) - constants.unit(self.start[key], span)
                best, narrow = self.optima[key]
                room += narrow * (best * best - (moved - best) ** 2)
        return gain * self.scale, room

    def ask(self, source: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Facts per seed, as `search_worker` gives them."""
        if self.now.techniques & self.broken:
            return [{"cause": "crash", "detail": "the world broke it"}]
        return [self._run(seed) for seed in seeds]

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


@dataclass
class Played(Campaign):
    """A campaign whose measurements come from the world of `worker`."""

    states: dict[str, State] = field(default_factory=dict)
    true: list[float] = field(default_factory=list)

    def measure(self, trial: str, files: Files, more: dict[str, Any]) -> Row:
        before = self.states.get(more.get("parent", ""), State())
        self.states[trial] = before.plus(parse_delta(more["notes"]), trial) if more else State()
        self._world.now = self.states[trial]
        return super().measure(trial, files, more)

    def _fresh(self, trial: str, runs: int) -> Measurement:
        self._world.now = self.states[trial]
        return super()._fresh(trial, runs)

    @property
    def _world(self) -> World:
        assert isinstance(self.worker, World)
        return self.worker

    def note(self) -> None:
        """The true gain of the best program so far that truly keeps its gate, by the order of measured scores."""
        struck = {row.trial for row in self.verdicts}
        keeps = [r for r in self.rows if r.status is Status.KEEP and r.trial not in struck]
        for row in sorted(keeps, key=lambda r: r.score or 0.0):
            gain, room = self._world.truth(self.states[row.trial or ""])
            if room >= 0:
                self.true.append(gain)
                return
        self.true.append(0.0)


def play_world(arm: str, seed: int, trials: int, scale: float) -> dict[str, Any]:
    environment: Environment = load_environment("airbench_mini")
    catalogue = load_catalogue(environment.techniques)
    start = {key: number.value for key, number in constants.numbers(environment.source()).items()}
    world = World.drawn(catalogue, start, seed, scale)
    proposer = CatalogueProposer(environment.techniques)
    campaign = Played(environment, world, proposer, arm, seed, environment.spec.evaluation.runs)  # type: ignore[arg-type]
    campaign.measure("t0000", environment.source(), {})
    number = 0
    while len(campaign.rows) <= trials and number < 3 * trials:
        if campaign.step(number) is not None:
            campaign.note()
        number += 1
    return {
        "arm": arm,
        "seed": seed,
        "final": campaign.true[-1],
        "area": statistics.fmean(campaign.true),
        "log": [
            f"{r.trial} {r.role or '':5s} {(r.operator or '')[:44]:44s} <- {r.parent} {r.status} {r.cause or '':12s}"
            f" {r.score or 0:.3f}  true {100 * t:.1f} %"
            for r, t in zip(campaign.rows[1:], campaign.true, strict=True)
        ],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--arm", action="append", choices=ARMS)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    rng, first = random.Random(1), dict[str, list[float]]()
    arms = options.arm or list(ARMS)
    with ProcessPoolExecutor(options.jobs) as pool:
        for arm in arms:
            seeds = range(options.first, options.first + options.worlds)
            waiting = [pool.submit(play_world, arm, seed, options.trials, options.scale) for seed in seeds]
            played = [future.result() for future in waiting]
            if options.verbose:
                print("\n".join(played[0]["log"]))
            found = {key: [line[key] for line in played] for key in ("final", "area")}
            told = [f"{key} {shown(interval(values, rng))}" for key, values in found.items()]
            if first:
                told.append(f" {arms[0]} - {arm}:")
                for key, values in found.items():
                    apart = [a - b for a, b in zip(first[key], values, strict=True)]
                    told.append(f"{key} {shown(interval(apart, rng))}")
            first = first or found
            print(f"{arm:13s} {'  '.join(told)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
