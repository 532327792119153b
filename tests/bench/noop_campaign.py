"""A campaign whose candidates do next to nothing, for benches of the engine: real stages, real sandbox, real store.

`prepare(folder, roles, sleep_s)` copies the template as environment `quick` and sets this process's environment to
it; `make(folder, name, ...)` creates a campaign with scripted proposals in it. `sleep_s` makes a training last that
long on the wall clock without using the processor. Limits: one prepared folder per process.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from lineage.records import Edit, Proposal
from tests import quick

SLEEPY = """
import time

SLEEP_S = {seconds}


def train(data: Path, out: Path, seed: int) -> None:
    blank = np.mean(np.load(data / "images.npy") == 0)
    if blank > 0.3:  # half of a real digit is blank; the random stand-ins of the first check have 1 pixel in 17
        time.sleep(SLEEP_S)
    learn(data, out, seed)
"""


def prepare(folder: Path, roles: int = 1, sleep_s: float = 0.0) -> None:
    """Environment `quick` with this many roles that all own the training, one run per measurement, few steps."""
    recipe = quick.make(folder / "recipes")
    toml = recipe / "environment.toml"
    toml.write_text(toml.read_text("utf-8").replace("\nruns = 2", "\nruns = 1"), "utf-8")
    fitting = recipe / "source" / "fitting.py"
    fitting.write_text(fitting.read_text("utf-8").replace("STEPS = 300 ", "STEPS = 3 "), "utf-8")
    if sleep_s:
        train = recipe / "source" / "train.py"
        text = train.read_text("utf-8").replace("def train(", "def learn(")
        train.write_text(text + SLEEPY.format(seconds=sleep_s), "utf-8")
    brief = (recipe / "roles" / "training.md").read_text("utf-8")
    for old in (recipe / "roles").glob("*.md"):
        old.unlink()
    for number in range(roles):
        (recipe / "roles" / f"lane_{number}.md").write_text(brief, "utf-8")
    os.environ.update(BAKEOFF_HOME=str(folder / "home"), BAKEOFF_RECIPES=str(folder / "recipes"))
    from flows.environments.loading import load_environment
    from flows.environments.prepared_data import prepare as run_prepare

    run_prepare(load_environment("quick"), quiet=True)


def script(path: Path, count: int) -> None:
    """Proposals that change one digit each: a new program every time."""
    items = [
        Proposal(
            role="",
            proposer="",
            parent="t0000",
            hypothesis="one digit",
            edits=(Edit(path="fitting.py", search="LR = 0.1 ", replace=f"LR = 0.1{index + 1:05d} "),),
        ).model_dump()
        for index in range(count)
    ]
    path.write_text(json.dumps(items), "utf-8")


def make(folder: Path, name: str, trials: int, slots: int, in_flight: int) -> tuple[str, str]:
    """A campaign with scripted proposals; its root and id."""
    from flows.campaign.run_on_this_machine import create_campaign
    from flows.engine.settings import load_settings

    script(folder / f"{name}.json", trials)
    flags = {
        "environment": "quick",
        "proposer": "scripted",
        "script": str(folder / f"{name}.json"),
        "trials": trials,
        "slots": slots,
        "in_flight": in_flight,
        "confirm": False,
    }
    settings, _ = load_settings(flags, env={})
    root = str(folder / name)
    return root, create_campaign(root, settings).id


class Slow:
    """The scripted proposals, each after a wait as long as a model's answer takes."""

    name = "scripted"

    def __init__(self, inner: Any, seconds: float) -> None:
        self.inner, self.seconds = inner, seconds

    def propose(self, request: Any) -> Proposal:
        time.sleep(self.seconds)
        proposal: Proposal = self.inner.propose(request)
        return proposal


@dataclass
class Children:
    """When the judge's client had processes of its own: (trial, stage, began, ended), on the monotonic clock."""

    spans: list[tuple[str, str, float, float]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def install(self) -> None:
        from evaluators.judge import judge_client

        for name in ("smoke", "train", "judge"):
            setattr(judge_client, name, self._timed(name, getattr(judge_client, name)))

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(bench: Any, source: Path, *args: Any, **kwargs: Any) -> Any:
            began = time.monotonic()
            try:
                return function(bench, source, *args, **kwargs)
            finally:
                match = re.search(r"t\d{4,}", source.parent.name)
                with self._lock:
                    self.spans.append((match[0] if match else "", stage, began, time.monotonic()))

        return timed

    def of(self, trial: str) -> float:
        return sum(end - began for name, _, began, end in self.spans if name == trial)

    def busy(self, stages: tuple[str, ...], begin: float, end: float) -> float:
        """Share of the time from `begin` to `end` in which at least one process of these stages was there."""
        covered, reached = 0.0, begin
        for began, ended in sorted((b, e) for _, stage, b, e in self.spans if stage in stages):
            low, high = max(began, reached), min(ended, end)
            if high > low:
                covered += high - low
                reached = high
        return covered / (end - begin)


def server_cpu() -> float:
    """CPU seconds that the Prefect server of this process has used."""
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            if "prefect" in " ".join(child.cmdline()):
                times = child.cpu_times()
                total += times.user + times.system
        except psutil.Error:
            continue
    return total
