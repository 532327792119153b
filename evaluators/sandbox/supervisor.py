"""One engine-owned process per candidate run: starts the sandbox, holds both clocks, ends the tree.

Use: `python -I -S supervisor.py` with one JSON request line on stdin, which then stays open: its end
means that the engine died, and everything dies with it. Commands on stdin: `stop` (the answers are
in; a success), `cancel`, `prune`. Events leave as JSON lines on stdout; the last is `final`, shaped
like `lineage.records.RunFacts`. Limits: standard library only, one thread, Linux.
"""

# os.path: pathlib would double its start-up time
# ruff: noqa: PTH100, PTH104, PTH120
from __future__ import annotations

import contextlib
import json
import math
import os
import re
import select
import shutil
import signal
import sys
import time
from typing import Any

if __name__ == "__main__":  # started by path under -I -S, so the package root is not on sys.path
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from evaluators.sandbox import cgroup, kernel, tree
from evaluators.sandbox.seal import Sealer
from evaluators.sandbox.watched import LOG_BYTES_PER_TICK, Run, check_caps, clean, cpu_now, report

TICK_S = 0.1
LOG_BYTES = 32_768
CHUNK = 1 << 16
SETUP_FAILED = 121


def emit(event: str, **more: object) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, (json.dumps({"event": event, **more}) + "\n").encode())


# ---- starting ----


def spawn(run: Run) -> None:
    """Fork; the child joins the group and becomes the sandbox command with fds 0-6 and no others."""
    request = run.request
    orders_in, run.orders = os.pipe()
    run.reports, reports_out = os.pipe()
    run.log, log_out = os.pipe()
    wanted = {0: os.open(os.devnull, os.O_RDONLY), 1: log_out, 2: log_out, 3: orders_in, 4: reports_out}
    if request.get("collect"):
        run.artifact, wanted[5] = os.pipe()
        run.sealer = Sealer(request["collect"]["folder"], int(request["collect"]["cap"]))
    for number, inherited in (request.get("channels") or {}).items():
        wanted[int(number)] = int(inherited)
    if request.get("arguments") is not None:
        wanted[9] = _memory_file("\0".join(request["arguments"]).encode())
    if request.get("filter"):
        wanted[10] = _memory_file(kernel.seccomp_code(alone=False))
    run.began = time.monotonic()
    supervisor = os.getpid()
    run.pid = os.fork()
    if run.pid == 0:
        try:
            _become(run, wanted, supervisor)
        except BaseException as error:
            os.write(2, f"sandbox start failed: {type(error).__name__}: {error}\n".encode())
            os._exit(SETUP_FAILED)
    for handle in set(wanted.values()):
        os.close(handle)
    for handle in (run.reports, run.log, run.artifact):
        if handle >= 0:
            os.set_blocking(handle, False)


def _memory_file(data: bytes) -> int:
    """Not a pipe: the argument list may be longer than a pipe holds."""
    handle = os.memfd_create("arguments")
    os.write(handle, data)
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


def _become(run: Run, wanted: dict[int, int], supervisor: int) -> None:
    os.setsid()
    if run.group is not None:
        cgroup.join(run.group)
    lifted = {number: os.dup(handle) for number, handle in wanted.items()}
    high = {number: _above(handle, 20) for number, handle in lifted.items()}
    for number, handle in high.items():
        os.dup2(handle, number, inheritable=True)
    for number in sorted(set(range(3, 20)) - set(wanted)):
        with contextlib.suppress(OSError):
            os.close(number)
    os.closerange(20, 4096)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    uid = run.request.get("uid")
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of uid clears it
    if os.getppid() != supervisor:
        os._exit(SETUP_FAILED)
    # on bubblewrap's own process too, which the candidate must not gain from attacking
    kernel.limit({k: v for k, v in run.request.get("rlimits", {}).items() if k != "NPROC"})
    os.chdir(run.request.get("cwd", "/"))
    os.execve(run.request["argv"][0], run.request["argv"], run.request["env"])


def _above(handle: int, least: int) -> int:
    import fcntl

    return fcntl.fcntl(handle, fcntl.F_DUPFD, least)


# ---- listening ----


def read_reports(run: Run, data: bytes) -> None:
    run.lines += data
    *lines, rest = run.lines.split(b"\n")
    run.lines = bytearray(rest)
    run.reported += len(lines)
    # honest code reports at most 5 times a second
    flood = run.reported > 1000 + 20 * (time.monotonic() - run.began)
    for line in lines:
        if run.end:
            return
        try:
            if flood or len(line) > 4096:
                raise ValueError("too much")
            report = json.loads(line)
            on_report(run, str(report.pop("say")), report)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError, OverflowError):
            run.end, run.refused, run.detail = "protocol", "control", "unreadable control message"
    if len(run.lines) > 4096:
        run.end, run.refused, run.detail = "protocol", "control", "endless control message"


def on_report(run: Run, word: str, report: dict[str, Any]) -> None:
    """Only `up` (sent before candidate code exists) is evidence; all else is advice or hurts its sender."""
    if word == "up" and run.phase == "start":
        run.phase = "up"
    elif word == "imported" and run.phase == "up":
        run.phase = "imported"
    elif word == "ready" and run.phase == "imported" and not run.over:
        release(run)
    elif word == "progress":
        step, value = int(report["step"]), float(report["value"])
        if run.phase == "run" and math.isfinite(value) and abs(step) < 2**53:
            emit("progress", step=step, value=value)
    elif word == "error" and not run.error:
        keys = ("type", "message", "place")
        run.error = {key: clean(str(report.get(key, "")).encode(), 600) for key in keys}
    elif word == "refused" and not run.refused:
        rule = str(report["rule"])
        run.refused = rule if re.fullmatch(r"[a-z_]{1,40}", rule) else "control"
    elif word in ("trained", "stage"):
        run.stage = re.sub("[^a-z]", "", str(report.get("name", word)))[:20]


