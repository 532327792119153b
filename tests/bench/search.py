"""Does the proposer find more when it reads lineage? Equal campaigns per arm, compared with intervals.

    python -m tests.bench.search ENVIRONMENT --data DIR [--arm ARM]... [--campaigns 5] [--trials 40]
                                 [--runs N] [--jobs 1] [--out FILE.jsonl]
    python -m tests.bench.search ENVIRONMENT --out FILE.jsonl --only-summary
    python -m tests.bench.search ENVIRONMENT --engine --data DIR ...

Arms: `lineage`, `no_lineage`, `random`, `numbers_only` (see agents.catalogue.proposer). Each campaign is one
line of FILE.jsonl as soon as it ends, so a bench that takes hours can be stopped and continued.

Printed per arm: final gain over the start, confirmed with fresh seeds on leader and start side by
side; area under best-so-far (mean gain of the leader over all trials); trials by outcome; each with a
95 % bootstrap interval over campaigns, and the difference of each arm to `lineage`.

The default (direct) mode runs candidates in forked processes without sandbox and judge, with the
environment's own gates and labels on the same quantities; it leaves out what costs the engine time. Of
confirmations it keeps what steers a search: a keep that misses a gate on fresh seeds leads no more. For
a score in CPU seconds each run is divided by a reference piece of work done beside it, since a busy
machine has changed CPU seconds by up to a third. `--engine` runs whole campaigns with `bakeoff run`
(arms lineage, no_lineage and random) and reads their confirmed champions.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agents.catalogue.proposer import SEARCH_ARMS
from flows.environments.loading import Environment, load_environment
from lineage.records import Status
from tests.bench.search_play import ROOT, gain, play

# ---- whole campaigns through the engine -----------------------------------------------------------

ENGINE_ARMS = {"lineage": "specialists", "no_lineage": "no_lineage", "random": "random"}


def play_engine(
    environment: Environment, data: Path, arm: str, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """One campaign with `bakeoff run`, read back from its store."""
    from lineage.log.log_reader import Lineage
    from lineage.store.objects import open_store

    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "run"
        command = [
            sys.executable,
            "-m",
            "flows.cli",
            "run",
            str(environment.folder),
            "--run",
            str(store),
            "--plain",
        ]
        command += [
            "--arm",
            ENGINE_ARMS[arm],
            "--trials",
            str(options.trials),
            "--seed",
            str(seed),
            "--slots",
            "1",
        ]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(
            command, cwd=ROOT, env=environ, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr
        )
        opened = open_store(store)
        campaign = next(iter(opened.list("lineage/"))).split("campaign=")[1].split("/")[0]
        view = Lineage(opened, campaign).refresh()
        rows, start, champion = view.trials(), view.baseline(), view.row_of_incumbent()
        assert start is not None and start.score is not None and champion is not None
        best, area = start.score, []
        for row in rows[1:]:
            if row.status is Status.KEEP and row.score is not None:
                best = row.score
            area.append(gain(environment, best, start.score))
        gained = champion.gain / abs(start.score) if champion.gain is not None else 0.0
    return {
        "environment": environment.spec.name,
        "arm": arm,
        "seed": seed,
        "trials": len(rows) - 1,
        "final": abs(gained),
        "winner": champion.trial,
        "area": statistics.fmean(area or [0.0]),
        "best": area,
        "outcomes": dict(Counter((row.cause or row.status or "").split(":")[0] for row in rows[1:])),
        "wall_s": round(time.perf_counter() - begin, 1),
    }


# ---- summary --------------------------------------------------------------------------------------


def interval(values: Sequence[float], rng: random.Random, draws: int = 4000) -> tuple[float, float, float]:
    """Mean and 95 % percentile bootstrap interval."""
    means = sorted(statistics.fmean(rng.choices(values, k=len(values))) for _ in range(draws))
    return statistics.fmean(values), means[int(0.025 * draws)], means[int(0.975 * draws)]


def difference(
    one: Sequence[float], two: Sequence[float], rng: random.Random, draws: int = 4000
) -> tuple[float, float, float]:
    """Mean of `one` minus mean of `two` with its bootstrap interval."""
    means = sorted(
        statistics.fmean(rng.choices(one, k=len(one))) - statistics.fmean(rng.choices(two, k=len(two)))
        for _ in range(draws)
    )
    return statistics.fmean(one) - statistics.fmean(two), means[int(0.025 * draws)], means[int(0.975 * draws)]


def shown(value: tuple[float, float, float]) -> str:
    return f"{100 * value[0]:6.1f} % [{100 * value[1]:5.1f}, {100 * value[2]:5.1f}]"


def calibration(lines: Sequence[dict[str, Any]]) -> str:
    """How often a forecast had the right sign, and its correlation with what was measured."""
    pairs = [(e, m) for line in lines for e, m in line.get("forecasts", ()) if e]
    if len(pairs) < 3:
        return ""
    told, seen = zip(*pairs, strict=True)
    right = sum((e > 0) == (m > 0) for e, m in pairs) / len(pairs)
    spread = statistics.pstdev(told) * statistics.pstdev(seen)
    if not spread or not math.isfinite(spread):
        return ""
    return f"  forecasts: right sign {100 * right:.0f} %, correlation {statistics.correlation(told, seen):.2f} (n {len(pairs)})"


def summarise(lines: Sequence[dict[str, Any]]) -> None:
    if not lines:
        print("no finished campaign to compare")
    rng = random.Random(1)
    by_arm = {arm: [x for x in lines if x["arm"] == arm] for arm in SEARCH_ARMS}
    base = by_arm["lineage"]
    for arm, played in by_arm.items():
        if not played:
            continue
        finals, areas = [x["final"] for x in played], [x["area"] for x in played]
        print(
            f"{arm:13s} n {len(played)}  final {shown(interval(finals, rng))}  area {shown(interval(areas, rng))}"
        )
        counts = Counter[str]()
        for line in played:
            counts.update(line["outcomes"])
        print(
            "  " + "  ".join(f"{name} {count}" for name, count in counts.most_common()) + calibration(played)
        )
        if arm != "lineage" and base:
            other = [x["final"] for x in base], [x["area"] for x in base]
            print(
                f"  lineage - {arm}: final {shown(difference(other[0], finals, rng))}"
                f"  area {shown(difference(other[1], areas, rng))}"
            )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("environment")
    parser.add_argument("--data", type=Path, help="folder written by the recipe's prepare.py")
    parser.add_argument("--arm", action="append", choices=SEARCH_ARMS)
    parser.add_argument("--campaigns", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--runs", type=int, help="runs per measurement; default the environment's")
    parser.add_argument("--confirm-runs", type=int, help="fresh runs at the end; default the environment's")
    parser.add_argument("--jobs", type=int, default=1, help="campaigns side by side")
    parser.add_argument("--out", type=Path, help="JSON lines, one per campaign; finished ones are skipped")
    parser.add_argument("--engine", action="store_true", help="whole campaigns with `bakeoff run`")
    parser.add_argument("--only-summary", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(argv)
    environment = load_environment(options.environment)
    lines = (
        [json.loads(x) for x in options.out.read_text().splitlines()]
        if options.out and options.out.exists()
        else []
    )
    lines = [x for x in lines if x["environment"] == environment.spec.name]
    done = {(x["arm"], x["seed"]) for x in lines}
    arms = options.arm or [arm for arm in SEARCH_ARMS if arm in ENGINE_ARMS or not options.engine]
    seeds = range(options.first_seed, options.first_seed + options.campaigns)
    todo = [(arm, seed) for seed in seeds for arm in arms if (arm, seed) not in done]

    def one(pair: tuple[str, int]) -> dict[str, Any]:
        run = play_engine if options.engine else play
        line = run(environment, options.data or environment.data, *pair, options)
        if options.out:
            with options.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
        print(
            f"{pair[0]} {pair[1]}: final {100 * line['final']:.1f} %, area {100 * line['area']:.1f} %, {line['wall_s']} s",
            flush=True,
        )
        return line

    if not options.only_summary:
        with ThreadPoolExecutor(options.jobs) as pool:
            lines += list(pool.map(one, todo))
    summarise(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
