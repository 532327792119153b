"""`bakeoff doctor` for accelerators: proves that a candidate gets the one it is assigned, and no other.

Use: `accelerator_reports(gpus)` lists the devices and runs a tiny kernel on each, in the real sandbox and under the
lock that a campaign takes; `lines(reports)` for people. Each answer is True, False, or None where it could not
be tried, with the reason in `detail`. Limits: it waits at most `BUSY_S` seconds for a device in use.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluators.judge import accelerators, judge_client
from evaluators.judge.candidate_folders import file_sha256
from evaluators.judge.sandbox.prove_level import best
from flows.machine.device_holds import hold
from lineage.environment_spec import EnvironmentSpec
from lineage.errors import BakeoffError
from lineage.records import Device

BUSY_S = 20.0
GIVEN_BACK_BYTES = 64 << 20
ANSWERS = ("computes", "others_invisible", "memory_given_back")
# The product of two matrices of ones is known; a child without CUDA_VISIBLE_DEVICES sees every device.
KERNEL = """
import json, os, subprocess, sys
import torch

SEEN = "import json, torch; print(json.dumps([str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]))"

def train(data, out, seed):
    ones = torch.ones(512, 512, device="cuda")
    total = float((ones @ ones).sum())
    held = torch.empty(256 << 20, dtype=torch.uint8, device="cuda").fill_(1)
    bare = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run([sys.executable, "-P", "-c", SEEN], env=bare, capture_output=True, text=True)
    nodes = sorted(n for n in os.listdir("/dev") if n.startswith("nvidia") and n[6:].isdigit() and opened(n))
    seen = json.loads(done.stdout) if done.returncode == 0 else None
    (out / "seen.json").write_text(json.dumps({"total": total, "seen": seen, "nodes": nodes, "detail": done.stderr[-300:]}))

def opened(name):
    try:
        os.close(os.open("/dev/" + name, os.O_RDWR))
        return True
    except OSError:
        return False
"""
TOTAL = 512.0**3


def accelerator_reports(gpus: str) -> tuple[list[dict[str, Any]], str]:
    """An entry per device that may be used: what it is, and the answers of `ANSWERS`; and why there are none.

    Raises UsageError for a name in `gpus` that fits nothing.
    """
    try:
        devices = accelerators.usable(gpus)
    except accelerators.DriverFault as fault:
        return [], str(fault)
    return [{**_facts(device), **_proof(device, devices)} for device in devices], ""


def _facts(device: Device) -> dict[str, Any]:
    kept = ("uuid", "name", "memory_bytes", "capability", "driver")
    return {"label": device.label, **{name: getattr(device, name) for name in kept}}


def _proof(device: Device, every: Sequence[Device]) -> dict[str, Any]:
    unknown: dict[str, Any] = dict.fromkeys(ANSWERS)
    try:
        with hold(1, (device,), busy_s=BUSY_S) as held, tempfile.TemporaryDirectory() as name:
            before = accelerators.read(device).used_bytes
            answers = {**unknown, **_compute(Path(name), device, held, every)}
            after = accelerators.read(device).used_bytes
        if before is not None and after is not None and answers["computes"]:
            answers["memory_given_back"] = after <= before + GIVEN_BACK_BYTES
        return answers
    except (BakeoffError, accelerators.DriverFault) as fault:
        return {**unknown, "detail": str(fault)[:600]}


def _compute(folder: Path, device: Device, held: Sequence[Device], every: Sequence[Device]) -> dict[str, Any]:
    """Run the kernel as a candidate is run."""
    bench = judge_client.Bench(_spec(), _data(folder / "data"), best(), folder / "scratch")
    (folder / "source").mkdir()
    (folder / "source" / "train.py").write_text(KERNEL)
    (folder / "source" / "predict.py").write_text("")
    run = judge_client.train(bench, folder / "source", 1, folder / "out", devices=tuple(held))
    if run.artifact is None:
        return {"computes": False, "detail": (run.facts.exception or str(run.cause))[:600]}
    found = json.loads((folder / "out" / "seen.json").read_text())
    own, seen = device.uuid.removeprefix("GPU-"), found["seen"]
    alone = None if seen is None else [text.removeprefix("GPU-") for text in seen] == [own]
    answer: dict[str, Any] = {"computes": found["total"] == TOTAL, "others_invisible": alone}
    if device.part is None:  # a part of a divided device shares its node
        answer["others_invisible"] = alone and found["nodes"] == [f"nvidia{device.minor}"]
    one = "" if len(every) > 1 else "the only device here"
    return {**answer, "detail": found["detail"] if seen is None else one}


def _spec() -> EnvironmentSpec:
    return EnvironmentSpec.model_validate(
        {
            "name": "doctor",
            "title": "doctor",
            "description": "a tiny kernel on one accelerator",
            "hardware": "cuda",
            "score": {"metric": "accuracy", "direction": "max", "unit": ""},
            "task": {"kind": "classification", "outputs": 2},
            "surfaces": [{"name": "all", "title": "all", "units": {"train.py": ["*"]}}],
            "evaluation": {"runs": 1, "confirm_runs": 2, "max_confirm_runs": 2, "calibrate_runs": 3},
            "budget": {
                "train_cpu_s": 120,
                "train_wall_s": 120,
                "predict_cpu_s": 10,
                "predict_wall_s": 10,
                "start_cpu_s": 120,
                "memory_mb": 16_000,
                "artifact_bytes": 10_000,
                "processes": 128,
                "gpus": 1,
            },
        }
    )


def _data(folder: Path) -> Path:
    """Create a valid, empty data folder."""
    files = {}
    for part in ("train", "fake"):
        (folder / part).mkdir(parents=True)
        path = folder / part / "nothing"
        path.write_bytes(b"-")
        files[f"{part}/nothing"] = {"sha256": file_sha256(path), "bytes": 1}
    (folder / "manifest.json").write_text(json.dumps({"environment": "doctor", "files": files}))
    return folder


def lines(reports: Sequence[dict[str, Any]], fault: str) -> list[str]:
    """The reports as lines of text."""
    if not reports:
        return [
            f"accelerators: none{f' ({fault})' if fault else ''}; environments that need GPUs do not run here"
        ]
    words = {True: "yes", False: "NO", None: "not tried"}
    shown = []
    for report in reports:
        size = f", {report['memory_bytes'] / 2**30:.0f} GiB" if report.get("memory_bytes") else ""
        what = f"accelerator {report.get('label', '?')}: {report['name']}{size} {report['uuid']}"
        answers = ", ".join(f"{name.replace('_', ' ')}: {words[report[name]]}" for name in ANSWERS)
        shown.append(f"{what}\n  in the sandbox: {answers}")
        shown += [f"  {report['detail']}"] if report.get("detail") else []
    return shown
