"""The three things that the GPU tests run: a whole campaign, one trial of a full-size environment, one to be killed.

Use: `campaign(lab, "cuda")`, `one_trial(lab, name, "cuda")`, `busy_campaign(lab, "cuda")`; with `"cpu"` the same on a
machine without a GPU. Everything they return was read from the record. Limits: one campaign at a time.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import cuda_digits
import full_size_small
import numpy as np
import psutil
from cuda_lab import CudaLab, rate, tail
from prefect_lab import processes_of

from flows.engine.campaign_config import campaigns
from flows.engine.stage_records import Trained
from lineage.log.log_reader import Lineage
from lineage.queries import View
from lineage.records import Measurement, Row, RunFacts
from lineage.store.objects import Store, open_store
from lineage.store.results import get_result, list_results


@dataclass
class Seen:
    """What the record says of a campaign, by the hypothesis of each trial."""

    run: Path
    ended: int
    output: str
    seconds: float
    left: list[list[str]]
    rows: list[Row] = field(default_factory=list)
    status: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    devices: set[str] = field(default_factory=set)
    answers_per_s: float | None = None
    runs: int = 0

    def told(self) -> str:
        excerpts = {
            row.hypothesis: (row.error_excerpt or "")[-800:] for row in self.rows if row.error_excerpt
        }
        return f"{self.status}\n{self.numbers}\n{excerpts}\n{tail(self.output)}"

    def figures(self) -> dict[str, Any]:
        scores = {row.hypothesis: row.score for row in self.rows if row.score is not None}
        seconds = {row.hypothesis: _rounded(row) for row in self.rows}
        return {
            "seconds": round(self.seconds, 1),
            "runs_of_candidates": self.runs,
            "scores_s": scores,
            "stage_seconds": seconds,
            "answers_per_s": self.answers_per_s,
            "peak_device_bytes": self.peaks,
            "outcomes": {title: ":".join(filter(None, pair)) for title, pair in self.status.items()},
        }


def _rounded(row: Row) -> dict[str, float]:
    found = {"build": row.build_s, "train": row.train_s, "evaluate": row.evaluate_s}
    return {name: round(value, 2) for name, value in found.items() if value is not None}


def campaign(
    lab: CudaLab,
    device: str,
    gpus: int = 1,
    deeds: tuple[str, ...] = tuple(cuda_digits.DEEDS),
    confirm: bool = True,
    timeout_s: float = 400,
) -> Seen:
    """`bakeoff prepare` and `bakeoff run` with the script, to the campaign's own end."""
    cuda_digits.make(lab.recipes, device, gpus=gpus)
    script = lab.folder / "script.json"
    count = cuda_digits.script(script, deeds)
    lab.bakeoff("prepare", cuda_digits.NAME)
    began = time.monotonic()
    run = lab.folder / "campaign"
    done = lab.bakeoff(
        "run", cuda_digits.NAME, "--run", str(run), "--trials", str(count), "--slots", "1",
        *lab.scripted(script, confirm=confirm), check=False, timeout=timeout_s,
    )  # fmt: skip
    took = time.monotonic() - began
    left = [process.cmdline() for process in processes_of(lab.folder)]
    seen = Seen(run, done.returncode, done.stdout + done.stderr, took, left)
    if campaigns(open_store(str(run), create=True)):
        read(seen)
    return seen


def read(seen: Seen) -> None:
    """Fill in what lineage and the stored results say."""
    store = open_store(str(seen.run))
    name = campaigns(store)[0]
    view = Lineage(store, name).refresh()
    seen.rows = list(view.trials())
    for row in seen.rows:
        title = row.hypothesis or str(row.trial)
        seen.status[title] = (str(row.status), row.cause)
        seen.numbers[title] = json.loads(row.numbers_json)
        used = [
            facts.device for facts in train_facts(store, name, str(row.trial)) if facts.device is not None
        ]
        seen.peaks[title] = max((use.peak_bytes or 0 for use in used), default=0)
        seen.devices |= {uuid for use in used for uuid in use.uuids}
    seen.verdicts = {str(row.trial): str(row.verdict) for row in view.events("confirmation")}
    answered = [facts for row in seen.rows for facts in predict_facts(store, name, str(row.trial))]
    seen.devices |= {uuid for facts in answered if facts.device for uuid in facts.device.uuids}
    seen.answers_per_s = rate(899, [facts.wall_s for facts in answered])
    seen.runs = len(answered) + sum(len(train_facts(store, name, str(row.trial))) for row in seen.rows)


