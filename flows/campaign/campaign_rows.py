"""The rows about a campaign as a whole: its start, resumes and end, and the calibration it began with."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flows.engine.campaign_config import CampaignConfig, commitment, now
from flows.engine.engine import Engine
from flows.machine.folders import bakeoff_version
from flows.measure.calibrate import Calibration
from lineage.queries import View
from lineage.records import Row
from lineage.store.blobs import get_blob


def first_start(engine: Engine) -> datetime:
    """The time at which the campaign first started; writes the start event, or a resume event later on.

    The event is the first of its owner's epoch and records what that owner has read (`lineage.log.epochs`).
    """
    starts = [
        row.t_started for row in engine.view().events("campaign") if row.operator == "start" and row.t_started
    ]
    heads = engine.heads()
    if starts:
        log_campaign(engine, "resume", "", heads)
        return min(starts)
    return log_campaign(engine, "start", "", heads)


def log_campaign(engine: Engine, what: str, why: str, heads: Mapping[str, int] | None = None) -> datetime:
    at = now()
    heads_read = {"heads": dict(heads)} if heads is not None else {}
    details = {**_details(engine.config), "slots": engine.slots, **heads_read}
    engine.append(
        Row(
            event="campaign",
            campaign=engine.config.id,
            environment=engine.config.spec.name,
            arm=engine.config.settings.arm,
            operator=what,
            notes=why or None,
            isolation=engine.config.isolation,
            evaluator_sha256=engine.config.evaluator_sha256,
            bakeoff_version=bakeoff_version(),
            t_started=at,
            detail_json=json.dumps(details, sort_keys=True),
        )
    )
    return at


def end_of(view: View) -> str:
    """Why the last process that ran the campaign ended it; empty while one runs it, and after one that was killed."""
    last = [
        row for row in view.events("campaign") if row.operator in ("start", "resume", "end", "stop", "fault")
    ]
    return (last[-1].notes or "it ended") if last and last[-1].operator in ("end", "stop", "fault") else ""


def _details(config: CampaignConfig) -> dict[str, Any]:
    """The details of a campaign event besides its columns, such as the trial that a fork started from."""
    details: dict[str, Any] = {"direction": config.spec.score.direction}
    details["seed_commitment"] = commitment(config.secret)
    if config.forked_from is not None:
        details["forked_from"] = config.forked_from.model_dump()
    if config.comparison is not None:
        details["comparison"] = config.comparison.model_dump(mode="json")
    return details


def log_calibration(engine: Engine) -> None:
    """Record the calibration that the campaign was created with, once; its scores count as runs of the start."""
    config = engine.config
    if not config.calibration_sha256 or engine.view().events("calibration"):
        return
    held = Calibration.model_validate_json(get_blob(engine.store, config.calibration_sha256))
    engine.append(
        Row(
            event="calibration",
            campaign=config.id,
            environment=config.spec.name,
            arm=config.settings.arm,
            scores=list(config.calibration),
            seeds=list(held.seeds),
            noise_sd=statistics.stdev(config.calibration),
            source_sha256=held.source_sha256,
            environment_sha256=held.environment_sha256,
            evaluator_sha256=held.evaluator_sha256,
            isolation=held.isolation,
            machine=held.machine,
            accelerator=held.accelerator or None,
            throttled_runs=held.throttled_runs,
            bakeoff_version=held.bakeoff_version,
            t_finished=held.measured_at,
            detail_json=json.dumps({"calibration_sha256": config.calibration_sha256}),
        )
    )
