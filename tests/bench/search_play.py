"""One campaign of `tests.bench.search` in direct mode: propose, apply, measure, label, without the engine.

Use: `play(environment, data, arm, seed, options)` gives the line that the bench writes. Candidates run in
`tests.bench.search_worker`. Limits: no sandbox and no judge, so the source must be this repository's own
catalogue's; gates and labels are the engine's, on quantities that `recipes/measure.py` computes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agents.catalogue.proposer import CatalogueProposer
from agents.edits.normal_form import ast_hash
from agents.edits.search_replace import apply_edits
from agents.protocol import ProposalRequest
from evaluators.judge.gates import judge_gate
from evaluators.statistics.label import label, label_refusal
from flows.environments.loading import Environment
from lineage.errors import EditRefused, NothingLeft
from lineage.queries import View
from lineage.records import Artifact, Measurement, Row, RunFacts, SeedResult, Status, TrainRun

Files = dict[str, bytes]
ROOT = Path(__file__).resolve().parents[2]
REFERENCE_S = 0.03  # about what `search_worker.reference` takes on the quiet machine; only ratios matter


@dataclass
class Worker:
    """A child with torch imported that runs one job at a time."""

    recipe: Path
    data: Path
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        command = [sys.executable, "-m", "tests.bench.search_worker", str(self.recipe), str(self.data)]
        environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, source: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Facts per seed, up to the first that failed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"source": str(source), "seeds": list(seeds)}) + "\n")
        self.process.stdin.flush()
        answers: list[dict[str, Any]] = json.loads(self.process.stdout.readline())
        return answers

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def _quantities(facts: dict[str, Any], files: Files) -> dict[str, float]:
    found = {key: float(value) for key, value in facts.items() if key not in ("reference_s", "trace")}
    found["cpu_seconds"] *= REFERENCE_S / facts["reference_s"]
    found["total_bytes"] = found["artifact_bytes"] + sum(map(len, files.values()))
    return found


def measured(
    environment: Environment, worker: Worker, trial: str, files: Files, seeds: Sequence[int]
) -> tuple[tuple[TrainRun, ...], Measurement]:
    """Runs and measurement of one program, in the judge's own records."""
    spec = environment.spec
    runs: list[TrainRun] = []
    results: list[SeedResult] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        for seed, facts in zip(seeds, worker.ask(Path(folder), seeds), strict=False):
            if "cause" in facts:
                cause = str(facts["cause"])
                said = RunFacts(end="exit", code=1, exception=str(facts["detail"]))
                if cause == "cpu_cap":  # stopped at the cap, as the supervisor would
                    said = RunFacts(end="cpu_cap", cpu_s=spec.budget.train_cpu_s)
                runs.append(TrainRun(seed=seed, facts=said, cause=cause))
                break
            values = _quantities(facts, files)
            size = int(values["artifact_bytes"])
            ended = RunFacts(end="exit", cpu_s=values["train_cpu_s"])
            runs.append(
                TrainRun(seed=seed, facts=ended, artifact=Artifact(sha256="0" * 64, bytes=size, files={}))
            )
            predicted = RunFacts(end="exit", cpu_s=values["predict_cpu_s"])
            results.append(SeedResult(seed=seed, quantities=values, facts=predicted))
    complete = len(results) == len(seeds)
    means = (
        {k: statistics.fmean(r.quantities[k] for r in results) for k in results[0].quantities}
        if results
        else {}
    )
    gates = (
        [judge_gate(g, [r.quantities[g.quantity] for r in results]) for g in spec.gates] if complete else []
    )
    return tuple(runs), Measurement(
        trial=trial,
        purpose="screen",
        metric=spec.score.metric,
        score=means.get(spec.score.metric) if complete else None,
        per_seed=tuple(results),
        quantities=means,
        gates=tuple(gates),
        artifact_bytes=int(means.get("artifact_bytes", 0)),
        source_sha256="0" * 64,
        environment_sha256="0" * 64,
        evaluator_sha256="0" * 64,
        isolation="none",
        machine="bench",
        measured_at=datetime.now(UTC),
    )


