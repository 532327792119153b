"""A campaign and its MCP clients as processes of their own: over pipes beside its own lanes, over HTTP with kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pandas as pd
import pytest
import quick
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import Implementation

ME = Implementation(name="explorer", version="2.1")
ELSEWHERE = {"path": "model.py", "search": "PIXEL_MAX = 16.0", "replace": "PIXEL_MAX = 17.0"}
TOKEN = "a token of the test"


def rate(value: str) -> dict[str, Any]:
    edit = {"path": "fitting.py", "search": "LR = 0.1  #", "replace": f"LR = {value}  #"}
    return {"role": "training", "hypothesis": f"a rate of {value}", "edits": [edit], "parent": "t0000"}


def apart(work: Callable[[], Awaitable[Any]]) -> Any:
    """A thread of its own: the browser tests leave a running loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(anyio.run, work).result()


async def call(client: Client, tool: str, **given: Any) -> Any:
    result = await client.call_tool(tool, given)
    text = result.content[0].text  # type: ignore[union-attr]
    return text if result.is_error or not text.startswith("{") else json.loads(text)


async def done(client: Client, proposal: str) -> Any:
    with anyio.fail_after(200):
        while True:
            found = await call(client, "wait", proposal=proposal, seconds=20)
            assert found["state"] != "not taken", found
            if found["state"] == "done":
                return found


@contextmanager
def process(env: dict[str, str], cwd: Path, log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        running = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments],
            env={**env, "PYTHONPATH": str(quick.ROOT)},
            cwd=cwd,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield running
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGINT)
            try:
                running.wait(30)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def wait_for(path: Path, text: str, seconds: float = 150) -> str:
    until = time.monotonic() + seconds
    while text not in path.read_text():
        assert time.monotonic() < until, path.read_text()
        time.sleep(0.1)
    return path.read_text()


def rows(run: Path, event: str) -> Any:
    return pd.read_parquet(run / "lineage").query(f"event == '{event}'").sort_values("trial")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    quick.make(tmp_path / "recipes")
    made = quick.environ(tmp_path / "home", tmp_path / "recipes")
    quick.bakeoff("prepare", "quick", env=made, cwd=tmp_path)
    return made


