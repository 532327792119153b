"""Prompt bench: render time and size at 100, 1,000, 10,000 and 100,000 rows of lineage.

    python -m tests.bench.prompt [--rows 100000] [--json FILE]

Prints, per length, the first render (cold view: columns not built yet) and the median of ten warm
ones, each with a new role in turn, beside a baseline measured in the same run: a prompt that shows
every row on one line, as systems without a budget do. Targets: warm <= 100 ms, the same size throughout.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from agents.llm.prompt import render, size_limit
from agents.llm.trial_text import trial_line
from lineage.environment_spec import Role
from tests.fakes import lab

LENGTHS = (100, 1_000, 10_000, 100_000)


def measure(length: int) -> dict[str, float | int]:
    shown = lab.view(lab.rows(length))
    roles = [*lab.ROLES, Role(name="loop", surfaces=("loop",), brief="# Loop"), *lab.ROLES]
    began = time.perf_counter()
    first = render(lab.request(shown=shown, role=roles[0]))
    cold = time.perf_counter() - began
    warm, cpu = [], []
    for number in range(10):
        began, busy = time.perf_counter(), time.process_time()
        render(lab.request(shown=shown, role=roles[number % len(roles)]))
        warm.append(time.perf_counter() - began)
        cpu.append(time.process_time() - busy)
    began = time.perf_counter()
    everything = "\n".join(trial_line(lab.SPEC, row, 520) for row in shown.trials())
    naive = time.perf_counter() - began
    return {
        "rows": length,
        "cold_ms": round(1e3 * cold, 1),
        "warm_ms": round(1e3 * statistics.median(warm), 1),
        "warm_cpu_ms": round(1e3 * statistics.median(cpu), 1),
        "warm_worst_ms": round(1e3 * max(warm), 1),
        "chars": len(first.text),
        "all_rows_ms": round(1e3 * naive, 1),
        "all_rows_chars": len(everything),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=LENGTHS[-1], help="longest lineage")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    figures = []
    print(f"limit {size_limit()} characters")
    print(
        f"{'rows':>8} {'cold ms':>9} {'warm ms':>9} {'warm CPU':>9} {'worst':>9} {'chars':>8} {'all rows ms':>12} {'all rows chars':>15}"
    )
    for length in [n for n in LENGTHS if n <= args.rows]:
        found = measure(length)
        figures.append(found)
        print(
            f"{found['rows']:>8} {found['cold_ms']:>9} {found['warm_ms']:>9} {found['warm_cpu_ms']:>9} {found['warm_worst_ms']:>9} "
            f"{found['chars']:>8} {found['all_rows_ms']:>12} {found['all_rows_chars']:>15}"
        )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