@dataclass
class Campaign:
    """One campaign in memory: sources, rows, and the loop of proposing and measuring."""

    environment: Environment
    worker: Worker
    proposer: CatalogueProposer
    arm: str
    seed: int
    runs: int
    files: dict[str, Files] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    verdicts: list[Row] = field(default_factory=list)
    off_leader: int = 0  # edits that were made on another program than the leader's

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.arm} {self.seed}")
        self.name = f"{self.arm}-{self.seed}"

    @property
    def view(self) -> View:
        return View.from_rows([*self.rows, *self.verdicts], self.environment.spec.score.direction)

    def _append(self, trial: str, values: dict[str, Any]) -> Row:
        self.rows.append(Row(event="trial", campaign=self.name, trial=trial, arm=self.arm, **values))
        if self.rows[-1].status is Status.KEEP:
            self._recheck(trial)
        leader = self.view.row_of_leader()
        assert leader is not None and leader.score is not None and self.rows[0].score is not None
        self.best.append(gain(self.environment, leader.score, self.rows[0].score))
        return self.rows[-1]

    def _recheck(self, trial: str) -> None:
        """As a confirmation does: a keep that misses on fresh seeds a gate that is judged on a bound is struck off."""
        spec = self.environment.spec
        if not any(gate.on == "bound" for gate in spec.gates):
            return
        told = self._fresh(trial, spec.evaluation.confirm_runs)
        if told.score is None or not all(gate.passed for gate in told.gates):
            struck = Row(event="confirmation", campaign=self.name, trial=trial, verdict="unconfirmed")
            self.verdicts.append(struck)

    def _fresh(self, trial: str, runs: int) -> Measurement:
        seeds = [self.random.randrange(2**31) for _ in range(runs)]
        return measured(self.environment, self.worker, trial, self.files[trial], seeds)[1]

    def measure(self, trial: str, files: Files, more: dict[str, Any]) -> Row:
        baseline = not self.rows
        seeds = [
            self.random.randrange(2**31) for _ in range(self.runs if not baseline else max(5, self.runs))
        ]
        runs, measurement = measured(self.environment, self.worker, trial, files, seeds)
        leader = None if baseline else self.view.row_of_leader()
        told = label(
            self.environment.spec,
            runs=runs,
            measurement=measurement,
            leader_score=leader.score if leader else None,
            is_baseline=baseline,
        )
        scores = [r.quantities[measurement.metric] for r in measurement.per_seed]
        self.files[trial] = files
        return self._append(
            trial,
            {
                **more,
                "status": told.status,
                "cause": told.cause,
                "score": measurement.score,
                "scores": scores,
                "noise_sd": statistics.stdev(scores) if len(scores) > 1 else None,
                "numbers_json": json.dumps(told.numbers),
                "quantities_json": json.dumps(measurement.quantities),
                "ast_sha256": ast_hash(files),
            },
        )

    def step(self, number: int) -> Row | None:
        roles = self.environment.roster("specialists")
        role = roles[(number + self.seed) % len(roles)]
        if self.arm == "numbers_only":  # plain tuning knows no roles
            role = role.model_copy(update={"surfaces": tuple(s.name for s in self.environment.spec.surfaces)})
        request = ProposalRequest(
            spec=self.environment.spec,
            role=role,
            view=self.view,
            files_of=lambda trial: self.files[trial],
            seed=self.random.randrange(2**31),
            arm=self.arm,
        )
        try:
            proposal = self.proposer.propose(request)
        except NothingLeft:
            return None
        leader = self.view.row_of_leader()
        self.off_leader += leader is not None and proposal.parent != leader.trial
        trial = f"t{len(self.rows):04d}"
        said = {
            k: getattr(proposal, k)
            for k in ("role", "parent", "operator", "edit_kind", "hypothesis", "notes")
        }
        said["expected_delta"] = proposal.expected_delta
        try:
            files = apply_edits(self.files[proposal.parent], proposal.edits)
            if self.view.has_program(ast_hash(files)):
                raise EditRefused("duplicate", "the program is already in lineage")
        except EditRefused as refused:
            told = label_refusal(refused.cause, str(refused), refused.numbers)
            return self._append(trial, {**said, "status": told.status, "cause": told.cause})
        return self.measure(trial, files, said)

    def confirmed(self, runs: int) -> tuple[str, float]:
        """The best keep that passes with fresh seeds, and its gain over the start measured beside it."""
        struck = {row.trial for row in self.verdicts}
        keeps = [row for row in self.rows if row.status is Status.KEEP and row.trial not in struck]
        sign = self.environment.spec.sign
        for row in sorted(keeps, key=lambda r: -sign * (r.score or 0.0))[:4]:
            assert row.trial is not None
            mine, start = self._fresh(row.trial, runs), self._fresh(self.rows[0].trial or "", runs)
            if mine.score is not None and start.score is not None and all(g.passed for g in mine.gates):
                value = gain(self.environment, mine.score, start.score)
                if value > 0:
                    return row.trial, value
        return self.rows[0].trial or "", 0.0


