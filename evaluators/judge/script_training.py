"""One training run of a script, and its smoke check: the same sandbox, caps and seal as any other run.

Use: `train(bench, folder, files, seed, out, ...)` and `smoke(bench, folder, files, ...)` by `evaluators.judge.judge_client`, in a run's own
folder. The sealed artifact is `out/out` (what the script left in {out}) and `out/output.log` (all it printed), counted
and hashed together. Limits: no fake data, no report of a training curve, no comparison of definitions at run time:
a script has no call for them. The clock runs from the process's start.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.judge import failure_causes, judge_hashes
from evaluators.judge.candidate_folders import write_files
from evaluators.judge.device_watch import Watch
from evaluators.judge.sandbox import supervisor_client
from evaluators.judge.sandbox.bubblewrap import MIB, Box, Limits, limits_for, request
from evaluators.judge.script_files import for_training, is_in_place, staged
from lineage.environment_spec import EnvironmentSpec
from lineage.errors import InfraFault
from lineage.records import Artifact, Check, Device, Number, TrainRun
from lineage.safe_text import redact

if TYPE_CHECKING:
    from evaluators.judge.judge_client import Bench

OUT, OUTPUT = "out", "output.log"
SMOKE_CPU_SHARE, SMOKE_CPU_LEAST = 0.1, 4.0
SMOKE_STILL_RUNS = (
    "ran {cpu:.1f} CPU-s without a fault and was ended; `smoke` in environment.toml can be a short form of it"
)


def script_limits(spec: EnvironmentSpec, cpu_s: float, wall_s: float, *, writes: bool) -> Limits:
    """The caps of a script's run; its working folder may hold the source and as much as /tmp."""
    caps = limits_for(spec.budget, cpu_s, wall_s, writes=writes)
    return caps.model_copy(update={"work_bytes": caps.tmp_bytes + 2 * spec.budget.source_bytes + 4 * MIB})


def data_places(data: Path, name: str) -> dict[str, str]:
    """What {data} stands for: the repository's own folder, or the released one."""
    return {"data": "{work}/data" if is_in_place(data) else "{released}" + (f"/{name}" if name else "")}


def _box(
    bench: Bench,
    folder: Path,
    files: Mapping[str, bytes],
    seed: int,
    command: str,
    caps: Limits,
    devices: tuple[Device, ...],
) -> Box:
    spec = bench.spec
    if len(devices) != spec.budget.gpus:
        raise InfraFault(
            "accelerator", f"a run of {spec.name} takes {spec.budget.gpus} devices and got {len(devices)}"
        )
    for name in ("sealed", "fake"):
        (folder / name).mkdir()
    link = bool(bench.isolation.tools.bwrap)
    return Box(
        mode="script",
        folder=str(folder),
        source=str(write_files(folder / "recipe", for_training(spec.task, files, bench.start))),
        fake=str(folder / "fake"),
        data=str(staged(bench.data / "train", folder / "staged", link=link)),
        seed=seed,
        collect=str(folder / "sealed"),
        artifact_cap=spec.budget.artifact_bytes,
        packages=tuple(spec.packages),
        masked=tuple(spec.masked_packages),
        python=spec.runtime.python,
        build=spec.runtime.build,
        devices=devices,
        command=command,
        values={"seed": "{seed}", "out": "{out}", **data_places(bench.data, "")},
        links=(".",) if is_in_place(bench.data) else (),
        output=str(folder / OUTPUT),
        limits=caps,
    )


def _run(
    bench: Bench, box: Box, devices: tuple[Device, ...], cancel: threading.Event | None
) -> tuple[dict[str, Any], str | None, dict[str, Number]]:
    with Watch(devices) as watch:
        final = supervisor_client.run(request(box, bench.isolation.tools), cancel)
    final["device"] = watch.use
    if _left_nothing(final):  # lawful: its metrics may be in what it printed
        final["artifact"] = {"bytes": 0, "files": {}}
    cause, numbers = failure_causes.explain(final, box.limits, artifact_needed=True)
    return final, cause, numbers


def _left_nothing(final: Mapping[str, Any]) -> bool:
    """Did the run come to its end and leave no file?"""
    return bool((final.get("artifact") or {}).get("numbers") == {"files": 0})


def train(
    bench: Bench,
    folder: Path,
    files: Mapping[str, bytes],
    seed: int,
    out: Path,
    cancel: threading.Event | None = None,
    devices: tuple[Device, ...] = (),
) -> TrainRun:
    """Run the training command once; what it left is moved under `out`."""
    spec = bench.spec
    judge_hashes.check_data(bench.data, ("train/",), needed=False)
    caps = script_limits(spec, spec.budget.train_cpu_s, spec.budget.train_wall_s, writes=True)
    box = _box(bench, folder, files, seed, spec.task.train, caps, devices)
    final, cause, numbers = _run(bench, box, devices, cancel)
    artifact = None
    if cause is None:
        out.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / "sealed", out / OUT)
        shutil.move(folder / OUTPUT, out / OUTPUT)
        artifact = Artifact(sha256=judge_hashes.artifact_sha256(out), **final["artifact"])
    facts = failure_causes.facts(final, bench.isolation.level)
    facts = facts.model_copy(
        update={"log_tail": redact(facts.log_tail), "exception": redact(facts.exception)}
    )
    return TrainRun(seed=seed, facts=facts, artifact=artifact, cause=cause, numbers=numbers)


def smoke(
    bench: Bench,
    folder: Path,
    files: Mapping[str, bytes],
    cancel: threading.Event | None = None,
    devices: tuple[Device, ...] = (),
) -> Check:
    """Start the command within a fraction of the training budget: it must not crash. With `smoke` it must also end."""
    spec, began = bench.spec, time.monotonic()
    share = max(SMOKE_CPU_LEAST, SMOKE_CPU_SHARE * spec.budget.train_cpu_s)
    caps = script_limits(spec, share, spec.budget.smoke_wall_s, writes=True)
    box = _box(bench, folder, files, 1, spec.task.smoke or spec.task.train, caps, devices)
    final, cause, numbers = _run(bench, box, devices, cancel)
    numbers |= {"cpu_s": round(final["start_cpu_s"] + final["cpu_s"], 3), "peak_bytes": final["peak_bytes"]}
    detail, passed = "ran to its end", cause is None
    if cause in ("cpu_cap", "wall_cap") and not spec.task.smoke and final["phase"] == "run":
        detail, passed = SMOKE_STILL_RUNS.format(cpu=final["cpu_s"]), final["cpu_s"] > 0.05 * final["wall_s"]
    if not passed and cause is not None:
        numbers["cause"] = "smoke" if cause == "crash" else cause
        said = final["exception"] or final["detail"] or final["log_tail"].strip().rpartition("\n")[2]
        detail = str(redact(said or f"{cause} (exit {final['code']})"))[:600]
    return Check(
        name="smoke",
        passed=passed,
        seconds=time.monotonic() - began,
        numbers=numbers,
        detail=detail,
        device=final["device"],
    )
