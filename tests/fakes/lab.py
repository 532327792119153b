"""A toy environment, its recipe and lineages of any length: what agent tests are made of.

`request()` is a question to a proposer about the toy; `rows(n)` is a made-up lineage from a seed with
realistic text lengths and every status. Nothing here is a measurement.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from agents.edits.search_replace import Files
from agents.protocol import ProposalRequest
from lineage.environment_spec import EnvironmentSpec, Role
from lineage.queries import View
from lineage.records import Row, Status

SPEC = EnvironmentSpec.model_validate(
    {
        "name": "toy",
        "title": "A toy with a clock",
        "description": "A tiny recipe that trains nothing; its score is CPU seconds.",
        "score": {"metric": "cpu_seconds", "direction": "min", "unit": "CPU-s", "digits": 3},
        "task": {"kind": "classification", "outputs": 10},
        "gates": [{"quantity": "accuracy", "at_least": 0.96, "on": "bound"}],
        "budget": {
            "train_cpu_s": 60,
            "train_wall_s": 240,
            "predict_cpu_s": 20,
            "predict_wall_s": 60,
            "memory_mb": 1024,
            "artifact_bytes": 16_000_000,
        },
        "evaluation": {
            "runs": 5,
            "confirm_runs": 8,
            "max_confirm_runs": 16,
            "calibrate_runs": 5,
            "min_gain": 0.02,
        },
        "surfaces": [
            {
                "name": "opt",
                "title": "Optimizer and schedule",
                "units": {"optim.py": ["*"]},
                "imports": ["math"],
            },
            {"name": "arch", "title": "Network", "units": {"model.py": ["*"]}, "allow_new": ["*"]},
            {"name": "loop", "title": "Epochs only", "units": {"train.py": ["EPOCHS"]}},
        ],
    }
)
FILES: Files = {
    "train.py": b"""from pathlib import Path

import model
import optim

EPOCHS = 12  # fewer miss the gate


def train(data: Path, out: Path, seed: int) -> None:
    net = model.make_net()
    (out / "weights.bin").write_bytes(bytes(net) + optim.make(EPOCHS))
""",
    "optim.py": b"""LR = 0.04  # twice this diverges
WARMUP = 0.1


def make(epochs: int) -> bytes:
    return f"{LR}:{WARMUP}:{epochs}".encode()
""",
    "model.py": b"""WIDTH = 64


def make_net() -> list[int]:
    return [WIDTH % 256]
""",
    "predict.py": b"""def load(artifact):
    return artifact


def predict(model, inputs):
    return inputs
""",
}
OPT = Role(name="opt", surfaces=("opt",), brief="# Optimizer\n\nYou own `optim.py`.", max_changed_lines=40)
ARCH = Role(name="arch", surfaces=("arch",), brief="# Network\n\nYou own `model.py`.", max_changed_lines=40)
ROLES = (ARCH, OPT)
BASELINE = Row(
    event="trial",
    campaign="c-toy",
    environment="toy",
    trial="t0000",
    status=Status.BASELINE,
    hypothesis="the recipe as it is",
    score=2.3,
    scores=[2.2, 2.3, 2.4],
    noise_sd=0.1,
    numbers_json=json.dumps({"train_cpu_to_spare_s": 57.9, "bytes_to_spare": 15_000_000}),
    stage="label",
)


def row(number: int, role: str = "opt", status: Status = Status.DISCARD, **more: Any) -> Row:
    """A trial row; `numbers` is a dictionary."""
    numbers = json.dumps(more.pop("numbers", {}))
    fields: dict[str, Any] = {
        "event": "trial",
        "campaign": "c-toy",
        "environment": "toy",
        "trial": f"t{number:04d}",
        "role": role,
        "parent": "t0000",
        "status": status,
        "hypothesis": f"Idea number {number}",
        "numbers_json": numbers,
        "stage": "label",
    }
    return Row(**{**fields, **more})


def view(rows: Sequence[Row] = (), direction: str = "min") -> View:
    return View.from_rows([BASELINE, *rows], "min" if direction == "min" else "max")


def request(
    rows: Sequence[Row] = (),
    role: Role = OPT,
    *,
    trees: dict[str, Files] | None = None,
    shown: View | None = None,
    **more: Any,
) -> ProposalRequest:
    """A request whose trials have the toy's source unless `trees` says otherwise."""
    sources = trees or {}

    def files_of(trial: str) -> Files:
        return dict(sources.get(trial, FILES))

    fields: dict[str, Any] = {"spec": SPEC, "role": role, "files_of": files_of, "seed": 7}
    return ProposalRequest(**{**fields, "view": shown or view(rows), **more})


