"""Whole campaigns with candidates that do next to nothing: `python -m tests.bench.campaign [--quick] [--only PART]`.

Parts, each against a baseline that is measured in the same run:
  rate     trials per minute and the engine's CPU and wall per trial at 1, 2, 4, 8 at once; baseline: 1 at once
  busy     share of the time in which a training runs, when a proposal takes as long as a training and there is one
           slot; baseline: the same stages in a loop, one after the other
  growth   engine cost per trial at trial 10 and at trial 1,000, stages alone and (fewer trials) through Prefect;
           baseline: trial 10

Wall of the engine is a trial's wall without its candidate's, supervisor's and judge's processes; CPU is this process's
and, apart, the Prefect server's. Prints, never fails on a time. In `growth` the children's answers are those of one
real trial over and over, so that a thousand trials go through the real stages and store in a minute or two.
Limits: the Prefect server is on SQLite, as for `bakeoff run`; facts for PostgreSQL are in flows/MACHINES.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench.noop_campaign import Children, Slow, make, prepare, server_cpu

PARTS = ("rate", "busy", "growth")


def run_rate(folder: Path, at_once: int, trials: int) -> dict[str, Any]:
    """One campaign with `at_once` lanes, slots and trials under way."""
    prepare(folder, roles=at_once)
    children = Children()
    children.install()
    root, identifier = make(folder, f"rate{at_once}", trials, at_once, at_once)
    marks = _campaign(root, identifier)
    rows = {row.trial: row for row in marks["rows"][1:]}
    walls = [(row.t_finished - row.t_started).total_seconds() - children.of(t) for t, row in rows.items()]
    count = len(rows)
    return {
        "at_once": at_once,
        "trials": count,
        "per_minute": 60 * count / (marks["end"][0] - marks["start"][0]),
        "cpu_ms": 1000 * (marks["end"][1] - marks["start"][1]) / count,
        "wall_ms": 1000 * statistics.median(walls),
        "slowest_s": max((row.t_finished - row.t_started).total_seconds() for row in rows.values()),
        "server_ms": 1000 * (marks["end"][2] - marks["start"][2]) / count,
        "load": os.getloadavg()[0],
    }


def _campaign(root: str, identifier: str) -> dict[str, Any]:
    """Run it; clocks (wall, this process's CPU, the server's CPU) at the end of the baseline and of the last trial."""
    from flows.campaign.run_on_this_machine import run_campaign
    from flows.engine.live_events import RowWritten

    marks: dict[str, Any] = {"rows": [], "each": []}

    def on(event: Any) -> None:
        row = event.row if isinstance(event, RowWritten) else None
        if row is not None and row.event == "trial" and row not in marks["rows"]:
            clocks = (time.monotonic(), time.process_time(), server_cpu())
            marks["rows"].append(row)
            marks["each"].append(clocks)
            marks.setdefault("start", clocks)
            marks["end"] = clocks

    run_campaign(root, identifier, [on])
    return marks


def run_busy(folder: Path, seconds: float, trials: int, at_once: int) -> dict[str, Any]:
    """One slot, a proposal as long as a training. `at_once` 0: the stages in a loop, without Prefect."""
    prepare(folder, roles=max(2, at_once), sleep_s=seconds)
    children = Children()
    children.install()
    root, identifier = make(folder, f"busy{at_once}", trials, 1, max(1, at_once))
    from flows.engine.engine import engine_for

    engine = engine_for(root, identifier)
    engine.proposer = Slow(engine.proposer, seconds)
    if at_once:
        rows = _campaign(root, identifier)["rows"][1:]
    else:
        from tests.bench.noop_growth import stages_alone

        rows = stages_alone(engine, trials)[1:]
    spans = sorted((b, e) for trial, stage, b, e in children.spans if stage == "train" and trial != "t0000")
    # from the first training's start to the last one's: whole cycles, no run-in and no tail
    begin, end = spans[0][0], spans[-1][0]
    return {
        "at_once": at_once,
        "trials": len(rows),
        "training": children.busy(("train",), begin, end),
        "slot": children.busy(("smoke", "train", "judge"), begin, end),
        "cycle_s": (end - begin) / (len(spans) - 1),
        "load": os.getloadavg()[0],
    }


def run_growth(folder: Path, trials: int) -> dict[str, Any]:
    from tests.bench.noop_growth import grown

    prepare(folder)
    return grown(folder, trials)


def run_growth_prefect(folder: Path, trials: int) -> dict[str, Any]:
    from tests.bench.noop_growth import Recorded, window

    prepare(folder)
    root, identifier = make(folder, "growth-prefect", trials, 1, 1)
    Recorded().install()
    each = _campaign(root, identifier)["each"]
    cpu = [1000 * (b[1] - a[1]) for a, b in pairwise(each)]
    wall = [1000 * (b[0] - a[0]) for a, b in pairwise(each)]
    return {
        "trials": len(cpu),
        "cpu": [window(cpu, 10), window(cpu, len(cpu))],
        "wall": [window(wall, 10), window(wall, len(wall))],
        "server_ms": 1000 * (each[-1][2] - each[0][2]) / len(cpu),
    }


def child(task: str, *numbers: float) -> dict[str, Any]:
    """One measurement in a process of its own: a fresh Prefect, a fresh home."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.campaign", "--task", task, *map(str, numbers)],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
    )
    if done.returncode != 0:
        raise SystemExit(f"{task} {numbers}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def task(name: str, numbers: list[float]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="campaign-bench-") as text:
        folder = Path(text)
        if name == "rate":
            return run_rate(folder, int(numbers[0]), int(numbers[1]))
        if name == "busy":
            return run_busy(folder, numbers[0], int(numbers[1]), int(numbers[2]))
        if name == "growth":
            return run_growth(folder, int(numbers[0]))
        return run_growth_prefect(folder, int(numbers[0]))


def rate(quick: bool) -> None:
    print(
        "\nTrials per minute and what the engine costs (candidates and judge are real and take next to nothing)"
    )
    print("| at once | trials | trials/min | against 1 | engine CPU/trial | engine wall/trial (median) "
          "| slowest trial | Prefect server CPU/trial | load |\n|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    base = 0.0
    for at_once in (1, 2) if quick else (1, 2, 4, 8):
        got = child("rate", at_once, 6 if quick else 24 + 2 * at_once)
        base = base or got["per_minute"]
        print(
            f"| {at_once} | {got['trials']} | {got['per_minute']:.1f} | {got['per_minute'] / base:.2f}x "
            f"| {got['cpu_ms']:.0f} ms | {got['wall_ms']:.0f} ms | {got['slowest_s']:.1f} s "
            f"| {got['server_ms']:.0f} ms | {got['load']:.1f} |",
            flush=True,
        )


def busy(quick: bool, seconds: float) -> None:
    from flows.engine.settings import load_settings

    settings, _ = load_settings({"environment": "quick", "proposer": "anthropic", "slots": 1}, env={})
    of_an_llm = settings.trials_at_once(1)
    trials = 5 if quick else 14
    print(f"\nAccelerator busy: one slot, a proposal and a training take {seconds:.0f} s each")
    print(
        f"(an LLM campaign with one slot has {of_an_llm} trials under way; target 0.95, the loop gives 0.50 at best)"
    )
    print(
        "| trials under way | trainings | a training runs | smoke, training or judge runs | s per trial | against the loop | load |"
    )
    print("|---|---|---|---|---|---|---|")
    loop = 0.0
    for at_once in sorted({0, 1, 2, of_an_llm}):
        got = child("busy", seconds, trials, at_once)
        loop = loop or got["training"]
        name = (
            "loop of stages (baseline)"
            if at_once == 0
            else f"{at_once}" + (" (default)" if at_once == of_an_llm else "")
        )
        print(
            f"| {name} | {got['trials']} | {got['training']:.1%} | {got['slot']:.1%} | {got['cycle_s']:.1f} "
            f"| {got['training'] / loop:.2f}x | {got['load']:.1f} |",
            flush=True,
        )


def growth(quick: bool) -> None:
    got = child("growth", 60 if quick else 1000)
    print(
        f"\nGrowth of the engine's cost per trial (baseline: around trial 10; target 1.20x at trial 1,000), {got['trials']} trials"
    )
    print("| what | around trial 10 | around the last | ratio |\n|---|---|---|---|")
    for name, (first, last) in got["lines"].items():
        print(f"| {name} | {first:.1f} | {last:.1f} | {last / first:.2f}x |")
    print(f"store: {got['bytes_per_trial'] / 1024:.0f} KB a trial")
    got = child("growth-prefect", 20 if quick else 150)
    for name in ("cpu", "wall"):
        first, last = got[name]
        print(
            f"| through Prefect, {name} ms, trial {got['trials']} | {first:.0f} | {last:.0f} | {last / first:.2f}x |"
        )
    print(f"| Prefect server, CPU ms a trial | {got['server_ms']:.0f} | | |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few trials of each: does it run?")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--seconds", type=float, default=None, help="length of a proposal and of a training")
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(task(options.task[0], [float(number) for number in options.task[1:]])))
        return
    for part in PARTS:
        if options.only not in (None, part):
            continue
        if part == "rate":
            rate(options.quick)
        elif part == "busy":
            busy(options.quick, options.seconds or (4.0 if options.quick else 15.0))
        else:
            growth(options.quick)


if __name__ == "__main__":
    main()
