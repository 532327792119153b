"""Runs recipes for `tests.bench.search`, one forked process per run; torch is imported once, a recipe warmed up once.

Use: a child of the bench; a JSON line `{"source": DIR, "seeds": [N, ...]}` in, one JSON line of facts per seed out,
in a list that ends with the first failure: quantities as `recipes/measure.py` computes them, or `{"cause": ..., "detail": ...}`. Limits: no
sandbox, for recipes that this repository's own catalogue has edited; training ends at the budget's CPU
seconds, the other limits are rlimits. CPU seconds
are told beside those of a fixed piece of work done before and after in the same process
(`reference_s`), so that a busy machine can be divided out.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import tomllib
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def reference() -> float:
    """CPU seconds of a fixed mix of small convolutions and matrix products, about 60 ms when quiet."""
    import torch

    x, w = torch.ones(32, 32, 8, 8), torch.ones(64, 32, 3, 3)
    a = torch.ones(256, 192)
    begin = time.process_time()
    for _ in range(40):
        torch.nn.functional.gelu(torch.nn.functional.conv2d(x, w, padding=1))
        a = (a @ torch.ones(192, 192)).clamp(max=1.0)
    return time.process_time() - begin


def capped(work: Callable[..., Any], cpu_s: float) -> Callable[..., Any]:
    """`work`, ended by SIGPROF with its whole process once it has used `cpu_s` seconds of CPU."""

    def limited(*arguments: Any) -> Any:
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        done = work(*arguments)
        signal.setitimer(signal.ITIMER_PROF, 0)
        return done

    return limited


def run(recipe: Any, data: Path, task: dict[str, Any], budget: dict[str, Any], seed: int) -> dict[str, Any]:
    """One run in this (forked) process."""
    import measure

    before = reference()
    train, predict = recipe
    limited = SimpleNamespace(train=capped(train.train, budget["train_cpu_s"]))
    answer: dict[str, Any] = measure.one_run((limited, predict), data, "public", task, seed)
    answer["reference_s"] = (before + reference()) / 2
    if answer["predict_cpu_s"] > budget["predict_cpu_s"]:
        return {"cause": "cpu_cap", "detail": f"predict_cpu_s {answer['predict_cpu_s']:.1f}"}
    if not all(value == value and abs(value) != float("inf") for value in answer.values()):
        return {"cause": "nan", "detail": "a quantity is not finite"}
    return answer


def all_runs(job: dict[str, Any], data: Path, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Load and warm up here, then each seed in a process forked from this one."""
    import measure

    recipe = measure.loaded(Path(job["source"]), data)
    answers: list[dict[str, Any]] = []
    for seed in job["seeds"]:
        answers.append(
            forked(
                lambda seed=int(seed): run(recipe, data, spec["task"], spec["budget"], seed), spec["budget"]
            )
        )
        if "cause" in answers[-1]:
            break
    return answers


def child(work: Callable[[], Any], budget: dict[str, Any], pipe: int) -> None:
    cap = int(budget["train_cpu_s"] + budget["predict_cpu_s"] + budget.get("start_cpu_s", 60))
    resource.setrlimit(resource.RLIMIT_CPU, (cap, cap + 5))
    signal.alarm(int(budget["train_wall_s"]) + 300)
    try:
        sys.dont_write_bytecode = True
        facts = work()
    except MemoryError:
        facts = {"cause": "oom", "detail": "MemoryError"}
    except BaseException as error:
        facts = {
            "cause": "crash",
            "detail": f"{type(error).__name__}: {error}"[:300],
            "trace": traceback.format_exc()[-800:],
        }
    os.write(pipe, json.dumps(facts).encode())
    os._exit(0)


def forked(work: Callable[[], Any], budget: dict[str, Any]) -> Any:
    """What `work` gives in a forked process with the limits of a run, or the cause of its end."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(out)
        child(work, budget, into)
    os.close(into)
    said = b""
    while chunk := os.read(out, 65536):
        said += chunk
    os.close(out)
    _, status = os.waitpid(pid, 0)
    if said:
        return json.loads(said)
    caps = {signal.SIGPROF: "cpu_cap", signal.SIGXCPU: "cpu_cap", signal.SIGALRM: "wall_cap"}
    number = os.WTERMSIG(status)
    return {"cause": caps.get(number, "segfault"), "detail": f"signal {number}"}


def main() -> None:
    recipe, data = Path(sys.argv[1]), Path(sys.argv[2])
    spec = tomllib.loads((recipe / "environment.toml").read_text(encoding="utf-8"))
    sys.path.insert(0, str(recipe.parent))
    import measure  # noqa: F401  recipes/measure.py: the second, independent scorer
    import numpy  # noqa: F401
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        wall = spec["budget"]["train_wall_s"] * len(job["seeds"])
        answers = forked(lambda job=job: all_runs(job, data, spec), {**spec["budget"], "train_wall_s": wall})
        print(json.dumps(answers if isinstance(answers, list) else [answers]), flush=True)


if __name__ == "__main__":
    main()
