"""What the flows call: try a program on fake data, train it once, have its runs judged.

Use: `smoke(bench, source)`, `train(bench, source, seed, out)`, `judge(bench, source, runs, ...)`; each
blocks, starts its own processes, and ends them within about 0.1 s of `cancel.set()`. Limits: candidate code
never runs in this process, and labels are read only by the judge's process. A cancelled run comes
back with cause `abandoned`; a fault of ours with end `infra`, or as InfraFault.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from evaluators.judge import (
    accelerators,
    failure_causes,
    foreign_definition_changes,
    item_scores,
    judge_hashes,
    script_training,
)
from evaluators.judge.candidate_folders import read_source, stage, workplace, write_files
from evaluators.judge.data_in_source import embedded_data, pays_for_bytes
from evaluators.judge.device_watch import Watch
from evaluators.judge.judge_hashes import environment_sha256, evaluator_sha256, machine_identity
from evaluators.judge.judge_rehearsal import Rehearsal, stand_in_request
from evaluators.judge.predictor_pipes import JUDGE_FAULT
from evaluators.judge.sandbox import supervisor_client
from evaluators.judge.sandbox.available_layers import CLEAN_ENV
from evaluators.judge.sandbox.bubblewrap import Box, Limits, Server, limits_for, request
from evaluators.judge.sandbox.fork_server_client import server_for
from evaluators.judge.sandbox.prove_level import Isolation
from evaluators.judge.source_size import added_information, source_bytes
from evaluators.judge.uncounted_time import Reference
from lineage.environment_spec import ASKING, EnvironmentSpec
from lineage.errors import DataMissing, InfraFault, JudgeFault
from lineage.ids import sha256, tree_hash
from lineage.records import Artifact, Check, Device, Measurement, Number, SeedResult, TrainRun
from lineage.safe_text import redact

__all__ = [
    "Bench",
    "artifact_matches",
    "environment_sha256",
    "evaluator_sha256",
    "judge",
    "judge_server",
    "machine_identity",
    "rehearse",
    "smoke",
    "train",
]

Purpose = Literal["screen", "calibrate", "confirm", "sealed", "replay", "control"]
Devices = tuple[Device, ...]  # what the run has to itself; as many as its budget says
ROOT = Path(__file__).resolve().parents[2]
SMOKE_CPU_SHARE, SMOKE_CPU_LEAST = 0.1, 4.0
# what a few steps on random data leave compresses worse than what is trained: 33 kB for 28 kB in golf_mini
SMOKE_ARTIFACT = 2
SMOKE_WHOLE = "train, load, predict"
EFFECTS_TEXT = 2000  # characters of the names in a smoke check's numbers


@dataclass(frozen=True)
class Bench:
    """Where candidates are run: environment, prepared data, proven sandbox, scratch space.

    `pool` are the devices of this machine that its runs may be given, each run its own. `start` are the files of the
    start recipe, against which what a source adds is measured; `reference` is what the start needs outside the
    clock, None only while the start itself is measured. `judge_file` is the environment's judge.py, where its task is
    of that kind.
    """

    spec: EnvironmentSpec
    data: Path
    isolation: Isolation
    scratch: Path
    pool: tuple[Device, ...] = ()
    start: Mapping[str, bytes] | None = None
    reference: Reference | None = None
    judge_file: Path | None = None


def _box(
    bench: Bench, mode: str, folder: Path, source: Path, data: Path, caps: Limits, devices: Devices
) -> Box:
    spec = bench.spec
    if len(devices) != spec.budget.gpus:  # never on the CPU instead, nor on devices that nobody counted
        raise InfraFault(
            "accelerator", f"a run of {spec.name} takes {spec.budget.gpus} devices and got {len(devices)}"
        )
    return Box(
        mode=mode,
        asks=spec.task.kind in ASKING,
        folder=str(folder),
        source=str(source),
        fake=str((bench.data / "fake").resolve()),
        data=str(data),
        outputs=spec.task.outputs,
        context=spec.task.context if spec.task.kind == "language_model" else 0,
        packages=tuple(spec.packages),
        masked=tuple(spec.masked_packages),
        python=spec.runtime.python,
        build=spec.runtime.build,
        devices=devices,
        limits=caps,
    )


def _server(bench: Bench, box: Box, cancel: threading.Event | None) -> Server | None:
    """The fork server of runs like `box`, where the probe has proven that path; None for a start of its own."""
    return server_for(bench.isolation.tools, box, cancel) if bench.isolation.prepared else None


def _request(bench: Bench, box: Box, cancel: threading.Event | None) -> dict[str, Any]:
    return request(box, bench.isolation.tools, server=_server(bench, box, cancel))


def _as_text(files: Mapping[str, bytes] | None) -> dict[str, str] | None:
    """Bytes do not go into JSON; latin-1 gives every one of them back."""
    return None if files is None else {name: data.decode("latin-1") for name, data in files.items()}


def _source(source: Path, folder: Path) -> tuple[Path, dict[str, bytes]]:
    files = read_source(source)
    return write_files(folder / "source", files), files


def _source_fault(bench: Bench, files: dict[str, bytes]) -> Check | None:
    """The static rules of the source: its cap, and no data in it where its bytes have no price."""
    size, cap = source_bytes(files), bench.spec.budget.source_bytes
    if size > cap:
        numbers: dict[str, Number] = {
            "cause": "oversize",
            "source_bytes": size,
            "cap": cap,
            "over": size - cap,
        }
        return Check(name="source", passed=False, numbers=numbers, detail="source over its cap")
    if pays_for_bytes(bench.spec):
        return None
    # a repository's own texts and tables are its own; what an edit adds is bounded below
    found = [] if bench.spec.task.kind == "script" else [embedded_data(files, bench.start)]
    if bench.start is not None:
        found.append(added_information(bench.spec, files, bench.start, bench.data))
    return next((check for check in found if not check.passed), None)


def train(
    bench: Bench,
    source: Path,
    seed: int,
    out: Path,
    cancel: threading.Event | None = None,
    on_progress: supervisor_client.Progress | None = None,
    guard: foreign_definition_changes.Guard | None = None,
    data: Path | None = None,
    devices: Devices = (),
) -> TrainRun:
    """One training run in sandbox 1, on these devices. The sealed artifact is moved under `out`.

    `on_progress(step, value)` gets the candidate's own curve, which is advice and never a score;
    returning True ends the run as `pruned`. `guard` names the definitions that the edit must not change; a
    run that has changed one after training ends as `outside_surface`. `data` stands in for the training data
    (`evaluators.judge.permuted_data_control`).
    """
    budget, is_script = bench.spec.budget, bench.spec.task.kind == "script"
    if not is_script:
        judge_hashes.check_data(bench.data, ("train/", "fake/"))
    with workplace(bench.scratch) as folder:
        copy, files = _source(source, folder)
        fault = _source_fault(bench, files)
        if fault is not None:
            return _refused(seed, fault)
        if is_script:
            return script_training.train(bench, folder, files, seed, out, cancel, devices)
        staged = stage(
            data or bench.data / "train", folder / "staged", link=bool(bench.isolation.tools.bwrap)
        )
        caps = limits_for(budget, budget.train_cpu_s, budget.train_wall_s, writes=True)
        box = _box(bench, "train", folder, copy, staged, caps, devices).model_copy(
            update={
                "seed": seed,
                "collect": str(folder / "sealed"),
                "artifact_cap": budget.artifact_bytes,
                "libraries": foreign_definition_changes.libraries(files, "train.py"),
            }
        )
        (folder / "sealed").mkdir()
        with Watch(devices) as watch:
            final = supervisor_client.run(_request(bench, box, cancel), cancel, on_progress)
        final["device"] = watch.use
        cause, numbers = failure_causes.explain(final, caps, artifact_needed=True)
        changed = foreign_definition_changes.fault(
            final["effects"], ("trained",) if cause is None else (), guard
        )
        if changed is not None and not (cause or "").startswith(("infra", "abandoned")):
            cause, numbers = "outside_surface", {**changed[0], "detail": changed[1]}
        artifact = None
        if cause is None:
            digest = judge_hashes.artifact_sha256(folder / "sealed")
            artifact = Artifact(sha256=digest, **final["artifact"])
            out.mkdir(parents=True, exist_ok=True)
            for path in sorted((folder / "sealed").iterdir()):
                shutil.move(path, out / path.name)
    facts = failure_causes.facts(final, bench.isolation.level)
    facts = facts.model_copy(
        update={"log_tail": redact(facts.log_tail), "exception": redact(facts.exception)}
    )
    return TrainRun(seed=seed, facts=facts, artifact=artifact, cause=cause, numbers=numbers)


def _refused(seed: int, fault: Check) -> TrainRun:
    """A program that was not run because of what is in its source."""
    facts = failure_causes.facts({"end": "protocol", "started": False, "detail": fault.detail}, "")
    numbers = {name: value for name, value in fault.numbers.items() if name != "cause"}
    return TrainRun(seed=seed, facts=facts, cause=str(fault.numbers["cause"]), numbers=numbers)


def artifact_matches(place: Path, artifact: Artifact) -> bool:
    """Are the files under `place` still exactly those that were sealed?"""
    return judge_hashes.artifact_sha256(place) == artifact.sha256


def smoke(
    bench: Bench,
    source: Path,
    cancel: threading.Event | None = None,
    guard: foreign_definition_changes.Guard | None = None,
    devices: Devices = (),
) -> Check:
    """The whole path once on fake data, in one sandbox, within a fraction of the training budget.

    `rehearse` of train.py stands in for `train` where there is one. Without it, a program that is still
    training without a fault when that fraction is used up passes: it cannot be made to train less.
    `numbers["cause"]` says why it failed, `numbers["effects"]` what the program changes at run time of
    definitions in other files; those that `guard` names fail it as `outside_surface`.
    """
    budget, began = bench.spec.budget, time.monotonic()
    is_script = bench.spec.task.kind == "script"
    if not is_script:
        judge_hashes.check_data(bench.data, ("fake/",))
    with workplace(bench.scratch) as folder:
        copy, files = _source(source, folder)
        fault = _source_fault(bench, files)
        if fault is not None:
            return fault.model_copy(update={"name": "smoke"})
        if is_script:
            return script_training.smoke(bench, folder, files, cancel, devices)
        data = stage(bench.data / "fake", folder / "staged", link=bool(bench.isolation.tools.bwrap))
        share = max(SMOKE_CPU_LEAST, SMOKE_CPU_SHARE * budget.train_cpu_s)
        caps = limits_for(budget, share, budget.smoke_wall_s, writes=True)
        box = _box(bench, "smoke", folder, copy, data, caps, devices).model_copy(
            update={
                "collect": str(folder / "sealed"),
                "artifact_cap": SMOKE_ARTIFACT * budget.artifact_bytes,
                "fake_request": str(_fake_request(bench, folder)),
                "libraries": foreign_definition_changes.libraries(files, "train.py"),
            }
        )
        (folder / "sealed").mkdir()
        with Watch(devices) as watch:
            final = supervisor_client.run(_request(bench, box, cancel), cancel)
        final["device"] = watch.use
    check = _smoke_check(final, caps, time.monotonic() - began).model_copy(update={"device": watch.use})
    return _guarded(check, final["effects"], guard)


def _guarded(
    check: Check, found: dict[str, tuple[str, ...]], guard: foreign_definition_changes.Guard | None
) -> Check:
    """The check with the run's effects; failed when one of them is not the edit's to have."""
    numbers: dict[str, Number] = {
        **check.numbers,
        "effects": "; ".join(foreign_definition_changes.named(found))[:EFFECTS_TEXT],
    }
    whole = check.passed and check.detail == SMOKE_WHOLE
    changed = foreign_definition_changes.fault(
        found, tuple(foreign_definition_changes.LOOKS) if whole else (), guard
    )
    if changed is None or str(numbers.get("cause", "")).startswith(("infra", "abandoned")):
        return check.model_copy(update={"numbers": numbers})
    numbers |= {**changed[0], "cause": "outside_surface"}
    return check.model_copy(update={"passed": False, "numbers": numbers, "detail": changed[1]})


def _smoke_check(final: dict[str, Any], caps: Limits, seconds: float) -> Check:
    cause, numbers = failure_causes.explain(final, caps, artifact_needed=True)
    numbers |= {"cpu_s": round(final["start_cpu_s"] + final["cpu_s"], 3), "peak_bytes": final["peak_bytes"]}
    computing = final["cpu_s"] > 0.05 * final["wall_s"]  # a hang uses next to nothing
    if cause in ("cpu_cap", "wall_cap") and final["phase"] == "run" and not final["stage"] and computing:
        detail = f"trained {final['cpu_s']:.1f} CPU-s on fake data without a fault; prediction not tried"
        return Check(name="smoke", passed=True, seconds=seconds, numbers=numbers, detail=detail)
    if cause is None:
        return Check(name="smoke", passed=True, seconds=seconds, numbers=numbers, detail=SMOKE_WHOLE)
    numbers["cause"] = "smoke" if cause == "crash" else cause
    detail = final["exception"] or final["detail"] or f"{cause} (exit {final['code']})"
    return Check(name="smoke", passed=False, seconds=seconds, numbers=numbers, detail=str(detail)[:600])


def _fake_request(bench: Bench, folder: Path) -> Path:
    """Random inputs of the judge's shape and type: what prediction will be asked, without the content."""
    task, rng = bench.spec.task, np.random.default_rng(0)
    if task.kind in ASKING:
        (folder / "fake_request").write_bytes(stand_in_request(rehearse(bench)))
        return folder / "fake_request"
    if task.kind == "language_model":
        rows: Any = rng.integers(0, task.outputs, (min(4, task.batch), task.context), dtype=np.int64)
    else:
        like = np.load(bench.data / "public" / "inputs.npy", mmap_mode="r")
        shape = (min(8, task.batch), *like.shape[1:])
        whole = np.issubdtype(like.dtype, np.integer)
        rows = rng.integers(0, 17, shape, dtype=like.dtype) if whole else rng.random(shape).astype(like.dtype)
    np.save(folder / "fake_request.npy", rows, allow_pickle=False)
    return folder / "fake_request.npy"


