"""One engine-owned process per candidate run: starts the sandbox, holds both clocks, ends the tree.

Use: `python -I -S -c START` (see `supervisor_client`) with one request on stdin (`wire_format`), which then stays open: its
end means that the engine died, and everything dies with it. Commands on stdin: `stop` (the answers are
in; a success), `cancel`, `prune`, one a line. Events leave on stdout; the last is `final`, see
`watched_run.report`. Limits: one thread, Linux; imports next to nothing, because every run waits for it.
"""

# os.path: part of the supervisor, whose start-up time is paid by every run
# ruff: noqa: PTH104
from __future__ import annotations

import os
import select
import time

from evaluators.judge.sandbox import cgroup, process_tree, wire_format
from evaluators.judge.sandbox.receive_artifact import Sealer
from evaluators.judge.sandbox.watched_run import LOG_BYTES_PER_TICK, Run, check_caps, cpu_now, report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from evaluators.judge.sandbox.run_in_fork import Joining

TICK_S = 0.1
LOG_BYTES = 32_768
CHUNK = 1 << 16
SETUP_FAILED = 121
LEAST_MEMORY = 16 << 20
FIELD = "\x1f"
LOOKS = ("imported", "trained", "predicted")
MOST_EFFECTS = 24  # names kept of each look
WORD = frozenset("abcdefghijklmnopqrstuvwxyz_")


def emit(event: str, **more: object) -> None:
    data = wire_format.pack({"event": event, **more})
    try:
        while data:
            data = data[os.write(1, data) :]
    except BrokenPipeError:
        pass  # the engine is gone, which stdin tells too


# ---- starting ----


