"""The local Prefect server of an embedded campaign: started on a free port, stopped again.

SQLite under this machine's home, one Prefect home per run directory, nothing leaves the machine:
analytics, telemetry and promotion are off. A server of the user's own is used instead when
PREFECT_API_URL is set.

A server that dies during a campaign is started again on the same port, so the campaign's calls
reach it again.

Limits: the database is for display and dispatch only; the store has the record. On Linux the
server dies with the process that started it; elsewhere a crash leaves it running until the next
campaign on the same run directory stops it by the recorded pid.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil

from flows.machine.folders import home, prefect_home
from lineage.errors import InfraFault
from lineage.safe_text import for_terminal

START_SECONDS = 300  # a machine with ten processes per core needs minutes for the imports
GUARD_SECONDS = 0.5
OWN_SECONDS = 10  # for a server that a person named
STOP_SECONDS = 1.5  # the database is SQLite in WAL mode: a kill loses nothing that was committed
PRIVATE = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLI_PROMPT": "false",
    # The campaign has a display of its own; what Prefect logs is in its UI.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # With the in-memory storage, a slot taken during a server restart is never released.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # An interactive bar of the server's own would overwrite the campaign's display.
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
}


@contextmanager
def embedded_server(root: str) -> Iterator[str]:
    """Yield the API URL of a Prefect server for the run at `root`, and set this process's environment to it.

    Must be entered before `prefect` is imported. Raises InfraFault when no server answers in time.
    """
    own = os.environ.get("PREFECT_API_URL")
    os.environ.update({key: value for key, value in PRIVATE.items() if key not in os.environ})
    _bypass_proxy()
    if own:
        _require_answer(own)
        yield own
        return
    folder = prefect_home(root)
    _stop_leftover(folder)
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    running = [_start(folder, port)]
    done = threading.Event()
    guard = threading.Thread(target=_guard, args=(folder, port, running, done), daemon=True)
    saved = {key: os.environ.get(key) for key in ("PREFECT_API_URL", "PREFECT_HOME")}
    os.environ.update(PREFECT_API_URL=url, PREFECT_HOME=str(folder))
    guard.start()
    try:
        yield url
    finally:
        done.set()
        _stop(running[-1], folder)
        guard.join()
        _stop(running[-1], folder)  # one that the guard was just starting
        for key, value in saved.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _bypass_proxy() -> None:
    """Exclude this machine from the proxy settings."""
    for key in ("NO_PROXY", "no_proxy"):
        hosts = [h for h in os.environ.get(key, "").split(",") if h]
        os.environ[key] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))


def _guard(folder: Path, port: int, running: list[subprocess.Popen[bytes]], done: threading.Event) -> None:
    """Start the server again when it dies before `done`.

    The thread stays until `done`: PDEATHSIG counts the thread that started a process as its parent.
    """
    while not done.wait(GUARD_SECONDS):
        if running[-1].poll() is not None:
            try:
                running.append(_start(folder, port))
            except InfraFault:  # its log has the reason; the campaign waits for it as for any server
                continue


def _start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / "prefect.db"
    template = _template()
    if not database.exists() and template.exists():
        shutil.copyfile(template, database)
    url = f"http://127.0.0.1:{port}/api"
    env = {
        **os.environ,
        **PRIVATE,
        "PREFECT_HOME": str(folder),
        "PYTHONSAFEPATH": "1",  # a person's click.py or types.py in the working folder is not the server's
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
    }
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "prefect",
                "server",
                "start",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            env=env,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )
    (folder / "server.json").write_text(json.dumps({"pid": process.pid, "url": url}), "utf-8")
    _wait_healthy(process, url, folder)
    return process


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """On Linux, have the kernel send this process a signal when its parent dies, in every way of dying."""
    ctypes.CDLL(None).prctl(1, int(number), 0, 0, 0)  # PR_SET_PDEATHSIG


def _template() -> Path:
    """A migrated, empty database: migrations cost 10-25 s, a copy milliseconds."""
    from importlib.metadata import version

    return home() / "prefect" / f"template-{version('prefect')}.db"


def _wait_healthy(process: subprocess.Popen[bytes], url: str, folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with opener.open(f"{url}/health", timeout=20) as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    code = process.poll()
    _stop(process, folder)
    what = f"did not answer within {START_SECONDS} s" if code is None else f"ended at once (exit {code})"
    raise InfraFault(
        "prefect_server", f"the local Prefect server {what}; {_last_lines(folder / 'server.log')}"
    )


def _last_lines(log: Path, count: int = 6) -> str:
    """What a server said last, in one line, and where all of it is."""
    try:
        lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    said = " / ".join(for_terminal(line)[-200:] for line in lines[-count:]) or "nothing"
    return f"it said last: {said} (its log: {log})"


def _require_answer(url: str) -> None:
    """Raise InfraFault unless the server of PREFECT_API_URL answers."""
    opener, reason = urllib.request.build_opener(), "no answer"
    for _ in range(2):
        try:
            with opener.open(f"{url.rstrip('/')}/health", timeout=OWN_SECONDS / 2) as reply:
                if reply.status == 200:
                    return
                reason = f"HTTP {reply.status}"
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code}"
            if error.code in (
                401,
                403,
                404,
            ):  # it is there; whether it lets us in is for Prefect's own client
                return
        except (urllib.error.URLError, OSError, ValueError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
    raise InfraFault(
        "prefect_server",
        f"PREFECT_API_URL={url}: no Prefect server answers there within {OWN_SECONDS} s ({reason}); start it, or unset "
        "PREFECT_API_URL to let this campaign start one of its own",
    )


def _stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
    (folder / "server.json").unlink(missing_ok=True)


def save_template(root: str) -> None:
    """Keep a freshly migrated database for the next run; called while its server is still empty.

    SQLite's own backup interface takes a consistent copy under a live writer.
    """
    import sqlite3

    template = _template()
    database = prefect_home(root) / "prefect.db"
    if template.exists() or not database.exists():
        return
    template.parent.mkdir(parents=True, exist_ok=True)
    staging = template.with_suffix(f".{os.getpid()}")
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(staging)) as target:
        source.backup(target)
    staging.replace(template)


def live_url(root: str) -> str | None:
    """API URL of the server that a campaign on this run has up now on this machine, if any."""
    try:
        told = json.loads((prefect_home(root) / "server.json").read_text("utf-8"))
        return str(told["url"]) if psutil.pid_exists(int(told["pid"])) else None
    except (OSError, ValueError, KeyError):
        return None


def _stop_leftover(folder: Path) -> None:
    """End a server that an earlier campaign on this run left running (no PDEATHSIG on this platform)."""
    try:
        pid = int(json.loads((folder / "server.json").read_text("utf-8"))["pid"])
        left = psutil.Process(pid)
        if "prefect" in " ".join(left.cmdline()):
            left.terminate()
            left.wait(5)
    except (OSError, ValueError, KeyError, psutil.Error):
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