def release(run: Run) -> None:
    """The clocks start, then the data appears by one rename, then the child is told."""
    request = run.request
    if run.artifact >= 0 and select.select([run.artifact], [], [], 0)[0]:
        run.end, run.refused = "protocol", "early_artifact"
        return
    run.released_cpu, run.released, run.phase = cpu_now(run), time.monotonic(), "run"
    if request.get("release"):
        source, target = request["release"]
        os.rename(source, target)
    order = json.dumps(request["order"]) + "\n"
    with contextlib.suppress(BrokenPipeError):
        os.write(run.orders, order.encode())
    emit("released")


def read_commands(run: Run) -> None:
    data = os.read(0, 4096)
    if not data:
        run.end, run.detail = "infra", "the engine went away"
    run.commands += data
    for word in run.commands.split(b"\n")[:-1]:
        if word == b"stop":
            run.end = run.end or "exit"
        elif word == b"prune":
            run.end = run.end or "pruned"
        elif word == b"cancel":
            run.end, run.detail = "infra", "cancelled"
    run.commands = run.commands[run.commands.rfind(b"\n") + 1 :]


def listen(run: Run, poller: select.poll, timeout_s: float) -> None:
    """One round: at most CHUNK bytes of each stream, so that a flood cannot starve the clocks.

    Output beyond LOG_BYTES_PER_TICK waits for the next tick, and its writer with it.
    """
    for handle, _ in poller.poll(max(0, int(timeout_s * 1000))):
        if handle == 0:
            read_commands(run)
            continue
        try:
            data = os.read(handle, CHUNK)
        except BlockingIOError:
            continue
        run.log_quota -= len(data) if handle == run.log else 0
        if not data or (handle == run.log and run.log_quota < 0):
            poller.unregister(handle)
        take(run, handle, data)


def take(run: Run, handle: int, data: bytes) -> None:
    if handle == run.log:
        run.tail += data
        del run.tail[:-LOG_BYTES]
    elif handle == run.reports:
        read_reports(run, data)
    elif handle == run.artifact and run.sealer is not None and data:
        if run.phase != "run":
            run.end, run.refused = "protocol", "early_artifact"
            return
        run.sealer.feed(data)
        if run.sealer.rule:
            run.end, run.refused = "protocol", run.sealer.rule
        elif run.sealer.done:
            run.end = run.end or "exit"


def drain(run: Run) -> None:
    """After the tree has ended: what is left in the pipes, bounded by their kernel buffers."""
    for handle in (run.reports, run.artifact, run.log):
        for _ in range(64):
            try:
                data = os.read(handle, CHUNK) if handle >= 0 else b""
            except OSError:
                break
            if not data:
                break
            take(run, handle, data)


# ---- ending ----


def watch(run: Run) -> None:
    poller = select.poll()
    for handle in (0, run.reports, run.log, run.artifact):
        if handle >= 0:
            poller.register(handle, select.POLLIN | select.POLLHUP)
    wake_in, wake_out = os.pipe()
    os.set_blocking(wake_out, False)
    os.set_blocking(wake_in, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_out, warn_on_full_buffer=False)
    poller.register(wake_in, select.POLLIN)
    parent, last = os.getppid(), 0.0
    while not run.end:
        listen(run, poller, TICK_S - (time.monotonic() - last))
        spent, status = tree.reap(run.pid)
        run.reaped_cpu += spent
        if status is not None:
            run.status = status
            return
        if time.monotonic() - last >= TICK_S:
            last = time.monotonic()
            if run.log_quota < 0:
                poller.register(run.log, select.POLLIN | select.POLLHUP)
            run.log_quota = LOG_BYTES_PER_TICK
            if os.getppid() != parent:
                run.end, run.detail = "infra", "the engine went away"
            elif not run.end:
                check_caps(run)


def end_tree(run: Run) -> list[int]:
    """Kill until nothing is left; the survivors, if the kernel will not let some go."""
    cpu_now(run)
    if run.group is not None:
        cgroup.kill(run.group)
    spent, alive = tree.end_all()
    run.reaped_cpu += spent
    if run.group is not None:
        until = time.monotonic() + 5
        while cgroup.members(run.group) and time.monotonic() < until:
            cgroup.kill(run.group)
            time.sleep(0.002)
        alive = alive or cgroup.members(run.group)
    return alive


def finish(run: Run) -> dict[str, Any]:
    ended = time.monotonic()
    run.over = True
    survivors = end_tree(run)
    drain(run)
    return report(run, ended, survivors)


def main() -> None:
    text = bytearray()
    while b"\n" not in text:
        data = os.read(0, 1 << 16)
        if not data:
            return
        text += data
    line, _, rest = bytes(text).partition(b"\n")
    request = json.loads(line)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    run = Run(request, commands=bytearray(rest))
    bases = request.get("cgroup") or {}
    try:
        cgroup.sweep(bases)
        limits = request["limits"]
        run.group = cgroup.create(bases, cgroup.run_name(), memory=limits["memory"], pids=limits["processes"])
        load = os.getloadavg()[0]
        spawn(run)
        watch(run)
        final = finish(run)
    finally:
        if run.group is not None:
            cgroup.kill(run.group)
            cgroup.remove(run.group)
    orphaned = run.detail.startswith("the engine went away")
    if orphaned and request.get("cleanup"):
        shutil.rmtree(request["cleanup"], ignore_errors=True)
    emit("final", load_start=load, load_end=os.getloadavg()[0], **final)


if __name__ == "__main__":
    main()
