"""Runs one agent to its end: in its box, watched from outside, ended with its whole tree.

`run(Start(...), watch)` returns `Ended`. Reasons to end it early: `stopped` (the campaign ends), `time`, `disk` (what it
may write), `budget` (the account of its own report). In the box all processes share one process namespace and die with
it; without a box the tree is found by parents and by a variable that its processes inherit.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from agents.command.agent_box import (
    PROXY_PORT,
    SOCKETS,
    TOOLS,
    AgentBox,
    Program,
    Session,
    box_arguments,
    environment,
)

OUTPUT_BYTES, ERROR_BYTES = 16_000_000, 200_000
DISK_BYTES, DISK_FILES = 512 << 20, 50_000
LOOK_S, DISK_LOOK_S, KILL_S = 0.1, 1.0, 10.0
MARK = "BAKEOFF_AGENT_RUN"


@dataclass(frozen=True)
class Start:
    """One run: where, which program, its arguments without the program, its variables, its ports inside."""

    box: AgentBox
    session: Session
    program: Program
    arguments: Sequence[str]
    variables: Mapping[str, str]
    stdin: str = ""
    endpoint_port: int | None = None


@dataclass(frozen=True)
class Watch:
    """`line` gets each line of output and is True when the run is to end for its cost."""

    seconds: float
    cancel: threading.Event = field(default_factory=threading.Event)
    line: Callable[[str], bool] = lambda _: False


@dataclass(frozen=True)
class Ended:
    """`why` is empty when it ended by itself; `code` is negative for a signal. Output is cut in the middle."""

    why: str
    code: int
    seconds: float
    output: str
    errors: str


class Output:
    """What a pipe gave: its first and last part, within a size; lines are handed on as they come."""

    def __init__(self, pipe: IO[bytes], limit: int, line: Callable[[str], None] | None = None) -> None:
        self._head, self._tail, self._limit, self._lost = bytearray(), bytearray(), limit // 2, 0
        self._line, self._rest = line, bytearray()
        self._thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            while data := os.read(pipe.fileno(), 1 << 16):
                room = self._limit - len(self._head)
                self._head += data[:room]
                self._tail += data[room:]
                if len(self._tail) > 2 * self._limit:
                    self._lost += len(self._tail) - self._limit
                    del self._tail[: -self._limit]
                if self._line is not None:
                    self._lines(data)
        if self._line is not None and self._rest:
            self._line(self._rest.decode("utf-8", "replace"))

    def _lines(self, data: bytes) -> None:
        assert self._line is not None
        self._rest += data
        if b"\n" not in data:
            if len(self._rest) > self._limit:
                self._rest.clear()  # no report has a line of that length
            return
        *whole, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        for line in whole:
            self._line(line.decode("utf-8", "replace"))

    def text(self) -> str:
        """All that came, once the pipe is closed or `KILL_S` is over."""
        self._thread.join(KILL_S)
        cut = f"\n[{self._lost:,} bytes left out]\n".encode() if self._lost else b""
        return (bytes(self._head) + cut + bytes(self._tail)).decode("utf-8", "replace")


def command(start: Start, info: int) -> list[str]:
    """The command line of the run as bubblewrap or, without a box, the agent itself gets it.

    `info`: the file descriptor to which bubblewrap writes the process id of the box's first process.
    """
    argv = [start.program.path, *start.arguments]
    if start.box.trusted:
        return argv
    ports = [[PROXY_PORT, f"{SOCKETS}/proxy"]]
    if start.endpoint_port is not None:
        ports.append([start.endpoint_port, f"{SOCKETS}/endpoint"])
    inside = json.dumps({"ports": ports, "argv": argv})
    python = [start.box.interpreter, "-I", "-S", f"{TOOLS}/start_in_box.py", inside]
    arguments = box_arguments(start.box, start.session, start.program)
    return [start.box.bwrap, "--info-fd", str(info), *arguments, "--", *python]


def run(start: Start, watch: Watch) -> Ended:
    """Start, watch, end. Raises OSError when the program cannot be started at all."""
    began = time.monotonic()
    over = threading.Event()

    def heard(line: str) -> None:
        if watch.line(line):
            over.set()

    mark = os.urandom(12).hex()
    env = {**environment(start.program, start.box, start.session), **start.variables, MARK: mark}
    process, box = _spawn(start, env)
    assert process.stdout is not None and process.stderr is not None
    output = Output(process.stdout, OUTPUT_BYTES, heard)
    errors = Output(process.stderr, ERROR_BYTES)
    try:
        why = _wait(process, start.session, watch, began, over)
    finally:
        _end(process, mark, box)
    return Ended(why, process.returncode, time.monotonic() - began, output.text(), errors.text())


def _spawn(start: Start, env: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], int | None]:
    """The process, and a handle of the first process of its box; None without a box, or when that has ended already."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as info, tempfile.TemporaryFile() as stdin:
        try:
            stdin.write(start.stdin.encode())
            stdin.seek(0)
            process = subprocess.Popen(
                command(start, writer),
                env=env,
                cwd=start.session.workspace if start.box.trusted else "/",
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=() if start.box.trusted else (writer,),
            )
        finally:
            os.close(writer)
        text = b"" if start.box.trusted else info.read()
    try:
        return process, os.pidfd_open(int(json.loads(text)["child-pid"]))
    except (ValueError, KeyError, ProcessLookupError):
        return process, None


