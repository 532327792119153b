"""Confirming a leader: fresh seeds beside the incumbent until the test is decided, then the sealed split.

Runs are interleaved one by one, candidate then incumbent, so that a machine that slows down slows
both. The statistics are `evaluators.promote`; this module only runs what it asks for and records it.
One confirmation at a time per campaign, because each level depends on the attempts before it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from prefect import flow

from evaluators import client
from evaluators.promote import (
    Attempt,
    Confirmed,
    Continue,
    Step,
    Unconfirmed,
    gates_hold,
    gates_out_of_reach,
    next_step,
)
from evaluators.standing import row_fields
from flows.allocation import check_time, handed_back, preemptible
from flows.config import draw_seeds
from flows.device_facts import as_detail, device_columns, device_runs
from flows.engine import Engine, engine_for
from flows.home import bakeoff_version
from flows.recording import measurement_sha
from flows.standing import book
from flows.tasks import evaluate, train
from flows.words import Interrupted, Patched, Trained, TrialRef
from lineage.errors import InfraFault, UsageError
from lineage.records import Measurement, Row, TrainRun
from lineage.results import get_result


@flow(name="confirm", flow_run_name="{environment} · confirm {trial}", persist_result=False)
async def confirm(store: str, campaign: str, trial: str, environment: str = "") -> Row:
    """Decide one leader. Raises InfraFault when the machine fails; the attempt is then taken up again later.

    It takes its turn among the trials of this process and keeps it to the end: its runs follow each other
    closely, and trials that come and go cannot keep it waiting.
    """
    engine = engine_for(store, campaign)
    engine.check_devices()
    ref = TrialRef(store=store, campaign=campaign, trial=trial, role="", environment=environment)
    with preemptible(engine) as notice:
        try:
            await check_time(engine, ref)
            return await _decide(engine, trial)
        except Interrupted as stopped:
            return await handed_back(engine, ref, notice, "confirm", stopped)  # type: ignore[return-value]


async def _decide(engine: Engine, trial: str) -> Row:
    async with engine.turns:
        engine.raise_if_cancelled()
        state = _Confirmation(engine, trial)
        step = await state.run()
        row = state.record(step)
        if isinstance(step, Confirmed):
            await state.seal()
    return row


class _Confirmation:
    """One attempt: the two programs, the replicates so far, and where they are recorded."""

    def __init__(self, engine: Engine, trial: str) -> None:
        self.engine = engine
        view = engine.view()
        opened = book(engine.config, view)
        incumbent = opened.incumbent
        if incumbent is None:
            raise UsageError(f"{trial}: there is no incumbent to confirm against; measure the baseline first")
        self.plan = engine.config.plan
        self.trials = opened.trials
        self.attempt: Attempt = opened.open()
        self.role = (row.role if (row := view.trial(trial)) is not None else None) or ""
        self.ref = TrialRef(
            store=engine.root,
            campaign=engine.config.id,
            trial=trial,
            role=self.role,
            environment=engine.config.spec.name,
        )
        self.incumbent = incumbent
        self.programs = {"candidate": _patched(engine, trial), "incumbent": _patched(engine, incumbent)}
        self.measured: dict[str, list[Measurement]] = {"candidate": [], "incumbent": []}
        self.trained: list[Trained] = []
        self.runs: list[TrainRun] = []
        self.offset = sum(1 for row in view.events("confirmation") if row.trial == trial) * 1000

    async def run(self) -> Step:
        """Replicates until the test is decided; a replicate without a score ends it as not confirmed."""
        while True:
            step = next_step(self.attempt, self.plan)
            if not isinstance(step, Continue):
                return step
            ours, theirs = step.candidate, step.incumbent
            while ours or theirs:
                for side in ("candidate", "incumbent"):
                    if (ours if side == "candidate" else theirs) <= 0:
                        continue
                    score = await self._replicate(side)
                    if score is None:
                        return Unconfirmed("failed")
                ours, theirs = max(0, ours - 1), max(0, theirs - 1)
            self._note_gates()

    async def _replicate(self, side: str) -> float | None:
        """One more run of one side; its score, or None when the candidate failed."""
        done = self.measured[side]
        patched = self.programs[side]
        index = len(done) + self.offset
        purpose = f"confirm-{side}-{index}"
        seeds = draw_seeds(
            self.engine.config, patched.source_sha256, f"confirm-{self.ref.trial}-{side}", 1, skip=index
        )
        self.engine.emit(
            {
                "kind": "confirm",
                "trial": self.ref.trial,
                "state": "running",
                "run": len(self.measured["candidate"]),
                "of": self.plan.looks[-1],
            }
        )
        trained = await train(self.ref, patched, purpose, seeds, quiet=True)
        self.runs += trained.runs
        if any(run.cause is not None for run in trained.runs):
            if side == "incumbent":
                raise InfraFault(
                    "incumbent", f"the incumbent {self.incumbent} failed while {self.ref.trial} was confirmed"
                )
            return None
        measurement = await evaluate(self.ref, patched, trained, quiet=True)
        value = measurement.per_seed[0].quantities.get(measurement.metric)
        if value is None:
            if side == "incumbent":
                raise InfraFault(
                    "incumbent",
                    f"the incumbent {self.incumbent} had no score while {self.ref.trial} was confirmed",
                )
            return None
        done.append(measurement)
        if side == "candidate":
            self.trained.append(trained)
        old = self.attempt
        if side == "candidate":
            self.attempt = replace(old, candidate=(*old.candidate, value))
        else:
            self.attempt = replace(old, incumbent=(*old.incumbent, value))
        return value

    def _note_gates(self) -> None:
        """After a look: does the candidate pass every hard rule over its fresh replicates, and could it yet?"""
        seeds = [seed for m in self.measured["candidate"] for seed in m.per_seed]
        rules, old = self.engine.config.spec.gates, self.attempt
        passed = gates_hold(rules, seeds, self.plan.gate_looks)
        hopeless = gates_out_of_reach(rules, seeds, self.plan.gate_futility)
        self.attempt = replace(old, gates=(*old.gates, passed), hopeless=(*old.hopeless, hopeless))

    def record(self, step: Step) -> Row:
        """Append the confirmation event; a killed campaign finds it and does not run the attempt again."""
        engine = self.engine
        fields = row_fields(self.attempt, step, self.trials)
        detail = {
            **fields.pop("detail_json"),
            "incumbent": self.incumbent,
            "measurements": [measurement_sha(m) for m in self.measured["candidate"]],
            "incumbent_measurements": [measurement_sha(m) for m in self.measured["incumbent"]],
        }
        on_devices = device_runs((), self.runs, [m for side in self.measured.values() for m in side])
        if on_devices:
            detail["device_runs"] = as_detail(on_devices)
        row = Row(
            event="confirmation",
            **_who(engine, self.ref),
            incumbent=self.incumbent,
            seeds=[seed.seed for m in self.measured["candidate"] for seed in m.per_seed],
            source_sha256=self.programs["candidate"].source_sha256,
            detail_json=json.dumps(detail, sort_keys=True),
            **device_columns(on_devices),
            **fields,
        )
        engine.append(row)
        engine.emit({"kind": "confirm", "trial": self.ref.trial, "state": row.verdict, "row": row})
        return row

    async def seal(self) -> None:
        """Score the new champion's confirmed artifacts once on the split that no agent ever sees a score of."""
        engine = self.engine
        sealed = [
            await evaluate(self.ref, self.programs["candidate"], t, split="sealed", quiet=True)
            for t in self.trained
        ]
        engine.append(
            Row(
                event="sealed",
                **_who(engine, self.ref),
                sealed_score=_mean([m.score for m in sealed]),
                public_score=_mean([m.score for m in self.measured["candidate"]]),
                source_sha256=self.programs["candidate"].source_sha256,
                quantities_json=json.dumps(_quantities(sealed), sort_keys=True),
                detail_json=json.dumps(
                    {
                        "measurements": [measurement_sha(m) for m in sealed],
                        "public_quantities": _quantities(self.measured["candidate"]),
                    },
                    sort_keys=True,
                ),
            )
        )


def _patched(engine: Engine, trial: str) -> Patched:
    raw = get_result(engine.store, engine.config.id, trial, "patch")
    if raw is None:
        raise UsageError(f"{trial} never became a program, so it cannot be confirmed")
    return Patched.model_validate_json(raw)


def _who(engine: Engine, ref: TrialRef) -> dict[str, str | None]:
    config = engine.config
    return {
        "campaign": config.id,
        "environment": config.spec.name,
        "arm": config.settings.arm,
        "trial": ref.trial,
        "role": ref.role or None,
        "machine": client.machine_identity(),
        "isolation": config.isolation,
        "environment_sha256": config.environment_sha256,
        "evaluator_sha256": config.evaluator_sha256,
        "bakeoff_version": bakeoff_version(),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _quantities(measurements: Sequence[Measurement]) -> dict[str, float]:
    names = {name for m in measurements for name in m.quantities}
    means = {name: _mean([m.quantities.get(name) for m in measurements]) for name in sorted(names)}
    return {name: value for name, value in means.items() if value is not None}
