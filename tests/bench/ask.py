"""Ask bench: what one proposal of the embedded proposer costs over lineages of growing length.

    python -m tests.bench.ask [--rows 1000] [--json FILE]

Prints thread CPU milliseconds (median of nine asks with sources read) beside a baseline measured in the
same run: plain TPE over the same constants that is told of every row, as an optimiser without a budget
is. The ratio is what to compare between machines. Target: 100 ms at 1,000 rows on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from agents.catalogue import candidates, recipe_constants, tpe
from agents.catalogue.candidates import Parent, Setting
from agents.catalogue.memory import Memory
from agents.catalogue.proposer import CatalogueProposer
from agents.catalogue.technique import Catalogue, load_catalogue
from lineage.queries import View
from tests.fakes.told import ENVIRONMENT, ROLES, SPEC, START, Campaign, epochs_work, lengthen, play

LENGTHS = (30, 100, 300, 1_000, 3_000)
ASKS = 9


def milliseconds(call: Callable[[int], Any]) -> float:
    call(0)
    taken = []
    for seed in range(ASKS):
        begin = time.thread_time()
        call(seed)
        taken.append(time.thread_time() - begin)
    return round(1e3 * statistics.median(taken), 1)


def baseline(view: View, catalogue: Catalogue, seed: int) -> None:
    """TPE over the role's constants, told of every row."""
    memory = Memory.of(view, SPEC)
    setting = Setting(
        spec=SPEC,
        role=ROLES["opt"],
        catalogue=catalogue,
        memory=memory,
        files_of=lambda trial: START,
        start={key: number.value for key, number in recipe_constants.numbers(START).items()},
        rng=random.Random(seed),
        seed=seed,
    )
    start = Parent(memory.trials["t0000"], "the start", START, memory.states["t0000"])
    with mock.patch.object(tpe, "MAX_TRIALS", 10**9):
        candidates.by_tpe(setting, start, every=True)


def measure(length: int, proposer: CatalogueProposer, catalogue: Catalogue) -> dict[str, float | int]:
    campaign = Campaign()
    play(campaign, proposer, 25, epochs_work)
    view = lengthen(campaign, length)
    asked = campaign.ask("opt", 0)  # builds a view of its own, which is not what is timed here

    def ask(seed: int) -> None:
        proposer.propose(replace(asked, view=view, seed=seed))

    ours, plain = milliseconds(ask), milliseconds(lambda seed: baseline(view, catalogue, seed))
    return {"rows": length, "ask_ms": ours, "plain_tpe_ms": plain, "ratio": round(ours / plain, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000, help="longest lineage")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    catalogue, figures = load_catalogue(ENVIRONMENT.techniques), list[dict[str, float | int]]()
    proposer = CatalogueProposer(ENVIRONMENT.techniques)
    print(f"{'rows':>6} {'ask ms':>8} {'plain TPE ms':>13} {'ratio':>6}")
    for length in [n for n in LENGTHS if n <= args.rows]:
        found = measure(length, proposer, catalogue)
        figures.append(found)
        print(
            f"{found['rows']:>6} {found['ask_ms']:>8} {found['plain_tpe_ms']:>13} {found['ratio']:>6}",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
