"""The label stage: facts to label to one lineage row, appended once.

The leader that a label was decided against is part of the row, with its score (`detail_json.leader`):
`verify` decides the label again against that one, and asks whether it led at all while the trial was open.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from evaluators.judge import judge_client
from evaluators.statistics.label import label, label_infra, label_refusal
from evaluators.statistics.lawful_measurement import deterministic
from evaluators.statistics.racing import Stopped
from flows.engine.campaign_config import BASELINE, now
from flows.engine.confirmation_state import must_depend
from flows.engine.engine import Engine
from flows.engine.stage_records import Patched, Pruning, TrialRef
from flows.machine.folders import bakeoff_version
from flows.report.device_facts import as_detail, device_columns, device_runs
from flows.report.slot_time import as_detail as as_slots
from flows.report.slot_time import slot_columns
from flows.trial.proposal_costs import cost_of
from lineage.errors import EditRefused
from lineage.queries import View
from lineage.records import (
    AgentFacts,
    Check,
    Label,
    Measurement,
    Proposal,
    Row,
    RunFacts,
    Status,
    TrainRun,
    Usage,
)
from lineage.store.results import first_result, get_result

EXCERPT = 2000


@dataclass
class Progress:
    """What a trial has reached so far; filled by the trial flow, read once at the end."""

    ref: TrialRef
    started: datetime
    stage: str = "propose"
    proposal: Proposal | None = None
    patched: Patched | None = None
    checks: tuple[Check, ...] = ()
    runs: tuple[TrainRun, ...] = ()
    beyond: tuple[TrainRun, ...] = ()  # cost without result: they were under way when another run failed
    planned_runs: int | None = None
    judged: tuple[Measurement, ...] = ()  # the parts in which the runs were judged
    measurement: Measurement | None = None  # of all of them; None when a run failed in training
    stopped: Stopped | None = None
    pruning: Pruning | None = None
    refusal: EditRefused | None = None
    infra: str | None = None
    infra_text: str = ""
    usage: Usage | None = None  # of a session that gave no edit
    exchange_sha256: str | None = None
    prompt_sha256: str | None = None
    asked: tuple[str, str] = ("", "")  # the proposer and its model, of a session that gave no edit
    agent: AgentFacts | None = None  # of a run of a coding agent that gave no edit
    seconds: dict[str, float] = field(default_factory=dict)
    queue_s: float | None = None
    engine_cpu_s: float | None = None


def decide(engine: Engine, progress: Progress, view: View) -> tuple[Label, tuple[str, float] | None]:
    """Label the trial against the leader as of now. Returns the label, the leader's id and standing score."""
    leader = view.ranking.leader()
    stopped = progress.stopped
    if stopped is not None and stopped.leader:
        leader = (stopped.leader, stopped.limit)  # the one of the look, whoever leads by now
    if progress.infra is not None:
        return label_infra(progress.infra, progress.infra_text), leader
    if progress.refusal is not None:
        refusal = progress.refusal
        return label_refusal(refusal.cause, str(refusal), refusal.numbers), leader
    decided = label(
        engine.config.spec,
        build=progress.checks,
        runs=progress.runs,
        measurement=progress.measurement,
        leader_score=leader[1] if leader is not None else None,
        is_baseline=progress.ref.trial == BASELINE,
        seeded=must_depend(engine.config, view, parent_of(progress)),
        stopped=stopped,
    )
    return decided, leader


def record(engine: Engine, progress: Progress) -> Row:
    """Append the trial's one `trial` row and return it; a second call returns the first row."""
    ref = progress.ref
    with engine.label_lock:
        view = engine.view()
        done = view.trial(ref.trial)
        if done is not None:
            return done
        stored = get_result(engine.store, ref.campaign, ref.trial, "label")
        if stored is not None:  # killed between the label and its row
            row = Row.model_validate_json(stored)
        else:
            decided, leader = decide(engine, progress, view)
            row = build_row(engine, progress, decided, leader, view)
            kept = first_result(
                engine.store, ref.campaign, ref.trial, "label", row.model_dump_json().encode()
            )
            row = Row.model_validate_json(kept)
        engine.append(row)
        engine.in_flight.pop(ref.trial, None)
    return row