def results(store: Store, name: str, trial: str, part: str) -> Iterator[bytes]:
    for found in list_results(store, name, trial):
        raw = get_result(store, name, trial, found) if part in found else None
        if raw is not None:
            yield raw


def train_facts(store: Store, name: str, trial: str) -> list[RunFacts]:
    found = (Trained.model_validate_json(raw) for raw in results(store, name, trial, "-train-"))
    return [run.facts for trained in found for run in trained.runs]


def predict_facts(store: Store, name: str, trial: str) -> list[RunFacts]:
    found = (Measurement.model_validate_json(raw) for raw in results(store, name, trial, "-measurement"))
    return [seed.facts for measured in found for seed in measured.per_seed if seed.facts is not None]


# ---- one trial ----


@dataclass
class OneTrial:
    row: Row
    uuids: set[str]
    excerpt: str
    figures: dict[str, Any]


def one_trial(lab: CudaLab, name: str, device: str) -> OneTrial:
    """The start of an environment as one trial with one seed: stages, sandbox, judge and record as in a campaign.

    Through the engine's own stages instead of `bakeoff run`, whose baseline alone takes three seeds and more.
    """
    from flows.campaign.run_on_this_machine import create_campaign
    from flows.engine.campaign_config import BASELINE, now
    from flows.engine.engine import close_engine, engine_for
    from flows.engine.settings import load_settings
    from flows.engine.stage_records import TrialRef
    from flows.trial import stages
    from flows.trial.recording import Progress, record

    given = full_size_small.make(lab.folder, lab.recipes, name, device)
    tiktoken = lab.folder / "tiktoken-stand-in"
    if name == "nanochat_d12" and not _importable("tiktoken"):
        tiktoken.mkdir(exist_ok=True)
        (tiktoken / "tiktoken.py").write_text(full_size_small.TIKTOKEN, "utf-8")
    lab.env["PYTHONPATH"] = os.pathsep.join((lab.env["PYTHONPATH"], str(tiktoken)))
    began = time.monotonic()
    lab.bakeoff("prepare", name, "--", *given)
    prepared = time.monotonic() - began
    root = str(lab.folder / f"{name}-run")
    with mock.patch.dict(os.environ, lab.env):
        settings, _ = load_settings({"environment": name, "slots": 1, "confirm": False}, env={})
        config = create_campaign(root, settings)
        engine = engine_for(root, config.id)
        try:
            ref = TrialRef(store=root, campaign=config.id, trial=BASELINE, role=config.roles[0].name)
            progress = Progress(ref=ref, started=now())
            progress.proposal = stages.propose(engine, ref)
            progress.patched = stages.patch(engine, ref, progress.proposal)
            began = time.monotonic()
            progress.checks = stages.build(engine, ref, progress.patched)
            progress.seconds["build"] = time.monotonic() - began
            if all(check.passed for check in progress.checks):
                _train(engine, ref, progress)
            row = record(engine, progress)
        finally:
            close_engine(root, config.id)
    store = open_store(root)
    facts = train_facts(store, config.id, BASELINE)
    answered = predict_facts(store, config.id, BASELINE)
    rows = len(np.load(engine.bench.data / "public" / _public(engine.bench.data), mmap_mode="r"))
    every = [one.device for one in (*facts, *answered) if one.device is not None]
    figures: dict[str, Any] = {
        "prepare_s": round(prepared, 1),
        "start_s": [round(one.start_wall_s, 2) for one in (*facts, *answered)],
        "start_cpu_s": [round(one.start_cpu_s, 2) for one in (*facts, *answered)],
        "train_s": [round(one.wall_s, 2) for one in facts],
        "predict_s": [round(one.wall_s, 2) for one in answered],
        "stage_seconds": _rounded(row),
        "peak_device_bytes": max((use.peak_bytes or 0 for use in every), default=0),
        "rows": rows,
        "score": row.score,
    }
    excerpt = (row.error_excerpt or "") + "".join(one.log_tail[-600:] for one in facts)
    return OneTrial(row, {uuid for use in every for uuid in use.uuids}, excerpt, figures)


