"""A person's interventions in a campaign: stop, pause, veto, steer; and its status.

Everything but `stop` is a lineage row (event `intervention`), so it reaches a campaign on any machine, and
a claim that a campaign ran unattended can be checked. The campaign reads them before it starts a trial.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import Any

from flows.engine.budget import spent
from flows.engine.campaign_config import CampaignConfig, now
from flows.engine.engine import writer_name
from flows.machine.device_holds import slot_kind, slots_key
from flows.machine.folders import bakeoff_version
from flows.machine.run_lock import holder_of
from flows.machine.slots import busy
from lineage.errors import UsageError
from lineage.log.journal import Journal
from lineage.queries import View
from lineage.records import Row, Status
from lineage.store.objects import Store
from lineage.store.results import list_results

STAGE_OF_RESULT = (("label", "label"), ("measurement", "label"), ("train", "evaluate"), ("build", "train"),
                   ("patch", "build"), ("propose", "patch"))  # fmt: skip


def intervene(
    store: Store,
    config: CampaignConfig,
    what: str,
    note: str = "",
    trial: str | None = None,
    client: str = "",
) -> Row:
    """Record what a person asked for, at the command line or through a `client`: pause, unpause, veto, steer."""
    row = Row(
        event="intervention",
        campaign=config.id,
        environment=config.spec.name,
        arm=config.settings.arm,
        trial=trial,
        operator=what,
        notes=note or None,
        machine=socket.gethostname(),
        bakeoff_version=bakeoff_version(),
        t_started=now(),
        detail_json=json.dumps({"client": client} if client else {}),
    )
    Journal(store, config.id, writer_name()).append(row)
    return row


def paused(view: View) -> bool:
    """True when a person paused the campaign and has not resumed it."""
    last = [row.operator for row in view.events("intervention") if row.operator in ("pause", "unpause")]
    return bool(last) and last[-1] == "pause"


def veto(store: Store, config: CampaignConfig, row: Row, why: str, client: str = "") -> Row:
    """Exclude a trial from leading. Raises UsageError for one that has no score to lead with."""
    if row.status not in (Status.KEEP, Status.DISCARD):
        raise UsageError(
            f"{row.trial} is {row.status}: only a trial with a score can lead, so there is nothing to veto"
        )
    return intervene(store, config, "veto", why, row.trial, client)


def stop_campaign(root: str, campaign: str) -> dict[str, Any]:
    """Send SIGINT to the process that runs the campaign. Returns what was done, as facts and as a sentence."""
    holder = holder_of(root, campaign)
    if holder is None:
        return {
            "running": False,
            "text": f"{campaign}: not running on this machine; nothing to stop",
        }
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return {"running": True, "text": f"{campaign}: runs as {holder}; stop it there"}
    pid = int(str(holder["pid"]))
    os.kill(pid, signal.SIGINT)  # as Ctrl-C does: a running Prefect flow replaces the handler of SIGTERM
    return {
        "running": True,
        "pid": pid,
        "text": f"{campaign}: asked process {pid} to stop; `bakeoff resume {root}` continues it",
    }


def stage_of(store: Store, campaign: str, trial: str) -> str:
    """The stage of an open trial, from the results that it has stored."""
    names = list_results(store, campaign, trial)
    for part, stage in STAGE_OF_RESULT:
        if any(part in name for name in names):
            return stage
    return "propose"


def status(root: str, store: Store, config: CampaignConfig, view: View) -> dict[str, Any]:
    """The status of a campaign: owner, open trials with their stages, what is spent."""
    used = spent(view, now())
    leader = view.ranking.leader()
    return {
        "run": root,
        "campaign": config.id,
        "owner": holder_of(root, config.id),
        "paused": paused(view),
        "trials": used.trials,
        "trials_wanted": config.settings.trials,
        "open": {
            row.trial: {"role": row.role, "stage": stage_of(store, config.id, row.trial or "")}
            for row in view.open_trials()
        },
        "slots_busy_here": busy(slot_kind(config.spec.budget.gpus, slots_key(root, config.id))),
        "incumbent": view.ranking.incumbent,
        "leader": leader[0] if leader else None,
        "usd": used.usd,
        "tokens": used.tokens,
        "cpu_s": used.cpu_s,
        "interventions": view.count("intervention"),
    }
