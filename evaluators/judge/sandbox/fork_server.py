"""A process that has imported an environment's packages before any candidate code is read; each run is forked from it.

Use: by `entry.py` alone, outside every sandbox: `serve(config)` imports, says on a socket that it is ready, and returns
in the process of each run that is asked for, inside that run's own sandbox and behind its locks. One message asks for
one run: a marshalled request, and with it the file descriptors of the run. The process that joins the sandbox:

1. joins the run's control group, then the namespaces of the bubblewrap that the supervisor has started for this run;
2. forks; the child is in the sandbox's pid namespace, drops all capabilities, sets limits and the seccomp filter;
3. stays behind, outside that pid namespace and without powers, to report the child's wait status.

A run shares nothing with another but pages that are copied when written to. The server never reads what a candidate
wrote, it cannot be traced, and it overwrites each request once the run is forked. The end of its socket ends it. Limits:
Linux 5.8 (setns on a pidfd); one thread, no shared writable memory and no other open file once the imports are done,
else it says why it cannot serve; no devices.
"""

# loaded by path like kernel.py; os.path, because it must not import more than it needs
# ruff: noqa: PTH115, PTH118, PTH208
from __future__ import annotations

import fcntl
import gc
import marshal
import os
import signal
import socket
import sys
import time
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

REQUEST_BYTES = 1 << 18
MOST_HANDLES = 32
FIRST_HIGH = 40
# what a package imports at its first use: making any torch.optim optimizer imports torch._dynamo, 2 CPU-s
AT_FIRST_USE = {"torch": ("torch._dynamo",), "numpy": ("numpy.random",)}
# CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET: all that bubblewrap has made
NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
PR_SET_DUMPABLE = 4
JOIN_FAILED = 121


def serve(config: dict[str, Any], kernel: ModuleType, before: set[str]) -> dict[str, Any]:
    """Import, then wait for requests. Returns only in the process of a run: the configuration of that run.

    `before`: the modules that every interpreter of the engine has, whatever the environment.
    """
    server = socket.socket(fileno=config["socket"])
    kernel.prctl(PR_SET_DUMPABLE, 0)
    sys.dont_write_bytecode = True
    began = time.monotonic()
    fault = _import(config["imports"])
    # the part that a cold start of either process pays; what torch.optim adds is paid by training alone
    spent = {"cpu_s": time.process_time(), "wall_s": time.monotonic() - began}
    fault = fault or _import([name for first in config["imports"] for name in AT_FIRST_USE.get(first, ())])
    fault = fault or _unfit(server.fileno())
    if fault:
        server.send(marshal.dumps({"fault": fault}))
        os._exit(0)
    imported = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
    gc.collect()
    gc.freeze()  # a collection in a run would otherwise write to, and so copy, every page of these objects
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for the runs
    server.send(marshal.dumps({"fault": "", "bytes": _private_bytes(), **spent}))
    return _requests(server, kernel, imported)


def _import(names: list[str]) -> str:
    """Import these; why that failed, or nothing. A distribution whose modules are named otherwise is left out."""
    for name in names:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                return f"import {name}: {error}"
        except Exception as error:
            return f"import {name}: {type(error).__name__}: {error}"
    return ""


def _unfit(own: int) -> str:
    """Why forking runs from this process would not be safe; empty when it is."""
    pid = os.fork()  # libraries that end their threads before a fork do it now
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return f"the imports started {threads - 1} threads"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "the imports initialised CUDA"
    with open("/proc/self/maps") as maps:
        shared = [line.split(maxsplit=5) for line in maps]
    for fields in shared:
        if "w" in fields[1] and fields[1].endswith("s"):
            return f"the imports left writable shared memory ({' '.join(fields[5:]).strip() or 'anonymous'})"
    handles = []
    for name in os.listdir("/proc/self/fd"):
        try:
            handles.append((int(name), os.readlink(f"/proc/self/fd/{name}")))
        except OSError:
            continue  # that of the listing itself
    left = [target for number, target in handles if number > 2 and number != own]
    return f"the imports left open files: {', '.join(left)}" if left else ""