@pytest.mark.slow
def test_three_trials_over_pipes_while_the_campaigns_own_lanes_go_on(
    tmp_path: Path, env: dict[str, str]
) -> None:
    own = [
        {"role": "", "proposer": "", "parent": "", "hypothesis": f"{value} steps",
         "edits": [{"path": "fitting.py", "search": "STEPS = 300  #", "replace": f"STEPS = {value}  #"}]}
        for value in range(200, 209)
    ]  # fmt: skip
    (tmp_path / "script.json").write_text(json.dumps(own))
    (tmp_path / "c.toml").write_text(f'proposer = "scripted"\nscript = "{tmp_path / "script.json"}"\n')
    log, run = tmp_path / "out.log", tmp_path / "r"
    flags = (
        "--config",
        "c.toml",
        "--run",
        "r",
        "--trials",
        "8",
        "--role",
        "training",
        "--no-confirm",
        "--plain",
    )
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "flows.cli", "mcp", "r"],
        env={**env, "PYTHONPATH": str(quick.ROOT)},
        cwd=tmp_path,
    )

    async def work() -> tuple[list[Any], str]:
        async with Client(server, client_info=ME) as client:
            await call(client, "pause", why="so that no own trial is faster")
            wait_for(log, "paused by a person")
            outside = await call(client, "submit", **{**rate("0.2"), "edits": [ELSEWHERE]})
            handed = [await call(client, "submit", **rate(value)) for value in ("0.2", "0.3", "0.15")]
            await anyio.sleep(2)
            await call(client, "unpause")
            return [await done(client, one["proposal"]) for one in handed], outside

    with process(env, tmp_path, log, "run", "quick", *flags) as campaign:
        wait_for(log, "t0000")
        outcomes, outside = apart(work)
        assert campaign.wait(200) == 0, log.read_text()
    assert "not handed in. outside_surface: " in outside, outside
    trials = rows(run, "trial")
    assert len(trials) == 1 + 8, log.read_text()
    mine = trials.query("proposer == 'mcp'")
    assert set(mine["trial"]) == {one["trial"] for one in outcomes}
    assert set(mine["model"]) == {"explorer 2.1"} and set(mine["role"]) == {"training"}
    assert set(mine["hypothesis"]) == {"a rate of 0.2", "a rate of 0.3", "a rate of 0.15"}
    assert set(mine["status"]) <= {"keep", "discard"} and mine["score"].notna().all()
    assert len(trials.query("proposer == 'scripted'")) == 5
    shown = quick.call("show", "r", outcomes[0]["trial"], env=env, cwd=tmp_path).stdout
    assert "mcp explorer 2.1" in shown
    assert quick.call("verify", "r", env=env, cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_kills_of_server_and_campaign_lose_and_repeat_nothing(tmp_path: Path, env: dict[str, str]) -> None:
    env = {**env, "BAKEOFF_MCP_TOKEN": TOKEN}
    run, first, second = tmp_path / "r", tmp_path / "first.log", tmp_path / "second.log"
    flags = ("--proposer", "mcp", "--run", "r", "--trials", "2", "--no-confirm", "--plain")

    def over_http(log: Path, work: Callable[[Client], Awaitable[Any]]) -> Any:
        address = wait_for(log, "/mcp\n").split("MCP: ")[1].split("\n")[0]
        assert httpx2.post(address, json={}).status_code == 401

        async def connected() -> Any:
            http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=90)
            async with (
                http,
                Client(streamable_http_client(address, http_client=http), client_info=ME) as client,
            ):
                return await work(client)

        return apart(connected)

    with process(env, tmp_path, first, "run", "quick", *flags) as campaign:
        wait_for(first, "t0000: baseline")
        with process(env, tmp_path, tmp_path / "mcp1.log", "mcp", "r", "--http") as server:
            handed = over_http(tmp_path / "mcp1.log", lambda client: call(client, "submit", **rate("0.2")))
            os.kill(server.pid, signal.SIGKILL)
        wait_for(first, "t0001")
        os.kill(campaign.pid, signal.SIGKILL)
    killed = json.loads(quick.call("status", "r", "--json", env=env, cwd=tmp_path).stdout)
    assert list(killed["open"]) == ["t0001"] and killed["trials"] == 0

    with process(env, tmp_path, tmp_path / "mcp2.log", "mcp", "r", "--http") as server:
        log = tmp_path / "mcp2.log"
        assert over_http(log, lambda client: call(client, "submit", **rate("0.2"))) == handed
        told = over_http(log, lambda client: call(client, "wait", proposal=handed["proposal"], seconds=0))
        assert told["state"] == "under way" and "bakeoff resume" in told["note"]
        with process(env, tmp_path, second, "resume", "r", "--plain") as campaign:
            assert over_http(log, lambda client: done(client, handed["proposal"]))["trial"] == "t0001"
            other = over_http(log, lambda client: call(client, "submit", **rate("0.3")))
            over_http(log, lambda client: done(client, other["proposal"]))
            assert campaign.wait(120) == 0, second.read_text()
        late = over_http(log, lambda client: call(client, "submit", **rate("0.4")))
        told = over_http(log, lambda client: call(client, "wait", proposal=late["proposal"]))
        assert told["state"] == "not taken" and "all 2 trials are done" in told["note"]
    assert list(rows(run, "trial")["trial"]) == ["t0000", "t0001", "t0002"]
    assert list(rows(run, "submitted")["trial"]) == ["t0000", "t0001", "t0002"]
    assert quick.call("verify", "r", env=env, cwd=tmp_path).returncode == 0
