"""What a coding agent tries from its box to read or change: it gets none of it. Each attempt is real: without the box
the same script, trusted, gets what it looks for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from command_agent import EDIT, agent, box

from tests.fakes import lab

SECRET = "decoy-secret-4f1c9a77e2"
PYTHON = f"'{sys.executable}'" if sys.base_prefix == sys.prefix else "python3"


@dataclass
class Host:
    """Decoys of an engine: data with labels, a store, a key, another workspace, services; what was heard of them."""

    folder: Path
    port: int
    abstract: str
    engine: int
    heard: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, str]:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _serve(listener: socket.socket, heard: list[str]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client, contextlib.suppress(OSError):
            heard.append("a connection")
            client.sendall(f"HTTP/1.0 200 OK\r\n\r\n{SECRET}".encode())
            client.shutdown(socket.SHUT_WR)
            client.settimeout(1)
            while client.recv(4096):
                pass


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    for name in (
        "data/sealed/labels.npy",
        "store/lineage/part.parquet",
        "other/workspace/optim.py",
        ".ssh/id_rsa",
        "key.txt",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(SECRET)
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        place = os.open(folder, os.O_PATH)
        unix.bind(f"/proc/self/fd/{place}/docker.sock")
        os.close(place)
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        name = f"bakeoff-test-{os.urandom(6).hex()}"
        abstract.bind(f"\0{name}")
        code = "import time; time.sleep(600)"
        env = {"PATH": os.defpath, "ANTHROPIC_API_KEY": SECRET}
        engine = subprocess.Popen([sys.executable, "-I", "-S", "-c", code, f"--token={SECRET}"], env=env)
        stack.callback(engine.wait)
        stack.callback(engine.kill)
        found = Host(folder, tcp.getsockname()[1], name, engine.pid)
        for listener in (tcp, unix, abstract):
            if listener is not tcp:
                listener.listen()
            threading.Thread(target=_serve, args=(listener, found.heard), daemon=True).start()
        yield found


def python(code: str) -> str:
    """A line of Python as shell; the host's values are put in where it says {folder}, {port}, {engine}, {abstract}."""
    return f"python3 -c {json.dumps(code)}"


CONNECT = "import socket; s = socket.socket({kind}); s.settimeout(2); s.connect({to}); s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); print(s.recv(999) + s.recv(999))"
# attempt -> shell that prints the secret where it succeeds
READS = {
    "the labels by their path": "cat {folder}/data/sealed/labels.npy",
    "the labels by search": "W={top}; test -d $W || W=/; find $W -xdev -name labels.npy -exec cat {{}} + 2> /dev/null",
    "the store": "cat {folder}/store/lineage/*",
    "a key file": "cat {folder}/key.txt",
    "another home": "cat {folder}/.ssh/id_rsa",
    "another agent's workspace": "cat {folder}/other/workspace/optim.py",
    "the engine's environment": "cat /proc/{engine}/environ",
    "any process's environment": "cat /proc/[0-9]*/environ",
    "any process's command line": "cat /proc/[0-9]*/cmdline",
    "the engine's root": "cat /proc/{engine}/root{folder}/key.txt /proc/1/root{folder}/key.txt",
    "a link that the engine would follow": "ln -sf {folder}/key.txt optim.py; cat optim.py",
    "a service on the host's loopback": python(CONNECT.format(kind="2", to="('127.0.0.1', {port})")),
    "a Unix socket of the host": python(CONNECT.format(kind="1", to="'{folder}/docker.sock'")),
    "an abstract socket of the host": python(CONNECT.format(kind="1", to="b'\\0{abstract}'")),
}
# those that a trusted agent need not succeed in either: there is no relay, or the shell is another process's
PAST_THE_RELAY = {
    "the relay to loopback": "CONNECT 127.0.0.1:{port} HTTP/1.1",
    "the relay to loopback by name": "CONNECT localhost:{port} HTTP/1.1",
    "the relay to loopback in IPv6": "CONNECT [::ffff:7f00:1]:{port} HTTP/1.1",
    "the relay to loopback as a number": "CONNECT 2130706433:{port} HTTP/1.1",
    "the relay to all interfaces": "CONNECT 0.0.0.0:{port} HTTP/1.1",
    "the relay with a user name": "GET http://api.anthropic.com@127.0.0.1:{port}/ HTTP/1.1",
    "the relay with two hosts": "GET http://127.0.0.1:{port}/ HTTP/1.1\\r\\nHost: api.anthropic.com",
}