def _train(engine: Any, ref: Any, progress: Any) -> None:
    from flows.trial import stages

    seeds = stages.seeds_for(engine, progress.patched, "calibrate")[:1]
    began = time.monotonic()
    trained = stages.train(engine, ref, progress.patched, "calibrate", seeds)
    progress.runs = trained.runs
    progress.seconds["train"] = time.monotonic() - began
    if all(run.cause is None for run in trained.runs):
        began = time.monotonic()
        progress.measurement = stages.evaluate(engine, ref, progress.patched, trained)
        progress.seconds["evaluate"] = time.monotonic() - began


def _public(data: Path) -> str:
    """The file whose rows or tokens are asked for."""
    return "inputs.npy" if (data / "public" / "inputs.npy").is_file() else "tokens.npy"


def _importable(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


# ---- a campaign to be killed ----


@dataclass
class Busy:
    """A campaign whose start trains for minutes."""

    lab: CudaLab
    run: Path
    process: subprocess.Popen[bytes]
    log: Path
    killed_at: float = 0.0
    known: list[psutil.Process] = field(default_factory=list)

    def training(self) -> bool:
        """Has the data been released to the baseline's candidate? The checks before it are over, then."""
        return bool(list(self.run.glob("results/campaign=*/trial=t0000/build*")))

    def kill(self) -> None:
        """SIGKILL to the engine's process alone."""
        self.killed_at = time.monotonic()
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def candidates(self) -> list[psutil.Process]:
        """Sandboxed processes that this engine started and that live; asked before the kill, it remembers them.

        Their environment is cleared and their command line is not ours, so they are known by their parent.
        """
        if not self.killed_at:
            below = psutil.Process(self.process.pid).children(recursive=True)
            self.known += [child for child in below if child not in self.known and _is_candidate(child)]
        return [child for child in self.known if _lives(child)]

    def free_after(self, memory_free: bool) -> float:
        """Seconds from the kill, once no candidate lives and the memory is free; 0 before that."""
        return time.monotonic() - self.killed_at if memory_free and not self.candidates() else 0.0

    def told(self) -> str:
        return tail(self.log.read_text("utf-8"))

    def clean_up(self) -> None:
        """End the Prefect server that the killed engine had started, and whatever else is left of this folder."""
        if self.process.poll() is None:
            self.kill()
        for process in processes_of(self.lab.folder):
            try:
                process.kill()
            except psutil.Error:
                continue


def _is_candidate(process: psutil.Process) -> bool:
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "entry.py" in line or "bwrap" in line or "supervisor" in line


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def busy_campaign(lab: CudaLab, device: str) -> Busy:
    """`bakeoff run` on the digits, with a start that trains for a minute and more."""
    shutil.rmtree(lab.recipes / cuda_digits.NAME, ignore_errors=True)
    cuda_digits.make(lab.recipes, device, epochs=10**6)
    lab.bakeoff("prepare", cuda_digits.NAME)
    run, log = lab.folder / "busy", lab.folder / "busy.log"
    arguments = ("run", cuda_digits.NAME, "--run", str(run), "--trials", "1", "--slots", "1", "--plain")
    with log.open("wb") as out:
        process = subprocess.Popen(
            lab.command(*arguments),
            env=lab.env, cwd=lab.folder, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    return Busy(lab, run, process, log)


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested JSON with their paths."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from flat(inner, f"{key}[{number}]")
    else:
        yield key, value


def view_of(run: Path) -> View:
    store = open_store(str(run))
    return Lineage(store, campaigns(store)[0]).refresh()
