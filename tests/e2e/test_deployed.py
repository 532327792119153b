"""Deployed mode: a real Prefect server, `prefect deploy --all`, a worker per pool, `prefect deployment run`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import quick

from flows.server import PRIVATE, _free_port

WORKER = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"


class Lab:
    """A server, two workers and their environment; everything it started is ended by pid."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        quick.make(folder / "recipes")
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}/api"
        self.env = {
            **quick.environ(folder / "home", folder / "recipes"),
            **PRIVATE,
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "BAKEOFF_CHECKOUT": str(quick.ROOT),
            "PYTHONPATH": str(quick.ROOT),
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def spawn(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", WORKER, *arguments], env=self.env, cwd=quick.ROOT, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def prefect(self, *arguments: str, timeout: float = 240) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            env=self.env, cwd=quick.ROOT, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"prefect {arguments}: {done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        return "\n".join(f"--- {p.name}\n{p.read_text()[-4000:]}" for p in self.folder.glob("*.log"))

    def start_server(self) -> None:
        self.spawn(
            "server",
            "-m",
            "prefect",
            "server",
            "start",
            "--host",
            "127.0.0.1",
            "--port",
            self.url.split(":")[2].split("/")[0],
        )
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(self.logs())

    def stop(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("deployed"))
    try:
        lab.start_server()
        quick.bakeoff("prepare", "quick", env=lab.env, cwd=lab.folder)
        first = quick.bakeoff("setup-server", env=lab.env, cwd=lab.folder).stdout
        assert first.count("created") == 4, first
        assert quick.bakeoff("setup-server", env=lab.env, cwd=lab.folder).stdout.count(": there") == 4
        lab.prefect("--no-prompt", "deploy", "--all")
        for pool in ("campaigns", "trials"):
            lab.spawn(f"worker-{pool}", "-m", "prefect", "worker", "start", "--pool", pool)
        yield lab
    finally:
        lab.stop()


def api(lab: Lab, path: str, body: dict[str, object]) -> list[dict[str, object]]:
    request = urllib.request.Request(
        f"{lab.url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as reply:
        found: list[dict[str, object]] = json.load(reply)
        return found


@pytest.mark.timeout(400)
def test_a_campaign_runs_through_the_work_pools(lab: Lab) -> None:
    store = lab.folder / "store"
    lab.prefect(
        "deployment", "run", "campaign/campaign", "--watch",
        "--param", "environment=quick", "--param", f"store={store}", "--param", "trials=2",
        "--param", "confirm=false", "--param", "in_flight=2",
    )  # fmt: skip
    events = pd.read_parquet(store / "lineage")
    trials = events.query("event == 'trial'")
    assert sorted(trials["trial"]) == ["t0000", "t0001", "t0002"], lab.logs()
    assert (trials["status"] != "harness_abort").all(), trials[
        ["trial", "numbers_json", "detail_json"]
    ].to_string()
    runs = api(lab, "flow_runs/filter", {})
    named = [str(run["name"]) for run in runs]
    assert sum(name.startswith("quick · ") for name in named) == 3, named
    assert all(run["state_name"] == "Completed" for run in runs), named


def test_a_schedule_that_is_switched_on_gets_a_scheduled_run(lab: Lab) -> None:
    """Newer SQLAlchemy lets the server run and silently schedule nothing; nothing else would notice."""
    name = "campaign/overnight-airbench-mini"
    listed = lab.prefect("deployment", "schedule", "ls", name)
    assert "0 22 * * *" in listed
    lab.prefect("deployment", "schedule", "resume", name, schedule_id(lab, "overnight-airbench-mini"))
    until = time.monotonic() + 90
    while time.monotonic() < until:
        scheduled = api(lab, "flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}})
        if scheduled:
            return
        time.sleep(1)
    raise AssertionError(lab.logs())


def schedule_id(lab: Lab, name: str) -> str:
    with urllib.request.urlopen(f"{lab.url}/deployments/name/campaign/{name}", timeout=20) as reply:
        return str(json.load(reply)["schedules"][0]["id"])
