"""Unexpected faults: reported at once, recorded, and turned into an exit code at the end of the campaign."""

from __future__ import annotations

import json
import traceback

from flows.campaign.watchdog import tell
from flows.engine.campaign_config import now
from flows.engine.engine import Engine
from flows.engine.live_events import Note
from flows.engine.stage_records import TrialRef
from flows.machine.folders import bakeoff_version
from flows.trial.recording import Progress, record
from lineage.errors import BakeoffError, StoreError, Superseded
from lineage.records import Row
from lineage.safe_text import one_line

TRACE = 6000


class LaneFaults(BakeoffError):
    """Raised at the end of a campaign of which unexpected faults ended some lanes."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(
            "; ".join(faults) + "; the campaign's record has the traceback (event `campaign`, fault)"
        )


def report_fault(engine: Engine, ref: TrialRef, fault: Exception) -> str:
    """Report an unexpected fault to display and webhook, record it, and end the trial as harness_abort. Returns the sentence."""
    what = one_line(f"{type(fault).__name__}: {fault}", 400)
    text = f"role {ref.role} ended at {ref.trial} by an unexpected fault: {what}"
    tell(engine, text)
    try:
        engine.append(
            Row(
                event="campaign",
                campaign=ref.campaign,
                environment=engine.config.spec.name,
                arm=engine.config.settings.arm,
                role=ref.role,
                operator="fault",
                notes=text,
                bakeoff_version=bakeoff_version(),
                t_started=now(),
                detail_json=json.dumps(
                    {"trial": ref.trial, "traceback": "".join(traceback.format_exception(fault))[-TRACE:]}
                ),
            )
        )
        record(engine, Progress(ref=ref, started=now(), infra="unforeseen", infra_text=what))
    except Superseded:
        raise
    except (StoreError, ValueError) as error:
        engine.emit(Note(f"{ref.trial} remains open, its fault was not recorded: {error}"))
    return text