def build_row(
    engine: Engine, progress: Progress, decided: Label, leader: tuple[str, float] | None, view: View
) -> Row:
    config, measurement = engine.config, progress.measurement
    base = parent_of(progress)
    parent_score = view.quoted(base) if base is not None else None
    score = measurement.score if measurement is not None else None
    leader_score = leader[1] if leader is not None else None
    detail: dict[str, Any] = {
        "leader": {"trial": leader[0], "score": leader[1]} if leader is not None else None,
        "label": decided.text,
        "checks": [check.model_dump(mode="json") for check in progress.checks],
        "gates": [check.model_dump() for check in measurement.gates] if measurement else [],
        "audits": [check.model_dump() for check in measurement.audits] if measurement else [],
    }
    if progress.stopped is not None:
        detail["racing"] = progress.stopped.model_dump()
    if progress.pruning is not None:
        detail["pruning"] = progress.pruning.model_dump()
    agent = progress.proposal.agent if progress.proposal is not None else progress.agent
    if agent is not None:
        detail["agent"] = agent.model_dump(mode="json")
    research = research_of(progress)
    if research:
        detail["research"] = research
    uses = engine.uses_of(progress.ref.trial)
    if uses:
        detail["slots"] = as_slots(uses)
    on_devices = device_runs(progress.checks, progress.runs, progress.judged)
    if on_devices:
        detail["device_runs"] = as_detail(on_devices)
    if progress.proposal is not None and base not in (None, progress.proposal.parent):
        detail["rebased_from"] = progress.proposal.parent
    values: dict[str, Any] = {
        **_identity(engine, progress),
        **_proposal_fields(engine, progress),
        **usage_fields(cost_of(engine, view, progress.ref.trial, _said(progress))),
        **_patch_fields(progress.patched),
        **_measurement_fields(measurement, progress.stopped),
        "planned_runs": progress.planned_runs,
        **_cost_fields(progress),
        **device_columns(on_devices),
        **slot_columns(uses, progress.runs, progress.judged),
        "incumbent": view.ranking.incumbent,
        "status": decided.status,
        "cause": decided.cause,
        "numbers_json": json.dumps(decided.numbers, sort_keys=True),
        "error_excerpt": _excerpt(progress),
        "stage": progress.stage,
        "delta_parent": _difference(score, parent_score),
        "delta_best": _difference(score, leader_score),
        "detail_json": json.dumps(detail, sort_keys=True),
        "isolation": config.isolation,
        "t_finished": now(),
    }
    return Row(**values)


def parent_of(progress: Progress) -> str | None:
    """The trial that this one is an edit of: where the edits were applied, which need not be where they were written."""
    if progress.proposal is None or progress.ref.trial == BASELINE:
        return None
    if progress.patched is not None:
        return progress.patched.parent or progress.proposal.parent
    base = progress.refusal.numbers.get("leader") if progress.refusal is not None else None
    return str(base) if base else progress.proposal.parent


def _identity(engine: Engine, progress: Progress) -> dict[str, Any]:
    config = engine.config
    return {
        "event": "trial",
        "campaign": config.id,
        "environment": config.spec.name,
        "arm": config.settings.arm,
        "trial": progress.ref.trial,
        "role": progress.ref.role,
        "trust": config.spec.trust,
        "environment_sha256": config.environment_sha256,
        "evaluator_sha256": config.evaluator_sha256,
        "machine": judge_client.machine_identity(),
        "accelerator": config.accelerator or None,
        "bakeoff_version": bakeoff_version(),
        "t_started": progress.started,
    }


def _proposal_fields(engine: Engine, progress: Progress) -> dict[str, Any]:
    proposal = progress.proposal
    if proposal is None:
        return {
            "exchange_sha256": progress.exchange_sha256,
            "prompt_sha256": progress.prompt_sha256,
            "proposer": progress.asked[0] or engine.proposer.name,
            "model": progress.asked[1] or None,
            "operator": progress.agent.name if progress.agent is not None else None,
        }
    return {
        "proposer": proposal.proposer,
        "model": proposal.model or None,
        "edit_kind": proposal.edit_kind or None,
        "operator": proposal.operator or None,
        "parent": parent_of(progress),
        "hypothesis": proposal.hypothesis,
        "expected_delta": proposal.expected_delta,
        "notes": proposal.notes or None,
        "prompt_sha256": engine.blob(proposal.prompt.encode()),
        "exchange_sha256": engine.blob(proposal.exchange.encode()),
    }


