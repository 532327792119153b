"""What a Prefect server needs once before it runs Bakeoff's deployments: pools and automations.

`bakeoff setup-server` calls this against the server at PREFECT_API_URL; running it again changes nothing.
"""

from __future__ import annotations

from datetime import timedelta

from prefect.automations import Automation
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, DoNothing
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound

from flows.nightwatch import ENDED, PROGRESS, RESOURCE, STALLED_S, STARTED

# Two kinds of pools: campaigns waiting in a bounded pool would hold the places their own trials wait for.
POOLS = {
    "campaigns": "campaign flows; they wait, they do not compute",
    "trials": "trials on CPU machines",
    "trials-gpu": "trials on machines with accelerators",
}
ZOMBIE = "bakeoff: flow run without a heartbeat is crashed"
STALLED = "bakeoff: campaign stalled"
# Three heartbeats of the 30 s that prefect.yaml sets; Prefect's own default is 180 s, hence only runs with our tag.
SILENT_S = 90
TAG = "prefect.tag.bakeoff"


async def setup_server() -> list[str]:
    """Create the process work pools and the automations where absent; one line per thing done or found."""
    done: list[str] = []
    async with get_client() as client:
        for name, description in POOLS.items():
            done.append(await _pool(client, name, description))
        known = {automation.name for automation in await client.read_automations()}
    for automation in (_zombie(), _stalled()):
        if automation.name not in known:
            await automation.acreate()
        done.append(f"automation {automation.name!r}: {'there' if automation.name in known else 'created'}")
    return done


async def _pool(client: PrefectClient, name: str, description: str) -> str:
    try:
        pool = await client.read_work_pool(name)
        return f"work pool {name}: there (type {pool.type})"
    except ObjectNotFound:
        await client.create_work_pool(WorkPoolCreate(name=name, type="process", description=description))
        return f"work pool {name}: created (type process)"


def _zombie() -> Automation:
    """A self-hosted server does not notice by itself that worker and run were killed together."""
    return Automation(
        name=ZOMBIE,
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification({"prefect.resource.id": [TAG]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENT_S),
        ),
        actions=[
            ChangeFlowRunState(
                name=None, state=StateType.CRASHED, message=f"no heartbeat for {SILENT_S} s", force=False
            )
        ],
    )


def _stalled() -> Automation:
    """Fires when a campaign begins or ends a trial and then neither again for `STALLED_S`.

    It only shows in the event feed as it comes; add an action of your own (mail, chat) to it in the UI.
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
