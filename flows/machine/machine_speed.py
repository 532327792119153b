"""How fast this machine is beside the one on which the minis' caps were set, and caps that fit it.

Use: `measure()` gives CPU seconds of a fixed piece of work; `bakeoff calibrate` keeps them (`Calibration.reference_s`);
`fitted(spec, seconds)` gives the environment with its caps of CPU and wall seconds multiplied by at most
`budget.fit_to_machine`, never below 1. An environment that does not set that (every full-size one) keeps its caps. The
factor is one of `STEPS`, so that two measurements of one machine give one environment; it is in the recorded
environment as `budget.fitted_by`. Limits: the work is arithmetic
and memory traffic in numpy, like the minis'; beside busy neighbours it takes longer, and so do they.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from lineage.environment_spec import Budget, EnvironmentSpec

# CPU seconds of `measure` where the caps of the minis were set, with nothing beside it
USUAL_S = 0.11
TOLERANCE = 1.25  # repeated measurements of one machine differ by about a tenth
STEPS = (1.0, 1.5, 2.0, 3.0, 4.0)
TRIES = 5
CAPS = ("train_cpu_s", "train_wall_s", "predict_cpu_s", "predict_wall_s", "start_cpu_s", "smoke_wall_s")


def measure() -> float:
    """CPU seconds that the fixed work takes here: the median of five."""
    return float(np.median([_work() for _ in range(TRIES)]))


def _work() -> float:
    numbers = np.random.default_rng(0).standard_normal((256, 256), dtype=np.float32)
    began = time.process_time()
    total = 0.0
    for _ in range(120):
        numbers = np.tanh(numbers @ numbers.T / 256)
        total += sum(float(value) for value in numbers[0])
    assert total == total
    return time.process_time() - began


def factor(seconds: float, most: float) -> float:
    """By what the caps are multiplied: the first step that makes up for this machine's slowness, at most `most`.

    >>> factor(0.13, 3), factor(0.2, 3), factor(0.3, 3), factor(9.0, 3), factor(9.0, 1)
    (1.0, 1.5, 3.0, 3.0, 1.0)
    """
    slowness = seconds / USUAL_S / TOLERANCE
    return min(most, next((step for step in STEPS if step >= slowness), STEPS[-1]))


def fitted(spec: EnvironmentSpec, seconds: float | None) -> EnvironmentSpec:
    """The environment with caps for a machine on which `measure` gave `seconds`; as it is for None."""
    times = factor(seconds, spec.budget.fit_to_machine) if seconds else 1.0
    if times <= 1:
        return spec
    caps = {name: getattr(spec.budget, name) * times for name in CAPS}
    budget = Budget.model_validate({**spec.budget.model_dump(), **caps, "fitted_by": times})
    return spec.model_copy(update={"budget": budget})


def what_to_do(spec: EnvironmentSpec, cause: str | None, numbers: Mapping[str, object]) -> str:
    """A start that exceeds a cap of seconds: by how much, beside this machine's speed, and what helps; else nothing."""
    if cause not in ("cpu_cap", "wall_cap"):
        return ""
    clock = "CPU-s" if cause == "cpu_cap" else "s"
    used, cap = numbers.get("cpu_s" if cause == "cpu_cap" else "wall_s"), numbers.get("cap_s")
    told = ""
    if isinstance(used, int | float) and isinstance(cap, int | float):
        told = f"it was ended at {used:.1f} {clock}, {used - cap:.1f} over its cap of {cap:g}; "
    slowness, budget = measure() / USUAL_S, spec.budget
    told += f"this machine takes {slowness:.1f} times as long as the one that the caps were set on"
    if budget.fit_to_machine > 1:
        told += f", and they are multiplied by {budget.fitted_by:g} of at most {budget.fit_to_machine:g}"
    key = "start_cpu_s" if numbers.get("phase") == "start" else "train_cpu_s and train_wall_s"
    return f"{told}. Stop other work on it, or raise budget.{key} in environment.toml"