def _said(progress: Progress) -> Usage:
    """What the session that ended says it cost."""
    return progress.proposal.usage if progress.proposal is not None else progress.usage or Usage()


def research_of(progress: Progress) -> dict[str, Any]:
    """Searches of the open web and the pages that they showed; empty for a proposal that had none."""
    sources = list(progress.proposal.sources) if progress.proposal is not None else []
    searches = _said(progress).searches
    return {"searches": searches, "sources": sources} if searches or sources else {}


def usage_fields(usage: Usage) -> dict[str, Any]:
    return {
        "tokens_in": usage.tokens_in,
        "tokens_out": usage.tokens_out,
        "tokens_cache_read": usage.tokens_cache_read,
        "tokens_cache_write": usage.tokens_cache_write,
        "usd": usage.usd,
    }


def _patch_fields(patched: Patched | None) -> dict[str, Any]:
    if patched is None:
        return {}
    return {
        "parent_sha256": patched.parent_sha256,
        "source_sha256": patched.source_sha256,
        "ast_sha256": patched.ast_sha256,
        "diff_sha256": patched.diff_sha256,
        "source_bytes": patched.source_bytes,
    }


def _measurement_fields(measurement: Measurement | None, stopped: Stopped | None) -> dict[str, Any]:
    if measurement is None:
        return {}
    scores = [
        s.quantities[measurement.metric] for s in measurement.per_seed if measurement.metric in s.quantities
    ]
    return {
        "score": measurement.score,
        "scores": scores,
        "seeds": [s.seed for s in measurement.per_seed],
        "quantities_json": json.dumps(measurement.quantities, sort_keys=True),
        "noise_sd": statistics.stdev(scores) if len(scores) > 1 else None,
        # bounds over the few runs of a screen that its score ended say nothing
        "gate_ok": all(gate.passed for gate in measurement.gates)
        if stopped is None or not stopped.leader
        else None,
        "artifact_bytes": measurement.artifact_bytes or None,
        "measurement_sha256": measurement_sha(measurement),
        "deterministic": deterministic(measurement.per_seed),
    }


def measurement_sha(measurement: Measurement) -> str:
    from lineage.ids import sha256

    return sha256(measurement.model_dump_json().encode())


def _cost_fields(progress: Progress) -> dict[str, Any]:
    facts = [run.facts for run in [*progress.runs, *progress.beyond]]
    judged = [s.facts for part in progress.judged for s in part.per_seed if s.facts is not None]
    smoke = next((check.numbers for check in progress.checks if check.name == "smoke"), {})
    values: dict[str, Any] = {f"{stage}_s": seconds for stage, seconds in progress.seconds.items()}
    peaks = [f.peak_bytes for f in [*facts, *judged]]
    return {
        **values,
        "queue_s": progress.queue_s,
        "build_cpu_s": float(smoke["cpu_s"]) if "cpu_s" in smoke else None,
        "train_cpu_s": _whole_cpu(facts) if facts else None,
        "evaluate_cpu_s": _whole_cpu(judged) if judged else None,
        "engine_cpu_s": progress.engine_cpu_s,
        "peak_bytes": max(peaks) if peaks else None,
    }


def _whole_cpu(facts: list[RunFacts]) -> float:
    return sum(f.cpu_s + f.start_cpu_s for f in facts)


def _excerpt(progress: Progress) -> str | None:
    failed = next((run.facts for run in progress.runs if run.cause is not None), None)
    if failed is not None:
        return (failed.exception or failed.log_tail)[-EXCERPT:] or None
    check = next((c for c in progress.checks if not c.passed), None)
    if check is not None:
        return check.detail[-EXCERPT:] or None
    if progress.refusal is not None:
        return str(progress.refusal)[:EXCERPT]
    return None


def _difference(score: float | None, reference: float | None) -> float | None:
    return score - reference if score is not None and reference is not None else None


def improved(row: Row) -> bool:
    return row.status in (Status.KEEP, Status.BASELINE)
