"""Proposers on invented landscapes: what a change of the proposer does, in minutes instead of hours.

    python -m tests.bench.search_world [--like airbench_mini|nanochat_mini] [--worlds 20] [--trials 40]
                                       [--arm ARM]... [--scale 1.0] [--jobs 2]

Everything is real but the measurement: catalogue, edits, labels, confirmations of gates. Scores come
from a world that is drawn anew for every seed. Like airbench_mini: most techniques do nothing or cost a
little, one in eight gives 5 to 40 per cent and takes room; the constants of repeatable techniques trade
room for score with growing losses; the other constants have an optimum. Like nanochat_mini: much noise, a
score to raise, and a cap on seconds that techniques and numbers multiply (`tests.bench.search_landscapes`).
All arms meet the same worlds. `--scale 0.15` makes the gains those of bits per byte.

Printed per arm: true gain of the last leader that truly keeps its gate, area under the same, and the
difference of the first arm to it, paired by world, with 95 % bootstrap intervals. Limits: effects add up, so
interactions that lineage could learn are not there; a result here is a reason to spend hours, no result.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from agents.catalogue import recipe_constants
from agents.catalogue.memory import EditState, parse_delta
from agents.catalogue.proposer import SEARCH_ARMS, CatalogueProposer
from agents.catalogue.technique import load_catalogue
from flows.environments.loading import Environment, load_environment
from lineage.records import Measurement, Row, Status
from tests.bench.search import interval, shown
from tests.bench.search_landscapes import NoisyWorld, World
from tests.bench.search_play import Campaign, Files

WORLDS: dict[str, type[World]] = {"airbench_mini": World, "nanochat_mini": NoisyWorld}
RUNS = {"airbench_mini": 5, "nanochat_mini": 1}  # per measurement, as in the figures of recipes/README.md


@dataclass
class Played(Campaign):
    """A campaign whose measurements come from the world of `worker`."""

    states: dict[str, EditState] = field(default_factory=dict)
    true: list[float] = field(default_factory=list)

    def measure(self, trial: str, files: Files, more: dict[str, Any]) -> Row:
        before = self.states.get(more.get("parent", ""), EditState())
        self.states[trial] = before.plus(parse_delta(more["notes"]), trial) if more else EditState()
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
        for row in sorted(keeps, key=lambda r: -self.environment.spec.sign * (r.score or 0.0)):
            gain, room = self._world.truth(self.states[row.trial or ""])
            if room >= 0:
                self.true.append(gain)
                return
        self.true.append(0.0)


def play_world(arm: str, seed: int, trials: int, scale: float, like: str = "airbench_mini") -> dict[str, Any]:
    environment: Environment = load_environment(like)
    catalogue = load_catalogue(environment.techniques)
    start = {key: number.value for key, number in recipe_constants.numbers(environment.source()).items()}
    world = WORLDS[like].drawn(catalogue, start, seed, scale)
    proposer = CatalogueProposer(environment.techniques)
    campaign = Played(environment, world, proposer, arm, seed, RUNS[like])  # type: ignore[arg-type]
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
    parser.add_argument("--like", choices=sorted(WORLDS), default="airbench_mini")
    parser.add_argument("--worlds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--arm", action="append", choices=SEARCH_ARMS)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    rng, first = random.Random(1), dict[str, list[float]]()
    arms = options.arm or list(SEARCH_ARMS)
    with ProcessPoolExecutor(options.jobs) as pool:
        for arm in arms:
            seeds = range(options.first, options.first + options.worlds)
            waiting = [
                pool.submit(play_world, arm, seed, options.trials, options.scale, options.like)
                for seed in seeds
            ]
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
