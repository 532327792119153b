"""A campaign as MCP tools, through the official client in this process; the loop that takes what clients hand in."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import quick
from mcp.client.client import Client
from mcp_types import Implementation

from flows.campaign import loop, watchdog
from flows.campaign.watchdog import Watchdog
from flows.engine.campaign_config import now
from flows.engine.engine import Engine
from flows.engine.live_events import Note
from flows.engine.proposers import refuse_arm
from flows.engine.stage_records import TrialRef
from flows.mcp.campaign_access import CampaignAccess, open_access
from flows.mcp.http import with_token
from flows.mcp.server import make_server
from flows.trial.client_proposals import taken_by, waiting
from flows.trial.stages import propose
from lineage.errors import UsageError
from lineage.records import Row, Status

ME = Implementation(name="explorer", version="2.1")
RATE = {"path": "fitting.py", "search": "LR = 0.1  #", "replace": "LR = 0.2  #"}


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(watchdog, "event", lambda *_: None)  # no Prefect server here to tell
    with quick.engine(tmp_path, trials=4, slots=1, proposer="mcp") as engine:
        yield engine


def outcome(engine: Engine, trial: str, role: str, status: Status, score: float) -> Row:
    row = Row(
        event="trial", campaign=engine.config.id, trial=trial, role=role, status=status, score=score, scores=[score],
        parent=None if trial == "t0000" else "t0000", source_sha256=engine.config.start_sha256,
        sealed_score=0.4321, t_started=now(), t_finished=now(),
    )  # fmt: skip
    engine.append(row)
    return row


def in_thread(work: Callable[[], Awaitable[Any]]) -> Any:
    """A thread of its own: the browser tests leave a running loop in this one."""

    async def run() -> Any:
        return await work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, run()).result()


async def call(client: Client, tool: str, **given: Any) -> tuple[bool, str]:
    result = await client.call_tool(tool, given)
    return bool(result.is_error), result.content[0].text  # type: ignore[union-attr]


def opened(engine: Engine) -> CampaignAccess:
    return open_access(engine.root, engine.config.id)


def test_a_client_reads_checks_and_hands_in_once(engine: Engine) -> None:
    outcome(engine, "t0000", "model", Status.BASELINE, 0.8)

    async def work() -> dict[str, tuple[bool, str]]:
        async with Client(make_server(opened(engine)), client_info=ME) as client:
            edit = {"role": "training", "edits": [RATE]}
            said = {
                "status": await call(client, "status"),
                "board": await call(client, "leaderboard"),
                "trial": await call(client, "read_trial", trial="0"),
                "unknown": await call(client, "read_trial", trial="t0900"),
                "surface": await call(client, "surface", role="training"),
                "no role": await call(client, "surface", role="trainin"),
                "source": await call(client, "source", path="fitting.py"),
                "check": await call(client, "check_edit", **edit),
                "outside": await call(client, "check_edit", role="model", edits=[RATE]),
                "submitted outside": await call(
                    client, "submit", role="model", hypothesis="a faster rate", edits=[RATE]
                ),
                "no edit": await call(client, "submit", role="training", hypothesis="nothing"),
                "no reason": await call(client, "submit", hypothesis=" ", **edit),
                "broken": await call(
                    client, "submit", role="training", hypothesis="broken", files={"fitting.py": "def f(:\n"}
                ),
                "first": await call(client, "submit", hypothesis="a faster rate", **edit),
                "again": await call(client, "submit", hypothesis="a faster rate", **edit),
                "now": await call(client, "tried_now"),
            }
            said["wait"] = await call(
                client, "wait", proposal=json.loads(said["first"][1])["proposal"], seconds=0
            )
            figures = await client.read_resource("bakeoff://figures")
            said["figures"] = (False, figures.contents[0].text)  # type: ignore[union-attr]
            prompt = await client.get_prompt("continue_research", {"role": "training"})
            said["prompt"] = (False, prompt.messages[0].content.text)  # type: ignore[union-attr]
            return said

    said = in_thread(work)
    wrong = {name for name, (failed, _) in said.items() if failed}
    assert wrong == {"unknown", "no role", "submitted outside", "no edit", "no reason", "broken"}, said
    assert "t0000" in said["board"][1] and "passed surface" in said["check"][1]
    assert "did you mean 'training'" in said["no role"][1]
    assert "outside_surface" in said["outside"][1] and "outside_surface" in said["submitted outside"][1]
    assert "LR = 0.1" in said["source"][1] and "fitting.py" in said["surface"][1]
    assert said["first"] == said["again"]
    assert json.loads(said["wait"][1])["state"] == "waiting"
    assert "explorer 2.1" in said["now"][1]
    assert "fitting.py" in said["prompt"][1]
    everything = "".join(text for _, text in said.values())
    assert "0.4321" not in everything, "a score on the sealed split reached a client"
    assert engine.config.secret not in everything
    handed = waiting(engine.store, engine.config.id, ())
    assert [(found.client, found.proposal.model, found.proposal.role) for found in handed] == [
        ("explorer 2.1", "explorer 2.1", "training")
    ]


def test_steering_is_recorded_with_the_client(engine: Engine) -> None:
    outcome(engine, "t0000", "model", Status.BASELINE, 0.8)
    outcome(engine, "t0001", "model", Status.KEEP, 0.9)

    async def work() -> list[tuple[bool, str]]:
        async with Client(make_server(opened(engine)), client_info=ME) as client:
            return [
                await call(client, "steer", note="look at the rate"),
                await call(client, "pause", why="lunch"),
                await call(client, "unpause"),
                await call(client, "veto", trial="t0001", why="uses the order"),
                await call(client, "veto", trial="t0000", why="no score to lead with"),
            ]

    said = in_thread(work)
    assert [failed for failed, _ in said] == [False, False, False, False, True]
    events = engine.view().events("intervention")
    assert [row.operator for row in events] == ["steer", "pause", "unpause", "veto"]
    assert {json.loads(row.detail_json)["client"] for row in events} == {"explorer 2.1"}
    assert engine.steering() == "look at the rate"
    assert engine.view().ranking.vetoed == {"t0001"}


def test_each_proposal_gets_one_trial_and_no_more_than_there_are(engine: Engine) -> None:
    """Five are handed in, four trials are allowed; a campaign killed after a claim continues that trial first."""
    outcome(engine, "t0000", "model", Status.BASELINE, 0.8)
    access, handed = opened(engine), list[str]()

    async def hand_in() -> None:
        async with Client(make_server(access), client_info=ME) as client:
            for rate in range(2, 7):
                edit = {**RATE, "replace": f"LR = 0.{rate}  #"}
                _, text = await call(
                    client, "submit", role="training", hypothesis=f"rate {rate}", edits=[edit]
                )
                handed.append(json.loads(text)["proposal"])

    in_thread(hand_in)
    taken: Counter[str] = Counter()
    killed = [True]

    async def run_one(ref: TrialRef) -> Row:
        if ref.trial == "t0002" and killed.pop() if killed else False:
            engine.cancel.set()
            raise loop.Interrupted("the campaign was stopped")
        taken[(await asyncio.to_thread(propose, engine, ref)).hypothesis] += 1
        return outcome(engine, ref.trial, ref.role, Status.DISCARD, 0.7)

    async def work() -> str:
        turns = asyncio.Semaphore(1)
        state = loop.Campaign(engine, run_one, run_one, now(), turns, Watchdog(engine), now())
        await loop._lanes(state)
        return state.ended_because

    with pytest.raises(loop.Interrupted):
        in_thread(work)
    assert json.loads(json.dumps(access.outcome(handed[1])))["state"] == "under way"
    engine.cancel.clear()
    assert in_thread(work) == "all 4 trials are done"
    assert taken == {f"rate {rate}": 1 for rate in range(2, 6)}
    assert taken_by(engine.view()) == {name: f"t000{at}" for at, name in enumerate(handed[:4], 1)}
    row = access.outcome(handed[0])
    assert (row["state"], row["trial"], row["status"]) == ("done", "t0001", "discard")
    assert access.outcome(handed[4])["state"] == "waiting"


def test_a_campaign_that_waits_for_clients_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "event", lambda *_: None)
    with quick.engine(tmp_path, trials=1, slots=1, proposer="mcp", idle_min=0.001) as engine:
        outcome(engine, "t0000", "model", Status.BASELINE, 0.8)
        said: list[str] = []

        def on(event: object) -> None:
            if isinstance(event, Note):
                said.append(event.text)
                if "no client has handed in" in event.text:
                    engine.cancel.set()

        engine.sinks.append(on)

        async def run_one(ref: TrialRef) -> Row:
            raise AssertionError(f"{ref.trial} was begun for nobody")

        async def work() -> None:
            turns = asyncio.Semaphore(1)
            await loop._lanes(loop.Campaign(engine, run_one, run_one, now(), turns, Watchdog(engine), now()))

        in_thread(work)
    assert "waits for proposals of clients" in said[0] and f"bakeoff mcp {engine.root}" in said[0]
    assert said[-1] == "no client has handed in a proposal for 0.001 min"


def test_an_object_store_will_do(tmp_path: Path, s3_root: str) -> None:
    with quick.engine(tmp_path, root=s3_root, trials=2, proposer="mcp") as engine:
        outcome(engine, "t0000", "model", Status.BASELINE, 0.8)
        access = opened(engine)

        async def work() -> list[tuple[bool, str]]:
            async with Client(make_server(access), client_info=ME) as client:
                edit = {"role": "training", "hypothesis": "a faster rate", "edits": [RATE]}
                said = [await call(client, "leaderboard"), await call(client, "source", path="fitting.py")]
                return [*said, await call(client, "submit", **edit), await call(client, "submit", **edit)]

        board, source, first, again = in_thread(work)
        assert "t0000" in board[1] and "LR = 0.1" in source[1] and first == again
        assert json.loads(first[1])["proposal"] == waiting(engine.store, engine.config.id, ())[0].id


def test_http_wants_the_token() -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})

    async def work() -> list[int]:
        transport = httpx2.ASGITransport(app=with_token(answer, "secret"))  # type: ignore[arg-type]
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            tokens = ["Bearer secret", "Bearer other", "secret", ""]
            return [(await client.get("/mcp", headers={"Authorization": t})).status_code for t in tokens]

    assert in_thread(work) == [200, 401, 401, 401]


@pytest.mark.parametrize("arm", ["random", "no_lineage"])
def test_clients_read_the_record_so_two_arms_refuse_them(arm: str) -> None:
    with pytest.raises(UsageError, match=f"arm {arm}: a client of `bakeoff mcp` reads the record"):
        refuse_arm("mcp", arm)