def _wait(
    process: subprocess.Popen[bytes], session: Session, watch: Watch, began: float, over: threading.Event
) -> str:
    """Until it ends by itself (""), or why it has to end."""
    look = time.monotonic() + DISK_LOOK_S
    while process.poll() is None:
        if watch.cancel.wait(LOOK_S):
            return "stopped"
        now = time.monotonic()
        if over.is_set():
            return "budget"
        if now - began > watch.seconds:
            return "time"
        if now > look:
            if _writes_too_much(session):
                return "disk"
            look = time.monotonic() + DISK_LOOK_S
    return "disk" if _writes_too_much(session) else ""


def _writes_too_much(session: Session) -> bool:
    """What it wrote to folders of the host; /tmp inside has a size of its own."""
    size = count = 0
    for top in (session.workspace, session.home):
        for _, folders, names, handle in os.fwalk(top, follow_symlinks=False):
            count += len(folders) + len(names)
            for name in names:
                try:
                    size += os.stat(name, dir_fd=handle, follow_symlinks=False).st_blocks * 512
                except OSError:
                    continue
            if size > DISK_BYTES or count > DISK_FILES:
                return True
    return False


def _end(process: subprocess.Popen[bytes], mark: str, box: int | None) -> None:
    """End the whole tree, and return when it has ended.

    The first process of a box ends after all others in its process namespace, and bubblewrap does not wait for it:
    on a busy machine others outlived bubblewrap. Without a box the tree is looked for.
    """
    if process.poll() is None:
        doomed = _tree(process.pid, mark) if box is None else []
        process.kill()
        for one in doomed:
            _kill(one)
    process.wait()
    if box is not None:
        try:
            signal.pidfd_send_signal(box, signal.SIGKILL)
            select.select([box], [], [], KILL_S)
        except ProcessLookupError:
            pass
        finally:
            os.close(box)
        return
    end = time.monotonic() + KILL_S
    while (left := _tree(process.pid, mark)) and time.monotonic() < end:
        for one in left:
            _kill(one)
        time.sleep(LOOK_S)


def _kill(one: psutil.Process) -> None:
    try:
        one.kill()
    except psutil.Error:
        pass


def _tree(pid: int, mark: str) -> list[psutil.Process]:
    """Descendants, and every process with the run's mark in its environment, wherever it was handed to."""
    found: list[psutil.Process] = []
    try:
        found += psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        pass
    for one in psutil.process_iter():
        try:
            if one.environ().get(MARK) == mark and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
        except (psutil.Error, OSError):
            continue
    return found


def copy_logins(home: Path, user: Path, logins: Sequence[str]) -> list[str]:
    """Copy the agent's login files from the user's home into its own; the texts in them, which are secrets."""
    secrets: list[str] = []
    for name in logins:
        source, target = user / name, home / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            data = source.read_bytes()
            target.write_bytes(data)
            secrets += _texts(data)
    return secrets


def _texts(data: bytes) -> list[str]:
    """Long texts in a JSON file: its tokens."""
    try:
        found: list[object] = [json.loads(data)]
    except ValueError:
        return []
    texts: list[str] = []
    while found:
        one = found.pop()
        if isinstance(one, dict):
            found += list(one.values())
        elif isinstance(one, list):
            found += one
        elif isinstance(one, str) and len(one) >= 16:
            texts.append(one)
    return texts