def _private_bytes() -> int:
    """Anonymous memory that every run inherits."""
    with open("/proc/self/status") as status:
        rows = dict(line.split(":", 1) for line in status)
    return int(rows["RssAnon"].split()[0]) * 1024


def _requests(server: socket.socket, kernel: ModuleType, imported: list[str]) -> dict[str, Any]:
    data, room = bytearray(REQUEST_BYTES), socket.CMSG_SPACE(4 * MOST_HANDLES)
    while True:
        size, ancillary, _, _ = server.recvmsg_into([data], room)
        if size == 0:
            os._exit(0)  # whoever asked for runs is gone
        handles = _handles(ancillary)
        try:
            pid = os.fork()
        except OSError:
            pid = -1  # the supervisor sees the end of the status pipe
        if pid == 0:
            server.close()
            return _begin(marshal.loads(bytes(data[:size])), handles, kernel, imported)
        data[:size] = bytes(size)
        for handle in handles:
            os.close(handle)


def _handles(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    raw = b"".join(
        part for level, kind, part in ancillary if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
    )
    return [int.from_bytes(raw[at : at + 4], sys.byteorder, signed=True) for at in range(0, len(raw), 4)]


def _begin(
    request: dict[str, Any], handles: list[int], kernel: ModuleType, imported: list[str]
) -> dict[str, Any]:
    """From a copy of the server to the process of a run, locked in; returns in that process alone."""
    status, namespaces, *own = handles
    log = own[request["numbers"].index(2)]
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for folder in request["cgroup"]:
            with open(os.path.join(folder, "cgroup.procs"), "w") as group:
                group.write("0")
        kernel.setns(namespaces, NAMESPACES)
        pid = os.fork()
        if pid:
            _report(pid, status, kernel)
        _take(dict(zip(request["numbers"], own, strict=True)))
        log = 2
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        kernel.lock(request["locks"])
        kernel.prctl(PR_SET_DUMPABLE, 1)  # as after an exec: its own children may be looked at
        return _configured(request, imported)
    except BaseException as error:
        os.write(log, f"sandbox start failed: {type(error).__name__}: {error}\n".encode())
        os._exit(JOIN_FAILED)


def _report(pid: int, status: int, kernel: ModuleType) -> None:
    """The process that stays outside the sandbox's pid namespace: nothing in there can see or signal it."""
    os.dup2(status, 0)
    os.closerange(1, 4096)
    kernel.drop_capabilities()
    _, code = os.waitpid(pid, 0)
    os.write(0, code.to_bytes(4, "little"))
    os._exit(0)


def _take(wanted: dict[int, int]) -> None:
    """The run's file descriptors under their numbers, and no others."""
    high = {number: fcntl.fcntl(handle, fcntl.F_DUPFD, FIRST_HIGH) for number, handle in wanted.items()}
    for number, handle in high.items():
        os.dup2(handle, number)
    for number in sorted(set(range(FIRST_HIGH)) - set(wanted)):
        try:
            os.close(number)
        except OSError:
            continue
    os.closerange(FIRST_HIGH, 4096)


def _configured(request: dict[str, Any], imported: list[str]) -> dict[str, Any]:
    """As if this interpreter had been started for the run alone."""
    config: dict[str, Any] = request["config"]
    sys.argv = request["argv"]
    sys.modules["__main__"].__file__ = sys.argv[0]
    sys.dont_write_bytecode = False
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()  # from the kernel: unseeded numbers differ from run to run, as after a start of its own
    # a file of the recipe goes before an installed module of the same name, as after a start of its own
    files = {name.partition(".")[0] for name in os.listdir(config["recipe"])}
    early = {"numpy"} if config["mode"] == "predict" else set()
    for name in (files - early).intersection(imported):
        for module in [known for known in sys.modules if known == name or known.startswith(f"{name}.")]:
            del sys.modules[module]
    return config