def gain(environment: Environment, score: float, start: float) -> float:
    """Relative gain, positive is better."""
    return environment.spec.sign * (score - start) / abs(start)


def play(
    environment: Environment, data: Path, arm: str, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """One whole campaign in direct mode, as the line that is written."""
    worker = Worker(environment.folder, data)
    begin = time.perf_counter()
    try:
        runs = options.runs or environment.spec.evaluation.runs
        campaign = Campaign(environment, worker, CatalogueProposer(environment.techniques), arm, seed, runs)
        row = campaign.measure("t0000", environment.source(), {})
        if row.status is not Status.BASELINE:
            raise SystemExit(f"the start itself fails: {row.status} {row.cause} {row.numbers_json}")
        number = 0
        while len(campaign.rows) <= options.trials and number < 3 * options.trials:
            row = campaign.step(number) or row
            number += 1
            if options.verbose:
                print(
                    f"{campaign.name} {row.trial} {row.role or '':5s} {(row.operator or '')[:44]:44s} <- {row.parent} "
                    f"{row.status} {row.cause or '':14s} {row.score or 0:.4f} struck {len(campaign.verdicts)} best {100 * campaign.best[-1]:.1f} %",
                    flush=True,
                )
        trial, final = campaign.confirmed(options.confirm_runs or environment.spec.evaluation.confirm_runs)
    finally:
        worker.close()
    outcomes = Counter((row.cause or row.status or "").split(":")[0] for row in campaign.rows[1:])
    forecasts = [
        (row.expected_delta, row.score - parent.score)
        for row in campaign.rows
        if row.expected_delta is not None and row.score is not None
        for parent in campaign.rows
        if parent.trial == row.parent and parent.score is not None
    ]
    return {
        "environment": environment.spec.name,
        "arm": arm,
        "seed": seed,
        "trials": len(campaign.rows) - 1,
        "final": final,
        "winner": trial,
        "area": statistics.fmean(campaign.best[1:] or [0.0]),
        "best": campaign.best,
        "outcomes": dict(outcomes),
        "kinds": dict(Counter(row.edit_kind or "" for row in campaign.rows[1:])),
        "keeps": dict(Counter(row.operator or "" for row in campaign.rows if row.status is Status.KEEP)),
        "forecasts": forecasts,
        "off_leader": campaign.off_leader,
        "start_train_cpu_s": round(json.loads(campaign.rows[0].quantities_json)["train_cpu_s"], 2),
        "wall_s": round(time.perf_counter() - begin, 1),
    }
