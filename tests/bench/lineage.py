"""Speed of the lineage store at 1k to 1M rows, beside one file per trial and beside reading all with pandas.

    python -m tests.bench.lineage [--sizes 1000 10000 100000] [--million] [--s3] [--json FILE]

Each campaign is built as the engine leaves it: parts of 256 events, packs, the same columns. CPU seconds stand
beside wall seconds, because a shared machine stretches only the latter. `context` is the set of questions
that one prompt asks. Targets (issue 4): context at 100k rows <= 50 ms warm and <= 1 s cold; an append at the
largest size within 2x of one at 1k.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lineage.ids import sha256, uuid7
from lineage.log.journal import Journal
from lineage.log.log_reader import COMPACT_AT, Lineage
from lineage.log.parquet_files import Footer, encode_part, part_key
from lineage.queries import View
from lineage.records import Row
from lineage.schema import StoredRow, seal
from lineage.store.objects import Store, open_store

C = "c-bench"
ROLES = ("arch", "opt", "reg", "aug", "loss")
FAILED = {
    "crash": "oom",
    "rejected": "duplicate",
    "size_blocked": "oversize",
    "eval_budget_overrun": "cpu_cap",
}
VOCABULARY = (
    "increase reduce learning rate warmup batch size dropout swap optimizer schedule cosine depth width residual norm"
    " seed clip gradient augment cache prune muon nesterov momentum"
)
WORDS = VOCABULARY.split()


def make_row(number: int, rng: random.Random, total: int) -> Row:
    """A trial row with every column that a real one fills; about 4 % keeps and 40 % failures."""
    luck = rng.random()
    status = "keep" if luck < 0.04 else "discard" if luck < 0.6 else rng.choice(list(FAILED))
    status = "baseline" if number == 0 else status
    score = None if status in ("crash", "rejected") else 10 - number / total + rng.random()
    sha = {
        name: hashlib.sha256(f"{name}{number}".encode()).hexdigest()
        for name in ("s", "a", "d", "p", "e", "m")
    }
    return Row.model_validate(
        {
            "event": "trial", "campaign": C, "environment": "airbench_mini", "arm": "specialists",
            "trial": f"t{number:07d}", "role": rng.choice(ROLES), "proposer": "catalogue",
            "edit_kind": rng.choice(("constant", "definition", "new_unit")), "operator": rng.choice(("numeric", "technique")),
            "parent": None if number == 0 else f"t{int(number * rng.random() ** 0.2):07d}", "incumbent": "t0000000",
            "hypothesis": " ".join(rng.choices(WORDS, k=25)), "expected_delta": -0.1, "notes": " ".join(rng.choices(WORDS, k=50)),
            "status": status, "cause": FAILED.get(status), "numbers_json": '{"bytes_over":12}', "stage": "label",
            "score": score, "scores": [] if score is None else [score], "seeds": [rng.getrandbits(40)],
            "delta_parent": None if score is None else rng.gauss(0, 0.1), "delta_best": None if score is None else 0.1,
            "quantities_json": '{"accuracy":0.9612,"cpu_seconds":3.12}', "artifact_bytes": 10**6 + number,
            "source_bytes": 26000, "source_sha256": sha["s"], "ast_sha256": sha["a"], "diff_sha256": sha["d"],
            "prompt_sha256": sha["p"], "exchange_sha256": sha["e"], "measurement_sha256": sha["m"],
            "evaluator_sha256": "e" * 64, "environment_sha256": "f" * 64, "isolation": "strong", "machine": "linux-x86_64",
            "bakeoff_version": "0.1.0", "tokens_in": 1000, "tokens_out": 200, "propose_s": 0.2, "patch_s": 0.1,
            "build_s": 2.0, "train_s": 15.0, "evaluate_s": 2.0, "label_s": 0.01, "train_cpu_s": 14.0,
            "t_started": datetime.now(UTC), "t_finished": datetime.now(UTC), "detail_json": '{"leader":"t0000000"}',
        }
    )  # fmt: skip


def build(store: Store, total: int, baselines: Path | None = None) -> None:
    """Write `total` rows as parts of COMPACT_AT and their packs; beside it, one JSON file per trial."""
    rng = random.Random(1)
    prev: str | None = None
    part_sha: str | None = None
    records: list[StoredRow] = []
    number = rows_before = 0
    for at in range(total):
        row = make_row(at, rng, total)
        record = seal(row, event_id=uuid7(), writer="engine-00", seq=at, prev=prev, now=datetime.now(UTC))
        prev = record["row_sha256"]
        records.append(record)
        if baselines is not None:
            (baselines / f"{row.trial}.json").write_text(row.model_dump_json())
        if len(records) == COMPACT_AT or at == total - 1:
            number += 1
            covers = tuple(f"{r['event_id']}-{r['row_sha256'][:16]}.parquet" for r in records)
            data = encode_part(records, Footer(number, part_sha, rows_before, len(records), covers, ()))
            store.create(part_key(C, number), data)
            part_sha, rows_before, records = sha256(data), rows_before + len(records), []
    table = Lineage(store, C, "min")
    table.refresh()
    table.pack()


def context(view: View, role: str = "opt") -> None:
    """What one prompt asks."""
    leader = view.row_of_leader()
    view.row_of_incumbent()
    view.baseline()
    view.chain(str(leader.trial) if leader else "")
    view.recent(12)
    view.by_role(role, 12)
    view.neighbours(role, 8)
    view.failures(role, 8)
    view.failures(None, 24)
    view.failure_counts()
    for by in ("role", "edit_kind", "operator"):
        view.hit_rates(by)
    view.has_program("0" * 64)
    view.open_trials()


def timed(call: Callable[[], Any], repeat: int = 1) -> tuple[float, float, Any]:
    """Best wall and CPU milliseconds of some repeats, and the last result."""
    best, result = (float("inf"), float("inf")), None
    for _ in range(repeat):
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        best = min(best, ((time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3))
    return (*best, result)


def append_figures(store: Store, count: int) -> dict[str, float]:
    """Latency of single appends to a campaign that already holds its rows; the rows are compacted afterwards."""
    journal = Journal(store, C, "bench")
    rng = random.Random(2)
    journal.append(make_row(0, rng, 1).model_copy(update={"event": "intervention"}))
    walls, cpu = [], time.process_time()
    for number in range(count):
        row = make_row(number, rng, count).model_copy(update={"event": "intervention"})
        wall = time.perf_counter()
        journal.append(row)
        walls.append((time.perf_counter() - wall) * 1e3)
    cpu = (time.process_time() - cpu) / count * 1e3
    walls.sort()
    return {"append p50": walls[count // 2], "append p99": walls[int(count * 0.99)], "append cpu": cpu}


def warm_figures(store: Store, repeat: int = 9) -> dict[str, float]:
    """Refresh with one new event plus the context query, as before every prompt of a running campaign."""
    table = Lineage(store, C, "min")
    context(table.refresh())
    journal = Journal(store, C, "bench")
    rng = random.Random(3)
    walls, cpus = [], []
    for number in range(repeat):
        journal.append(make_row(number + 1, rng, 10).model_copy(update={"trial": f"w{number}-{os.getpid()}"}))
        wall, cpu, _ = timed(lambda: context(table.refresh()))
        walls.append(wall)
        cpus.append(cpu)
    return {"context warm": statistics.median(walls), "context warm cpu": statistics.median(cpus)}


def cold_figures(store: Store) -> dict[str, float]:
    wall, cpu, view = timed(lambda: Lineage(store, C, "min").refresh())
    more, more_cpu, _ = timed(lambda: context(view))
    best, _, _ = timed(lambda: view.neighbours("", 20), 3)
    failures, _, _ = timed(view.failure_counts, 3)
    return {
        "full read": wall, "full read cpu": cpu, "context cold": wall + more, "context cold cpu": cpu + more_cpu,
        "best 20": best, "failure counts": failures,
    }  # fmt: skip


def pandas_figures(folder: Path) -> dict[str, float]:
    """The same questions by reading the whole directory with pandas each time."""
    import pandas as pd

    def ask() -> None:
        frame = pd.read_parquet(folder / f"lineage/campaign={C}")
        frame.nsmallest(20, "score")
        frame.groupby(["status", "cause"]).size()
        frame.groupby("role")["status"].value_counts()

    wall, cpu, _ = timed(ask)
    return {"pandas all": wall, "pandas all cpu": cpu}


def files_figures(folder: Path) -> dict[str, float]:
    """The same with one JSON file per trial."""

    def ask() -> None:
        rows = [json.loads(path.read_bytes()) for path in folder.iterdir()]
        sorted((row for row in rows if row["score"] is not None), key=lambda row: row["score"])[:20]
        counts: dict[Any, int] = {}
        for row in rows:
            counts[row["status"], row["cause"]] = counts.get((row["status"], row["cause"]), 0) + 1

    wall, cpu, _ = timed(ask)
    return {"file per trial": wall, "file per trial cpu": cpu}


def measure(root: str, total: int, appends: int) -> dict[str, float]:
    folder = Path(tempfile.mkdtemp(prefix="bench-files-"))
    store = open_store(root, create=True)
    small = total <= 100_000 and not root.startswith("s3://")
    build(store, total, folder if small else None)
    figures = cold_figures(store)
    if not root.startswith("s3://"):
        figures |= pandas_figures(Path(root))
    if small:
        figures |= files_figures(folder)
    shutil.rmtree(folder)
    return figures | warm_figures(store) | append_figures(store, appends)


def show(title: str, results: dict[int, dict[str, float]]) -> None:
    names = list(dict.fromkeys(name for figures in results.values() for name in figures))
    print(f"\n{title} (ms; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")
    print("| what | " + " | ".join(f"{size:,} rows" for size in results) + " |")
    print("| --- |" + " ---: |" * len(results))
    for name in names:
        cells = [f"{figures[name]:.1f}" if name in figures else "" for figures in results.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")


def targets(results: dict[int, dict[str, float]]) -> Iterator[str]:
    at = results.get(100_000)
    if at:
        for name, limit in (("context warm", 50.0), ("context cold", 1000.0)):
            for kind in (name, f"{name} cpu"):
                yield f"{kind} at 100k: {at[kind]:.0f} ms, target {limit:.0f}: {'met' if at[kind] <= limit else 'MISSED'}"
    low, high = min(results), max(results)
    for name in ("append p50", "append cpu"):
        ratio = results[high][name] / results[low][name]
        yield f"{name} at {high:,} against {low:,}: x{ratio:.2f}, target 2: {'met' if ratio <= 2 else 'MISSED'}"
    if at and "pandas all" in at:
        yield f"warm context against pandas reading all at 100k: x{at['pandas all'] / at['context warm']:.0f} faster"
        yield f"warm context against one file per trial at 100k: x{at['file per trial'] / at['context warm']:.0f} faster"


def on_s3(sizes: list[int], appends: int) -> dict[int, dict[str, float]]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from s3server import BUCKET, S3Server

    with tempfile.TemporaryDirectory() as folder, S3Server(Path(folder)) as server:
        os.environ.update(server.environ)
        return {size: measure(f"s3://{BUCKET}/{size}", size, appends) for size in sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument(
        "--million", action="store_true", help="also one million rows: minutes, 3 GB of memory"
    )
    parser.add_argument("--s3", action="store_true", help="also on a SeaweedFS of its own, up to 100k rows")
    parser.add_argument("--appends", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = [*options.sizes, *([1_000_000] if options.million else [])]
    results: dict[str, dict[int, dict[str, float]]] = {"local": {}}
    with tempfile.TemporaryDirectory(prefix="bench-lineage-") as folder:
        for size in sizes:
            results["local"][size] = measure(f"{folder}/{size}", size, options.appends)
            print(f"{size:,} rows done", file=sys.stderr, flush=True)
    show("Local folder", results["local"])
    for line in targets(results["local"]):
        print(line)
    if options.s3:
        results["s3"] = on_s3([size for size in sizes if size <= 100_000], options.appends)
        show("SeaweedFS on loopback", results["s3"])
        for line in targets(results["s3"]):
            print(line)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