def spawn(run: Run) -> None:
    """Fork; the child joins the group and becomes the sandbox command with the wanted fds and no others."""
    request = run.request
    orders_in, run.orders = os.pipe()
    run.reports, reports_out = os.pipe()
    run.log, log_out = os.pipe()
    wanted = {0: os.open(os.devnull, os.O_RDONLY), 1: log_out, 2: log_out, 3: orders_in, 4: reports_out}
    if request["collect"]:
        run.artifact, wanted[5] = os.pipe()
        run.sealer = Sealer(request["collect"]["folder"], int(request["collect"]["cap"]))
    wanted.update(request["channels"])
    if request["prepared"]:
        from evaluators.judge.sandbox.run_in_fork import Joining

        run.joining = Joining(request["prepared"], wanted)
        wanted = run.joining.outer(log_out)
    for number, data in request["memory_files"].items():
        wanted[number] = _memory_file(data)
    if request["output"]:
        run.output = os.open(
            request["output"]["path"], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        run.output_left = int(request["output"]["cap"])
    run.began = time.monotonic()
    supervisor = os.getpid()
    run.pid = os.fork()
    if run.pid == 0:
        try:
            _become(run, wanted, supervisor)
        except BaseException as error:
            os.write(2, f"sandbox start failed: {type(error).__name__}: {error}\n".encode())
            os._exit(SETUP_FAILED)
    for handle in set(wanted.values()) - ({log_out} if run.joining else set()):
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
    import fcntl
    import resource

    os.setsid()
    if run.group is not None:
        cgroup.join(run.group)
    high = {number: fcntl.fcntl(handle, fcntl.F_DUPFD, 20) for number, handle in wanted.items()}
    for number, handle in high.items():
        os.dup2(handle, number, inheritable=True)
    for number in sorted(set(range(3, 20)) - set(wanted)):
        try:
            os.close(number)
        except OSError:
            pass
    os.closerange(20, 4096)
    if run.request["pdeathsig"]:
        _die_with(supervisor)
    # on bubblewrap's own process too, from which the candidate must not gain
    for kind, limit in run.request["rlimits"].items():
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    os.chdir(run.request["cwd"])
    os.execve(run.request["argv"][0], run.request["argv"], run.request["env"])


def _die_with(supervisor: int) -> None:
    """Without bubblewrap, which does this itself."""
    from evaluators.judge.sandbox import kernel

    kernel.prctl(kernel.PR_SET_PDEATHSIG, process_tree.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(SETUP_FAILED)


# ---- listening ----


def read_reports(run: Run, data: bytes) -> None:
    run.lines += data
    *lines, rest = run.lines.split(b"\n")
    run.lines = bytearray(rest)
    run.reported += len(lines)
    # honest code reports at most 5 times a second
    flood = run.reported > 1000 + 20 * (time.monotonic() - run.began)
    if flood or len(rest) > 4096 or any(len(line) > 4096 for line in lines):
        run.stop("protocol", "control", "too many or too long control messages")
    for line in lines:
        if run.end:
            return
        word, *fields = line.decode("utf-8", "replace").split(FIELD)
        try:
            on_report(run, word, fields)
        except (ValueError, IndexError, OverflowError):
            run.stop("protocol", "control", "unreadable control message")


def on_report(run: Run, word: str, fields: list[str]) -> None:
    """Only `up` (sent before candidate code exists) is evidence; all else is advice or hurts its sender."""
    if word == "up" and run.phase == "start":
        run.phase = "up"
    elif word == "imported" and run.phase == "up":
        run.phase = "imported"
    elif word == "ready" and run.phase == "imported" and not run.over:
        release(run)
    elif word == "progress":
        step, value = int(fields[0][:20]), float(fields[1])
        if run.phase == "run" and value - value == 0 and abs(step) < 2**53:
            emit("progress", step=step, value=value)
    elif word == "error":
        run.error = run.error or (fields[0], fields[1], fields[2])
    elif word == "refused":
        lawful = 0 < len(fields[0]) <= 40 and WORD.issuperset(fields[0])
        run.refused = run.refused or (fields[0] if lawful else "control")
        run.error = run.error or ("Refused", fields[1] if len(fields) > 1 else "", "")
    elif word in ("trained", "load", "predict", "export"):
        run.stage = word
    elif word == "effects":
        on_effects(run, fields[0], fields[1:])
    elif word not in ("up", "imported", "ready"):
        raise ValueError(word)


def on_effects(run: Run, stage: str, names: list[str]) -> None:
    """Adds up: what was once reported cannot be taken back."""
    if stage not in LOOKS:
        raise ValueError(stage)
    found = run.effects.setdefault(stage, [])
    found += [name[:200] for name in names if name not in found][: MOST_EFFECTS - len(found)]


def release(run: Run) -> None:
    """The clocks start, then the data appear by one rename, then the child gets their path and the seed."""
    request = run.request
    if run.artifact >= 0 and select.select([run.artifact], [], [], 0)[0]:
        run.stop("protocol", "early_artifact")
        return
    run.released_cpu, run.released, run.phase = cpu_now(run), time.monotonic(), "run"
    source, target = request["release"]
    os.rename(source, target)
    try:
        os.write(run.orders, request["order"])
    except BrokenPipeError:
        pass  # it is ending; the wait status says how
    emit("released")


def read_commands(run: Run) -> None:
    data = os.read(0, 4096)
    if not data:
        run.stop("infra", detail="the engine went away")
    obey(run, data)


def obey(run: Run, data: bytes) -> None:
    *words, run.commands = (run.commands + data).split(b"\n")
    for word in words:
        if word == b"stop":
            run.stop("exit")
        elif word == b"prune":
            run.stop("pruned")
        elif word == b"cancel":
            run.stop("infra", detail="cancelled")


def listen(run: Run, poller: select.poll, timeout_s: float) -> None:
    """One round: at most CHUNK bytes of each stream, so that a flood cannot starve the clocks.

    Output beyond LOG_BYTES_PER_TICK waits for the next tick, and its writer with it.
    """
    for handle, _ in poller.poll(max(0, int(timeout_s * 1000))):
        if handle == 0:
            read_commands(run)
            continue
        if run.joining is not None and handle in run.joining.handles:
            poller.unregister(handle)
            join(run, run.joining, poller)
            continue
        if handle not in (run.reports, run.log, run.artifact):
            poller.unregister(handle)  # the child's end; its status is collected next
            continue
        try:
            data = os.read(handle, CHUNK)
        except BlockingIOError:
            continue
        run.log_quota -= len(data) if handle == run.log else 0
        if not data or (handle == run.log and run.log_quota < 0):
            poller.unregister(handle)
        take(run, handle, data)


def join(run: Run, joining: Joining, poller: select.poll) -> None:
    """The sandbox stands: fork the run into it; or the run has ended: take its status."""
    if joining.begun:
        run.status = joining.ended()
        if run.status is None:
            run.stop("infra", detail="the process of the run was not forked, or its end not reported")
        return
    fault = joining.begin(run.group)
    if fault:
        run.stop("infra", detail=fault)
    else:
        poller.register(joining.status, select.POLLIN | select.POLLHUP)


def take(run: Run, handle: int, data: bytes) -> None:
    if handle == run.log:
        run.tail += data
        del run.tail[:-LOG_BYTES]
        if run.output >= 0:
            keep_output(run, data)
    elif handle == run.reports:
        read_reports(run, data)
    elif run.sealer is not None and data:
        if run.phase != "run":
            run.stop("protocol", "early_artifact")
            return
        run.sealer.feed(data)
        if run.sealer.rule:
            run.stop("protocol", run.sealer.rule)
        elif run.sealer.done:
            run.stop("exit")


def keep_output(run: Run, data: bytes) -> None:
    """All that a script prints, because its metrics are read from it; more than the cap ends the run."""
    run.output_left -= len(data)
    if run.output_left < 0:
        run.stop("protocol", "output", f"it printed more than {run.request['output']['cap']} bytes")
        return
    while data:
        data = data[os.write(run.output, data) :]


def watch(run: Run) -> None:
    """Until there is a reason to end: ten looks at the clocks a second, everything else as it comes."""
    poller = select.poll()
    for handle in (0, run.reports, run.log, run.artifact):
        if handle >= 0:
            poller.register(handle, select.POLLIN | select.POLLHUP)
    if run.joining is not None:
        poller.register(run.joining.stands, select.POLLIN | select.POLLHUP)
    if hasattr(os, "pidfd_open"):
        poller.register(os.pidfd_open(run.pid), select.POLLIN)
    parent, last = os.getppid(), 0.0
    obey(run, b"")  # what came together with the request
    while not run.end:
        listen(run, poller, TICK_S - (time.monotonic() - last))
        spent, status = process_tree.reap(run.pid)
        run.reaped_cpu += spent
        if run.status is None and status is not None:
            run.status = status
        if run.status is not None:
            return
        if time.monotonic() - last >= TICK_S:
            last = time.monotonic()
            if run.log_quota < 0:
                poller.register(run.log, select.POLLIN | select.POLLHUP)
            run.log_quota = LOG_BYTES_PER_TICK
            if os.getppid() != parent:
                run.stop("infra", detail="the engine went away")
            check_caps(run)


# ---- ending ----


def end_tree(run: Run) -> list[int]:
    """Kill until nothing is left; the survivors, if the kernel will not let some go."""
    cpu_now(run)
    if run.group is None:
        spent, alive = process_tree.end_all()
        run.reaped_cpu += spent
        return alive
    until = time.monotonic() + 5
    while True:
        alive = cgroup.kill(run.group)
        run.reaped_cpu += process_tree.reap()[0]
        if not alive and not process_tree.has_children():
            return []
        if time.monotonic() > until:
            return alive
        time.sleep(0.001)


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


def finish(run: Run) -> dict[str, Any]:
    ended = time.monotonic()
    run.over = True
    survivors = end_tree(run)
    drain(run)
    return report(run, ended, survivors)


def _request() -> Run | None:
    text, request = b"", None
    while request is None:
        data = os.read(0, 1 << 16)
        if not data:
            return None
        request, text = wire_format.unpack(text + data)
    run = Run(request)
    run.commands = text
    return run


def main() -> None:
    run = _request()
    if run is None:
        return
    if run.request["subreaper"]:
        from evaluators.judge.sandbox import kernel

        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    bases, limits = run.request["cgroup"], run.request["limits"]
    try:
        cgroup.sweep(bases)
        memory = limits["memory"]
        if run.request["prepared"]:  # pages that are only read stay in the fork server's group
            memory = max(LEAST_MEMORY, memory - run.request["prepared"]["bytes"])
        run.group = cgroup.create(bases, cgroup.run_name(), memory=memory, pids=limits["processes"])
        load = os.getloadavg()[0]
        spawn(run)
        watch(run)
        final = finish(run)
    finally:
        if run.group is not None:
            cgroup.kill(run.group)
            cgroup.remove(run.group)
    if run.detail.startswith("the engine went away"):
        import shutil

        shutil.rmtree(run.request["cleanup"], ignore_errors=True)
    emit("final", load_start=load, load_end=os.getloadavg()[0], **final)
