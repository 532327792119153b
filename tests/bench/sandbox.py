"""What the sandbox and the pipe cost, beside the same work without them in the same run.

    python -m tests.bench.sandbox [--repeat 20] [--tokens 1000000]

Start: the same no-op child bare, under bubblewrap alone, and through the whole path (supervisor,
control group, namespaces, filter, release of data, seal), started and forked. Scoring: answers of a predictor that only
copies, over the pipe and by a call in this process; then the judge's own arithmetic on them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import workbench as wb

from evaluators.judge import judge_process, metrics
from evaluators.judge.candidate_folders import stage, workplace
from evaluators.judge.judge_client import Bench
from evaluators.judge.questions import Questions, Sitting
from evaluators.judge.sandbox import bubblewrap, prove_level, supervisor_client, visible_packages
from evaluators.judge.sandbox.available_layers import CLEAN_ENV, program
from evaluators.judge.sandbox.fork_server_client import server_for
from lineage.environment_spec import EnvironmentSpec

NOOP = "def train(data, out, seed):\n    (out / 'x').write_bytes(b'1')\n"
COPYING = """
import numpy as np
def load(artifact):
    return np.random.default_rng(0).standard_normal(({rows}, {width}), dtype=np.float32)
def predict(model, inputs):
    return model[: len(inputs)]{shape}
"""


def timed(call: Callable[[], object], repeat: int) -> tuple[float, float]:
    """Minimum and median milliseconds."""
    taken = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1e3)
    return min(taken), statistics.median(taken)


def start_costs(folder: Path, repeat: int) -> None:
    isolation = prove_level.best()
    python = visible_packages.interpreter()
    bare = [python, "-I", "-S", "-c", "pass"]
    rows = {"bare child": timed(lambda: subprocess.run(bare, env=CLEAN_ENV, check=True), repeat)}
    bwrap = isolation.tools.bwrap
    if bwrap:
        caged = [
            bwrap,
            "--unshare-all",
            "--ro-bind",
            "/",
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--",
            *bare,
        ]
        rows["bubblewrap alone"] = timed(lambda: subprocess.run(caged, env=CLEAN_ENV, check=True), repeat)
    supervisor = program("evaluators.judge.sandbox.supervisor")
    rows["supervisor alone"] = timed(
        lambda: subprocess.run(supervisor, env=CLEAN_ENV, stdin=subprocess.DEVNULL, check=True), repeat
    )
    bench = wb.classification(folder)
    source = wb.write(folder / "noop", {"train.py": NOOP})

    def whole(*, forked: bool = False) -> None:
        with workplace(folder / "scratch") as place:
            (place / "sealed").mkdir()
            data = stage(bench.data / "train", place / "staged", link=True)
            limits = bubblewrap.limits_for(bench.spec.budget, 5, 60, writes=True)
            made = bubblewrap.Box(
                mode="train", folder=str(place), source=str(source), fake=str(bench.data / "fake"), data=str(data),
                collect=str(place / "sealed"), artifact_cap=1000, limits=limits,
            )  # fmt: skip
            server = server_for(isolation.tools, made) if forked else None
            final = supervisor_client.run(bubblewrap.request(made, isolation.tools, server=server))
            assert final["end"] == "exit", final

    rows["whole path"] = timed(whole, repeat)
    if isolation.prepared:
        rows["whole path, forked"] = timed(lambda: whole(forked=True), repeat)
    base = rows["bare child"][0]
    print(
        f"start of a no-op child, {repeat} times, load {os.getloadavg()[0]:.1f}, isolation {isolation.level}"
    )
    for name, (least, median) in rows.items():
        print(
            f"  {name:18} min {least:7.1f} ms  median {median:7.1f} ms  ratio {least / base:5.1f}  +{least - base:.1f} ms"
        )


class Transport(Sitting):
    """Only counts what arrives, so that the pipe is measured and not the arithmetic."""

    def _take(self, numbers: np.ndarray, answer: np.ndarray) -> None:
        self.answered += 1
        self.last = answer


def spec_of(kind: str, outputs: int, context: int, batch: int) -> EnvironmentSpec:
    budget = {**wb.BUDGET, "predict_cpu_s": 300, "predict_wall_s": 300, "memory_mb": 2048}
    task = {"kind": kind, "outputs": outputs, "context": context, "batch": batch}
    return wb._spec(
        "bench", score={"metric": "accuracy", "direction": "max", "unit": ""}, task=task, budget=budget
    )


def scoring(folder: Path, name: str, rows: np.ndarray, shape: tuple[int, ...], batch: int) -> None:
    context = shape[0] if len(shape) == 2 else 0
    kind = "language_model" if context else "classification"
    spec = spec_of(kind, shape[-1], context, batch)
    width = int(np.prod(shape))
    text = COPYING.format(
        rows=batch, width=width, shape=f".reshape(-1, {context}, {shape[-1]})" if context else ""
    )
    folder.mkdir()
    source = wb.write(folder / "source", {"predict.py": text})
    bench = Bench(spec, wb.classification(folder / "d").data, prove_level.best(), folder / "scratch")
    asked = Questions(
        rows, shape, batch, (1,), lambda n, a: a, lambda k: {}, worse=lambda n, a, b: a, items=lambda k: {}
    )
    plan = [np.arange(s, min(s + batch, len(rows))) for s in range(0, len(rows), batch)]
    sitting = Transport(asked, plan)
    (folder / "artifact").mkdir()
    job = judge_process.Job(
        spec=spec, data=bench.data, isolation=bench.isolation, devices=(), folder=folder, source=source,
        source_bytes=0, runs=(), trial="t", purpose="screen", split="public", lifeline=os.open("/dev/null", 0),
    )  # fmt: skip
    final, broken = judge_process.ask_all(job, folder / "artifact", sitting)
    assert broken is None and sitting.complete, (final, broken)
    model = np.random.default_rng(0).standard_normal((batch, width), dtype=np.float32).reshape(batch, *shape)
    start = time.perf_counter()
    for numbers in plan:
        answer = model[: len(numbers)].copy()
    direct = time.perf_counter() - start
    start = time.perf_counter()
    for numbers in plan:
        answer = metrics.finite(model[: len(numbers)])
        if context:
            metrics.token_bits(answer, rows[numbers])
        else:
            metrics.accuracy(answer, np.zeros(len(numbers), dtype=np.int64))
    arithmetic = time.perf_counter() - start
    size = 4 * len(rows) * width / 1e9
    piped = final["wall_s"]
    print(f"  {name}: {size:.3f} GB of answers in {len(plan)} requests")
    print(
        f"    pipe {piped * 1e3:.0f} ms ({size / piped:.2f} GB/s)   in-process copy {direct * 1e3:.0f} ms "
        f"({size / max(direct, 1e-9):.2f} GB/s)   ratio {piped / max(direct, 1e-9):.1f}   judge's arithmetic {arithmetic * 1e3:.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        start_costs(folder / "start", arguments.repeat)
        print(f"scoring through the pipe, load {os.getloadavg()[0]:.1f}")
        images = np.zeros((10_000, 28, 28), dtype=np.uint8)
        scoring(folder / "a", "10,000 images, batch 500", images, (10,), 500)
        count = arguments.tokens // 128
        tokens = np.zeros((count, 128), dtype=np.int64)
        scoring(folder / "b", f"{count * 128:,} tokens x 256, batch 64", tokens, (128, 256), 64)


if __name__ == "__main__":
    main()