_OUTCOMES: list[tuple[Status, str | None, Callable[[random.Random], dict[str, object]]]] = [
    (
        Status.KEEP,
        None,
        lambda r: {"train_cpu_to_spare_s": round(r.uniform(1, 50), 3), "bytes_to_spare": r.randrange(10**6)},
    ),
    (Status.DISCARD, None, lambda r: {"train_cpu_to_spare_s": round(r.uniform(1, 50), 3)}),
    (Status.DISCARD, None, lambda r: {"accuracy_to_spare": round(r.uniform(0, 0.01), 5)}),
    (
        Status.SIZE_BLOCKED,
        "oversize",
        lambda r: {
            "bytes_over": r.randrange(1, 900_000),
            "cap_bytes": 16_000_000,
            "artifact_bytes": 16_100_000,
        },
    ),
    (
        Status.DISQUALIFIED,
        "gate_missed",
        lambda r: {
            "short_by": round(r.uniform(0, 0.05), 5),
            "gate": "accuracy",
            "gate_limit": 0.96,
            "gate_mean": 0.951,
        },
    ),
    (Status.TRAIN_BUDGET_OVERRUN, "cpu_cap", lambda r: {"train_cpu_over_s": 0.31, "train_cpu_cap_s": 60.0}),
    (Status.CRASH, "crash", lambda r: {"exception": "RuntimeError: size mismatch", "line": "model.py:31"}),
    (Status.PREFLIGHT_CRASH, "syntax", lambda r: {"line": r.randrange(200)}),
    (Status.REJECTED, "outside_surface", lambda r: {"faults": 1, "changed_lines": 12}),
    (Status.HARNESS_ABORT, "infra:disk_full", lambda r: {}),
]
_WORDS = [
    "raise",
    "lower",
    "learning",
    "rate",
    "warmup",
    "width",
    "depth",
    "momentum",
    "schedule",
    "average",
    "smoothing",
    "decay",
    "batch",
    "epochs",
    "norm",
]


def rows(n: int, seed: int = 0, roles: Sequence[str] = ("opt", "arch", "loop", "aug", "reg")) -> list[Row]:
    """n trials after the baseline."""
    rng = random.Random(seed)
    made, keeps = list[Row](), ["t0000"]
    for number in range(1, n + 1):
        status, cause, numbers = rng.choice(_OUTCOMES)
        scored = status in (Status.KEEP, Status.DISCARD, Status.DISQUALIFIED)
        words = " ".join(rng.choice(_WORDS) for _ in range(rng.randint(20, 50)))
        made.append(
            row(
                number,
                rng.choice(roles),
                status,
                cause=cause,
                numbers=numbers(rng),
                parent=rng.choice(keeps[-4:]),
                hypothesis=words.capitalize(),
                notes=" ".join(rng.choice(_WORDS) for _ in range(80)),
                score=round(2.3 - 0.0001 * number + rng.uniform(-0.05, 0.05), 4) if scored else None,
                delta_parent=round(rng.uniform(-0.05, 0.05), 4) if scored else None,
                delta_best=round(rng.uniform(-0.01, 0.06), 4) if scored else None,
                edit_kind=rng.choice(["number", "technique", "structure"]),
                operator="session",
                error_excerpt="Traceback (most recent call last):\n" * 8 if status is Status.CRASH else None,
            )
        )
        if status is Status.KEEP:
            keeps.append(made[-1].trial or "")
    return made
