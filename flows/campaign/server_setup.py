"""Sets up a Prefect server for Bakeoff's deployments, once: work pools and automations.

`bakeoff setup-server` calls this against the server at PREFECT_API_URL; running it again changes nothing.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, DoNothing
from prefect.events.schemas.automations import Automation as Found
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture, TriggerTypes
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound

from flows.campaign.watchdog import ENDED, PROGRESS, RESOURCE, STALLED_S, STARTED

# Two kinds of pools: campaigns in a bounded pool would occupy the places that their own trials wait for.
POOLS = {
    "campaigns": "campaign flows; they wait, they do not compute",
    "trials": "trials on CPU machines",
    "trials-gpu": "trials of environments whose budget has GPUs",
}
ZOMBIE = "bakeoff: flow run without a heartbeat is crashed"
UNBORN = "bakeoff: flow run that was taken up and never began is crashed"
STALLED = "bakeoff: campaign stalled"
# Three heartbeats of the 30 s that prefect.yaml sets; Prefect's own default is 180 s, hence only runs with our tag.
SILENT_S = 90
UNBORN_S = 300  # a worker needs 2 to 30 s from taking a run up to its first line, with the machine's load
FLOW_RUN = "prefect.flow-run"
TAG = "prefect.tag.bakeoff"


async def setup_server() -> list[str]:
    """Create the process work pools and the automations where absent; one line per thing done or found."""
    done: list[str] = []
    async with get_client() as client:
        for name, description in POOLS.items():
            done.append(await _pool(client, name, description))
        known = {automation.name: automation for automation in await client.read_automations()}
        for ours in (zombie(), unborn(), stalled()):
            done.append(await _automation(client, ours, known.get(ours.name)))
    return done


async def _automation(client: PrefectClient, ours: Automation, found: Found | None) -> str:
    """Create it, or update the trigger of an earlier version's; actions that a person added stay."""
    if found is None or found.id is None:
        await ours.acreate()
        return f"automation {ours.name!r}: created"
    if _asked(found.trigger) == _asked(ours.trigger):
        return f"automation {ours.name!r}: there"
    kept = found.model_dump(exclude={"id", "owner_resource", "trigger"})
    await client.update_automation(found.id, AutomationCore(**kept, trigger=ours.trigger))
    return f"automation {ours.name!r}: updated"


def _asked(trigger: TriggerTypes) -> dict[str, Any]:
    """What a trigger asks for, without what the server adds to it."""
    names = {"after", "expect", "match", "match_related", "for_each", "posture", "threshold", "within"}
    return trigger.model_dump(mode="python", include=names)


async def _pool(client: PrefectClient, name: str, description: str) -> str:
    try:
        pool = await client.read_work_pool(name)
        return f"work pool {name}: there (type {pool.type})"
    except ObjectNotFound:
        await client.create_work_pool(WorkPoolCreate(name=name, type="process", description=description))
        return f"work pool {name}: created (type process)"


def zombie() -> Automation:
    """Crash a run whose heartbeat stops: a self-hosted server does not notice when worker and run are killed together.

    It watches from the run's first moment: a run that dies before its first heartbeat would otherwise stay running.
    """
    return _crashed(ZOMBIE, {f"{FLOW_RUN}.Running", f"{FLOW_RUN}.heartbeat"}, SILENT_S, "no heartbeat")


def unborn() -> Automation:
    """The same for a run whose worker died between taking it up and its first line."""
    taken = {f"{FLOW_RUN}.{event}" for event in ("Pending", "Submitting", "pull-step.executed")}
    return _crashed(UNBORN, taken, UNBORN_S, "taken up by a worker and silent")


def _crashed(name: str, after: set[str], within_s: float, why: str) -> Automation:
    """Crash a run with our tag when nothing follows one of the events `after`."""
    return Automation(
        name=name,
        trigger=EventTrigger(
            after=after,
            expect={f"{FLOW_RUN}.*"},
            match=ResourceSpecification({"prefect.resource.id": [f"{FLOW_RUN}.*"]}),
            match_related=ResourceSpecification({"prefect.resource.id": [TAG]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=within_s),
        ),
        actions=[
            ChangeFlowRunState(
                name=None, state=StateType.CRASHED, message=f"{why} for {within_s:g} s", force=False
            )
        ],
    )


def stalled() -> Automation:
    """Fires when a campaign begins or ends a trial and then neither again for `STALLED_S`.

    As installed it only appears in the event feed; add an action (mail, chat) to it in the UI.
    """
    return Automation(
        name=STALLED,
        trigger=EventTrigger(
            after={STARTED, PROGRESS},
            expect={PROGRESS, ENDED},
            match=ResourceSpecification({"prefect.resource.id": [f"{RESOURCE}.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=STALLED_S),
        ),
        actions=[DoNothing()],
    )