def judge(
    bench: Bench,
    source: Path,
    runs: Sequence[tuple[TrainRun, Path]],
    *,
    trial: str,
    purpose: Purpose,
    split: Literal["public", "sealed"] = "public",
    cancel: threading.Event | None = None,
    keep: Callable[[bytes], object] | None = None,
    devices: Devices = (),
) -> Measurement:
    """Have the judge's process predict with every sealed artifact in sandbox 2 and measure the answers.

    `keep` takes the artifact of the test items (`evaluators.judge.item_scores`) that the measurement names.
    """
    for run, place in runs:
        if run.artifact is not None and not artifact_matches(place, run.artifact):
            raise InfraFault("artifact", f"{place} no longer holds the artifact sealed for seed {run.seed}")
    with workplace(bench.scratch) as folder:
        copy, files = _source(source, folder)
        size = source_bytes(files)
        server = None if bench.spec.task.kind == "script" else judge_server(bench, devices, cancel)
        job: dict[str, Any] = {
            "spec": bench.spec.model_dump(mode="json"),
            "data": str(bench.data.resolve()),
            "isolation": bench.isolation.model_dump(mode="json"),
            "devices": [device.model_dump(mode="json") for device in devices],
            "driver_library": accelerators.vendor().library() if devices else "",
            "folder": str(folder),
            "source": str(copy),
            "source_bytes": size,
            "start": _as_text(bench.start),
            "runs": [{"run": run.model_dump(mode="json"), "place": str(place)} for run, place in runs],
            "trial": trial,
            "purpose": purpose,
            "split": split,
            "reference": bench.reference.model_dump(mode="json") if bench.reference else None,
            "server": server.model_dump() if server is not None else None,
            "judge_file": str(bench.judge_file or ""),
        }
        answer = _ask_judge(job, cancel)
        if not answer:
            return _abandoned(bench, copy, size, runs, trial, purpose, split, devices)
        measured = Measurement.model_validate_json(answer)
        if keep is not None and measured.items_sha256:
            keep(_items(folder, measured.items_sha256))
    return measured


