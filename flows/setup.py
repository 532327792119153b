"""What a Prefect server needs once before it runs Bakeoff's deployments: pools and automations.

`bakeoff setup-server` calls this against the server at PREFECT_API_URL; running it again changes nothing.
"""

from __future__ import annotations

from datetime import timedelta

from prefect.automations import Automation
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound

# Two kinds of pools: campaigns waiting in a bounded pool would hold the places their own trials wait for.
POOLS = {
    "campaigns": "campaign flows; they wait, they do not compute",
    "trials": "trials on CPU machines",
    "trials-gpu": "trials on machines with accelerators",
}
ZOMBIE = "bakeoff: flow run without a heartbeat is crashed"
HEARTBEAT_S, SILENT_S = 30, 90


async def setup_server() -> list[str]:
    """Create the process work pools and the zombie automation where absent; one line per thing done or found."""
    done: list[str] = []
    async with get_client() as client:
        for name, description in POOLS.items():
            done.append(await _pool(client, name, description))
        known = {automation.name for automation in await client.read_automations()}
    if ZOMBIE in known:
        done.append(f"automation {ZOMBIE!r}: there")
    else:
        await _zombie().acreate()
        done.append(f"automation {ZOMBIE!r}: created")
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