def said(folder: Path, host: Host, text: str, *, trusted: bool) -> str:
    values = {
        "folder": host.folder,
        "top": host.folder.parent,
        "port": host.port,
        "engine": host.engine,
        "abstract": host.abstract,
    }
    script = f"{EDIT}\n({text.format(**values)}) 2>&1 | head -c 100000\ntrue"
    made = agent(folder, script, trusted=trusted, hosts=("api.anthropic.com:443",)).propose(lab.request())
    return str(json.loads(made.exchange)["agent"]["output"])


@pytest.mark.parametrize("attempt", READS)
def test_nothing_of_the_host_can_be_read(attempt: str, host: Host, tmp_path: Path) -> None:
    before, host.heard[:] = host.facts(), []
    assert SECRET not in said(tmp_path, host, READS[attempt], trusted=False)
    assert host.heard == [] and host.facts() == before
    if "link" not in attempt:
        assert SECRET in said(tmp_path, host, READS[attempt], trusted=True), "the attempt itself works"


@pytest.mark.parametrize("attempt", PAST_THE_RELAY)
def test_the_relay_opens_nothing_of_the_host(attempt: str, host: Host, tmp_path: Path) -> None:
    host.heard[:] = []
    ask = PAST_THE_RELAY[attempt].replace("'", "")
    code = (
        "import socket; s = socket.create_connection(('127.0.0.1', 8911), 5); "
        f"s.sendall(b'{ask}\\r\\n\\r\\n'); print(s.recv(999), s.recv(999))"
    )
    output = said(tmp_path, host, python(code), trusted=False)
    assert ("403 Forbidden" in output or "502" in output) and SECRET not in output
    assert host.heard == []


WRITES = {
    "the host's files": "echo x > {folder}/key.txt; rm -rf {folder}/store",
    "the system's programs": "echo x > /usr/bin/python3; echo x > /bin/sh; rm -f /usr/bin/env",
    "the engine's own programs": "echo x > /opt/bakeoff/start_in_box.py; rm -rf /opt/bakeoff; echo x > /run/bakeoff/check",
    "its mounts": "mount -o remount,rw / && echo remounted-{abstract}; umount /proc && echo remounted-{abstract}",
    "the engine's process": "kill -9 {engine} && echo killed-{abstract}; kill -9 -1",
    "the kernel's settings": "echo '|/tmp/x' > /proc/sys/kernel/core_pattern && echo set-{abstract}",
}


@pytest.mark.parametrize("attempt", WRITES)
def test_nothing_of_the_host_can_be_changed(attempt: str, host: Host, tmp_path: Path) -> None:
    before = host.facts()
    watched = {path: path.read_bytes() for path in (Path("/proc/sys/kernel/core_pattern"), Path("/bin/sh"))}
    tools = {p: p.read_bytes() for p in Path("agents/command").resolve().glob("*.py")}
    output = said(tmp_path, host, WRITES[attempt], trusted=False)
    assert host.abstract not in output
    assert host.facts() == before
    assert {p: p.read_bytes() for p in watched} == watched and {p: p.read_bytes() for p in tools} == tools
    os.kill(host.engine, 0)


def test_a_repository_that_runs_programs_is_not_run_by_the_engine(host: Host, tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    text = (
        f"git config core.fsmonitor 'touch {flag}'; git config core.pager 'touch {flag}'; "
        f"printf '#!/bin/sh\\ntouch {flag}\\n' > .git/hooks/post-checkout; chmod +x .git/hooks/post-checkout"
    )
    said(tmp_path, host, text, trusted=False)
    assert not flag.exists()


def test_two_agents_at_once_do_not_see_each_other(tmp_path: Path) -> None:
    look = f"{EDIT}\necho mine-$$ > mine.txt; sleep 1; find / -path /proc -prune -o -name mine.txt -print 2> /dev/null | wc -l; ps ax 2> /dev/null | grep -c '[s]leep 1'\nrm mine.txt"
    asked = agent(tmp_path, look)
    outputs: list[str] = []

    def one() -> None:
        outputs.append(json.loads(asked.propose(lab.request()).exchange)["agent"]["output"])

    threads = [threading.Thread(target=one) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert [output.split()[0] for output in outputs] == ["1", "1"]


def test_the_probe_finds_what_is_not_held(host: Host) -> None:
    """A box that lets one thing through is refused by name."""
    import dataclasses

    from flows.machine.agent_box import _try

    open_box = dataclasses.replace(box(), folders=(*box().folders, "/tmp"), proc=(), disable_userns=False)
    got = _try(open_box)
    assert "data and labels" in got and "new namespaces" in got, got