def rehearse(bench: Bench) -> Rehearsal:
    """What the environment's judge function asks and returns, from a run on stand-in answers in the judge's process.

    Kept by the hashes of judge and data. Raises JudgeFault, DataMissing.
    """
    path = bench.judge_file
    made_of = (
        environment_sha256(bench.spec, bench.data),
        path.read_bytes() if path and path.is_file() else b"",
    )
    with _REHEARSING:
        if made_of not in _REHEARSALS:
            answer = _ask_judge(
                {
                    "rehearse": True,
                    "spec": bench.spec.model_dump(mode="json"),
                    "data": str(bench.data.resolve()),
                    "judge_file": str(path or ""),
                    "server": None,
                },
                None,
            )
            _REHEARSALS[made_of] = Rehearsal.model_validate_json(answer)
        return _REHEARSALS[made_of]


_REHEARSALS: dict[tuple[str, bytes], Rehearsal] = {}
_REHEARSING = threading.Lock()


def judge_server(bench: Bench, devices: Devices = (), cancel: threading.Event | None = None) -> Server | None:
    """The fork server that the judge's predictors come from: that of training, where one serves both."""
    caps = limits_for(bench.spec.budget, 1, 1, writes=False)
    nowhere = Path("/nonexistent")
    return _server(bench, _box(bench, "predict", nowhere, nowhere, nowhere, caps, devices), cancel)


