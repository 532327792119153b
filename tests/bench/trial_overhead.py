"""What the engine adds to a trial, outside the candidate's own processes: `python -m tests.bench.trial_overhead`.

Runs the same no-op trials twice in one process: the stages called as plain functions (the baseline), then
through Prefect as a campaign does. Wall and CPU are the engine's alone: time inside the judge's client
(supervisor, sandbox, judge and candidate processes) is taken out of the wall, and CPU is this process's.
The Prefect server's CPU is shown apart. Median and range over the trials.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from lineage.records import Edit, Proposal
from tests import quick


def script(path: Path, count: int, first: int) -> None:
    """Proposals that change one digit: each a new program that costs next to nothing to run."""
    items = [
        Proposal(
            role="training",
            proposer="",
            parent="t0000",
            hypothesis="no-op",
            edits=(Edit(path="fitting.py", search="LR = 0.1 ", replace=f"LR = 0.1{first + index + 1:05d} "),),
        ).model_dump()
        for index in range(count)
    ]
    path.write_text(json.dumps(items), "utf-8")


class InChildren:
    """Adds up the wall time that the engine waits for candidate and judge processes, per thread's trial."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                with self._lock:
                    self.seconds += time.perf_counter() - began

        return timed


def prepare(folder: Path) -> None:
    recipes = folder / "recipes"
    text = quick.make(recipes).joinpath("environment.toml")
    text.write_text(text.read_text("utf-8").replace("\nruns = 2", "\nruns = 1"), "utf-8")
    os.environ.update(BAKEOFF_HOME=str(folder / "home"), BAKEOFF_RECIPES=str(recipes))
    from flows.environments.loading import load_environment
    from flows.environments.prepared_data import prepare as run_prepare

    run_prepare(load_environment("quick"), quiet=True)


def campaign(folder: Path, name: str, count: int, first: int) -> tuple[str, str]:
    from flows.campaign.run_on_this_machine import create_campaign
    from flows.engine.settings import load_settings

    file = folder / f"{name}.json"
    script(file, count, first)
    settings, _ = load_settings(
        {"environment": "quick", "proposer": "scripted", "script": str(file), "roles": ("training",),
         "trials": count, "slots": 1, "in_flight": 1, "confirm": False}, env={},
    )  # fmt: skip
    root = str(folder / name)
    return root, create_campaign(root, settings).id


def plain(folder: Path, count: int, inside: InChildren) -> list[tuple[float, float]]:
    """(wall, CPU) seconds per trial with the stages called one after the other."""
    from flows.engine.campaign_config import now
    from flows.engine.engine import engine_for
    from flows.engine.stage_records import TrialRef
    from flows.trial import stages
    from flows.trial.recording import Progress, record

    root, identifier = campaign(folder, "plain", count, 0)
    engine = engine_for(root, identifier)
    found = []
    for number in range(count + 1):
        ref = TrialRef(store=root, campaign=identifier, trial=f"t{number:04d}", role="training")
        began, cpu, waited = time.perf_counter(), time.process_time(), inside.seconds
        progress = Progress(ref=ref, started=now())
        progress.proposal = stages.propose(engine, ref)
        progress.patched = stages.patch(engine, ref, progress.proposal)
        progress.checks = stages.build(engine, ref, progress.patched)
        purpose = "screen" if number else "calibrate"
        seeds = stages.seeds_for(engine, progress.patched, purpose)
        trained = stages.train(engine, ref, progress.patched, purpose, seeds)
        progress.runs = trained.runs
        progress.measurement = stages.evaluate(engine, ref, progress.patched, trained)
        record(engine, progress)
        stages.drop_scratch(engine, ref.trial)
        found.append((time.perf_counter() - began - (inside.seconds - waited), time.process_time() - cpu))
    return found[1:]


def with_prefect(folder: Path, count: int, inside: InChildren) -> tuple[list[tuple[float, float]], float]:
    """The same through the flows; and the server's CPU seconds per trial."""
    from flows.campaign.run_on_this_machine import run_campaign
    from flows.engine.live_events import RowWritten

    root, identifier = campaign(folder, "prefect", count, 50_000)
    found: list[tuple[float, float]] = []
    server: list[float] = []
    written: set[str | None] = set()
    last = [time.perf_counter(), time.process_time(), inside.seconds]

    def on(event: Any) -> None:
        if not isinstance(event, RowWritten) or event.row.event != "trial":
            return
        if event.row.trial not in written:  # comes again when its flow has ended
            written.add(event.row.trial)
            return
        now = [time.perf_counter(), time.process_time(), inside.seconds]
        found.append((now[0] - last[0] - (now[2] - last[2]), now[1] - last[1]))
        last[:] = now
        server.append(_server_cpu())

    run_campaign(root, identifier, [on])
    return found[1:], (server[-1] - server[0]) / max(1, len(server) - 1)


def _server_cpu() -> float:
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            if "prefect" in " ".join(child.cmdline()):
                times = child.cpu_times()
                total += times.user + times.system
        except psutil.Error:
            continue
    return total


def line(name: str, pairs: list[tuple[float, float]]) -> str:
    wall, cpu = [p[0] * 1000 for p in pairs], [p[1] * 1000 for p in pairs]
    return (
        f"{name:22} wall {statistics.median(wall):6.0f} ms ({min(wall):.0f}-{max(wall):.0f})   "
        f"CPU {statistics.median(cpu):6.0f} ms ({min(cpu):.0f}-{max(cpu):.0f})   {len(pairs)} trials"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=30)
    count = parser.parse_args().trials
    inside = InChildren()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        from evaluators.judge import judge_client

        for function in ("smoke", "train", "judge"):
            setattr(judge_client, function, inside.wrap(getattr(judge_client, function)))
        bare = plain(folder, count, inside)
        whole, server = with_prefect(folder, count, inside)
    print(line("stages alone", bare))
    print(line("through Prefect", whole))
    cpu = statistics.median(p[1] for p in whole) / statistics.median(p[1] for p in bare)
    print(f"{'Prefect server':22} CPU {server * 1000:6.0f} ms a trial")
    print(f"ratio through Prefect / stages alone: CPU {cpu:.1f}; load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
