"""A real Prefect server with workers for tests of the deployments; everything it started is ended by pid.

Use: `lab = Lab(folder)`, `lab.start_server()`, `lab.set_up()`, `lab.worker("trials")`, ..., `lab.stop()`. A `machine` is
a folder with homes of its own; workers of different machines share nothing but the server and the store.
Limits: all on this host; SQLite unless `database` is given.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import quick

from flows.machine.prefect_server import PRIVATE, _free_port

# A worker ends on SIGTERM only where SIGINT is not ignored, and a background shell ignores it.
PYTHON = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"

# Prefect waits up to a minute while another writer holds its SQLite database, then answers 503; its own client
# asks again, so do we.
ANSWER_S, BUSY_TRIES = 90, 3


class Lab:
    def __init__(self, folder: Path, database: str = "", extra: dict[str, str] | None = None) -> None:
        self.folder = folder
        quick.make(folder / "recipes")
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.env = {
            **quick.environ(folder / "home", folder / "recipes"),
            **PRIVATE,
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "BAKEOFF_CHECKOUT": str(quick.ROOT),
            "PYTHONPATH": str(quick.ROOT),
            **(extra or {}),
        }
        if database:
            self.env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database
        self.processes: list[subprocess.Popen[bytes]] = []

    def machine(self, name: str) -> dict[str, str]:
        """The environment of another machine: homes of its own."""
        place = self.folder / name
        place.mkdir(exist_ok=True)
        own = quick.environ(place, self.folder / "recipes")
        return {**self.env, **own, "PREFECT_HOME": str(place / "prefect")}

    def spawn(self, name: str, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", PYTHON, *arguments], env=env or self.env, cwd=quick.ROOT, stdout=log, stderr=log,
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

    def start_server(self) -> subprocess.Popen[bytes]:
        process = self.spawn(
            "server", "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)
        )
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return process
            except OSError:
                time.sleep(0.2)
        raise AssertionError(self.logs())

    def set_up(self) -> str:
        """Pools, automations and deployments, as the README says; what `bakeoff setup-server` told."""
        told = quick.bakeoff("setup-server", env=self.env, cwd=self.folder).stdout
        self.prefect("--no-prompt", "deploy", "--all")
        return told

    def worker(
        self, pool: str, name: str = "", env: dict[str, str] | None = None, limit: int = 0, ours: bool = False
    ) -> subprocess.Popen[bytes]:
        """A worker of the pool; `ours`: by `bakeoff worker`, as the scripts for clusters start it."""
        name = name or f"worker-{pool}"
        more = ["--limit", str(limit)] if limit else []
        start = ["-m", "flows.cli", "worker"] if ours else ["-m", "prefect", "worker", "start"]
        return self.spawn(name, *start, "--pool", pool, "--name", name, *more, env=env)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.url}/{path}", data, {"Content-Type": "application/json"}, method=method
        )
        tries = BUSY_TRIES
        while True:
            try:
                with urllib.request.urlopen(request, timeout=ANSWER_S) as reply:
                    said = reply.read()
                return json.loads(said) if said else None
            except urllib.error.HTTPError as refused:
                tries -= 1
                if refused.code != 503 or not tries:
                    told = f"{method} {path}: {refused.code} {refused.read()[:500]!r}"
                    raise AssertionError(told) from refused
                time.sleep(0.5)

    def post(self, path: str, body: Any) -> Any:
        return self.ask("POST", path, body)

    def get(self, path: str) -> Any:
        return self.ask("GET", path)

    def stop(self) -> None:
        self.stop_politely()
        for process in processes_of(self.folder):
            process.kill()

    def stop_politely(self) -> None:
        """SIGTERM to what was started, as a person would; SIGKILL only for what does not go."""
        for process in reversed(self.processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def processes_of(folder: Path) -> list[psutil.Process]:
    """Live processes whose command line or environment names this folder, this one excepted."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ", "status"]):
        info = process.info
        about = " ".join(info["cmdline"] or []) + " ".join((info["environ"] or {}).values())
        if str(folder) in about and process.pid != os.getpid() and info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found