def _items(folder: Path, wanted: str) -> bytes:
    data = (folder / item_scores.NAME).read_bytes()
    if sha256(data) != wanted:
        raise InfraFault("judge", f"{folder / item_scores.NAME} is not what the judge wrote ({wanted[:12]})")
    return data


def _abandoned(
    bench: Bench,
    source: Path,
    size: int,
    runs: Sequence[tuple[TrainRun, Path]],
    trial: str,
    purpose: Purpose,
    split: Literal["public", "sealed"],
    devices: Devices,
) -> Measurement:
    """What a cancelled judge leaves: no score, and a cause that says so."""
    return Measurement(
        trial=trial,
        purpose=purpose,
        split=split,
        metric=bench.spec.score.metric,
        score=None,
        per_seed=tuple(SeedResult(seed=run.seed, cause="abandoned") for run, _ in runs),
        source_bytes=size,
        source_sha256=tree_hash(read_source(source)),
        environment_sha256=environment_sha256(bench.spec, bench.data),
        evaluator_sha256=evaluator_sha256(),
        isolation=bench.isolation.level,
        machine=machine_identity(),
        accelerator=accelerators.describe(devices),
        measured_at=datetime.now(UTC),
        trust=bench.spec.trust,
    )


def _ask_judge(job: dict[str, Any], cancel: threading.Event | None) -> bytes:
    """Run the judge's process; `lifeline` closes when it and everything it started are gone."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from evaluators.judge.judge_process import main; main()"
    lifeline, held = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**CLEAN_ENV, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            pass_fds=(held, job["server"]["socket"]) if job["server"] else (held,),
            start_new_session=True,
        )
    finally:
        os.close(held)
    try:
        return _converse(process, {**job, "lifeline": held}, cancel)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)
        select.select([lifeline], [], [], 30)
        os.close(lifeline)


def _converse(process: subprocess.Popen[bytes], job: dict[str, Any], cancel: threading.Event | None) -> bytes:
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(json.dumps(job).encode() + b"\n")
    process.stdin.flush()
    parts: dict[str, bytes] = {}

    def collect(name: str, stream: IO[bytes]) -> None:
        parts[name] = stream.read()
        stream.close()

    readers = [
        threading.Thread(target=collect, args=("out", process.stdout), daemon=True),
        threading.Thread(target=collect, args=("err", process.stderr), daemon=True),
    ]
    for reader in readers:
        reader.start()
    while readers[0].is_alive():
        readers[0].join(supervisor_client.SLICE_S)
        if cancel is not None and cancel.is_set():
            process.stdin.close()  # the judge ends at once, and its sandbox with it
            break
    for reader in readers:
        reader.join()
    answer = parts["out"]
    if not answer and not (cancel is not None and cancel.is_set()):
        text = parts["err"].decode("utf-8", "replace").strip()[-1200:]
        if JUDGE_FAULT in text:
            raise JudgeFault(text.rpartition(JUDGE_FAULT)[2].strip())
        if "DataMissing" in text:
            raise DataMissing(text.rpartition("DataMissing:")[2].strip())
        raise InfraFault("judge", f"the judge ended without a measurement: {text or 'no message'}")
    return answer
