"""What a hostile recipe would try, run as the training code of a real sandbox against decoys.

Use: `evaluators.judge.sandbox.prove_level` copies this file into a sandbox as `train.py`; `train` reads the decoys'
addresses from the released data and writes one JSON object: attack name -> did it work. Limits:
standard library only; every target is a decoy made for the occasion.
"""

# ruff: noqa: SIM115, PTH101, PTH110, PTH116, PTH208
from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)


def tcp(t: dict[str, Any]) -> bool:
    with socket.socket() as s:
        s.settimeout(1)
        s.connect(("127.0.0.1", t["tcp"]))
        return True


def udp(t: dict[str, Any]) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(0.3)
        s.sendto(b"x", ("127.0.0.1", t["udp"]))
        return s.recv(4) == b"ok"


def abstract_socket(t: dict[str, Any]) -> bool:
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("\0" + t["abstract"])
        return True


def path_socket(t: dict[str, Any]) -> bool:
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(t["socket"])
        return True


def read_labels(t: dict[str, Any]) -> bool:
    return b"DECOY" in open(t["labels"], "rb").read()


def append(path: str) -> bool:
    with open(path, "a") as handle:
        handle.write("forged\n")
    return True


def write_sysctl(t: dict[str, Any]) -> bool:
    """Only opened, never written: it would change the host."""
    for name in (
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/proc/mtrr",
    ):
        with contextlib.suppress(OSError):
            os.close(os.open(name, os.O_WRONLY))
            return True
    return False


def sandbox_init(t: dict[str, Any]) -> bool:
    """The memory of the sandbox's own first process, which is under fewer locks."""
    if t["same_pids"]:
        return False
    os.close(os.open("/proc/1/mem", os.O_RDWR))
    return True


def change_mode(t: dict[str, Any]) -> bool:
    """Only reported as done if the mode is really another one; see `kernel.PRETENDED`."""
    os.chmod(t["lineage"], 0o640)
    return os.stat(t["lineage"]).st_mode & 0o777 == 0o640


def own_source(t: dict[str, Any]) -> bool:
    path = Path(__file__)
    with contextlib.suppress(OSError):
        path.chmod(0o666)
    return append(str(path))


def released_data(t: dict[str, Any]) -> bool:
    path = Path(t["data"]) / "targets.json"
    with contextlib.suppress(OSError):
        path.chmod(0o666)
    return append(str(path))


def remount(t: dict[str, Any]) -> bool:
    flags = 32 | 4096  # MS_REMOUNT | MS_BIND, without MS_RDONLY
    return bool(libc.mount(b"none", b"/", None, flags, None) == 0)


def key_in_environment(t: dict[str, Any]) -> bool:
    return any("DECOY-KEY" in value for value in os.environ.values())


def key_in_proc(t: dict[str, Any]) -> bool:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if b"DECOY-KEY" in open(f"/proc/{name}/environ", "rb").read():
                    return True
    return False


def signal_engine(t: dict[str, Any]) -> bool:
    os.kill(t["pid"], 0)
    return t["nonce"] in Path(f"/proc/{t['pid']}/cmdline").read_text() if t["same_pids"] else True


class _Span(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def read_memory(t: dict[str, Any]) -> bool:
    target = ctypes.create_string_buffer(16)
    here, there = _Span(ctypes.addressof(target), 16), _Span(t["address"], 16)
    got = libc.process_vm_readv(t["pid"], ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    if got == 16 and target.raw.startswith(b"DECOY"):
        return True
    with open(f"/proc/{t['pid']}/mem", "rb") as memory:
        memory.seek(t["address"])
        return memory.read(5) == b"DECOY"


def trace_engine(t: dict[str, Any]) -> bool:
    seize = 0x4206  # unlike PTRACE_ATTACH it does not stop the target
    return bool(libc.ptrace(seize, t["pid"], None, None) == 0)


def new_namespace(t: dict[str, Any]) -> bool:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if libc.unshare(0x10000000) == 0 else 1)
    return os.waitpid(pid, 0)[1] == 0


def raise_limit(t: dict[str, Any]) -> bool:
    soft, _ = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (soft + 1, soft + 1))
    return True


def shared_memory(t: dict[str, Any]) -> bool:
    libc.shmat.restype = ctypes.c_void_p
    return bool(libc.shmat(t["shm"], None, 0o10000) not in (None, ctypes.c_void_p(-1).value))


def many_processes(t: dict[str, Any]) -> bool:
    """More processes at once than allowed."""
    children: list[int] = []
    try:
        for _ in range(t["processes"] + 8):
            pid = os.fork()
            if pid == 0:
                time.sleep(30)
                os._exit(0)
            children.append(pid)
        return True
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


ATTACKS: dict[str, Callable[[dict[str, Any]], object]] = {
    "read_labels": read_labels,
    "write_lineage": lambda t: append(t["lineage"]),
    "write_packages": lambda t: append(t["pth"]),
    "change_mode": change_mode,
    "write_own_source": own_source,
    "write_data": released_data,
    "write_sysctl": write_sysctl,
    "sandbox_init": sandbox_init,
    "remount": remount,
    "key_in_environment": key_in_environment,
    "key_in_proc": key_in_proc,
    "tcp": tcp,
    "udp": udp,
    "abstract_socket": abstract_socket,
    "path_socket": path_socket,
    "signal_engine": signal_engine,
    "read_memory": read_memory,
    "trace_engine": trace_engine,
    "new_namespace": new_namespace,
    "raise_limit": raise_limit,
    "shared_memory": shared_memory,
    "see_host_names": lambda t: os.path.exists(t["labels"]),
    "many_processes": many_processes,
}


def leave_daemons() -> None:
    """A child that ignores signals and a daemon in a session of its own, both meant to outlive the run."""
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    if os.fork() == 0:
        time.sleep(600)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)


def fill_memory(size: int) -> None:
    """Touch `size` bytes in a child, where there may be one, and say in the log whether that went well."""
    try:
        pid = os.fork()
    except PermissionError:  # no new process is allowed: in this one then
        print("FILLED" if _fill(size) else "REFUSED", flush=True)
        return
    if pid == 0:
        os._exit(0 if _fill(size) else 1)
    _, status = os.waitpid(pid, 0)
    print("FILLED" if status == 0 else "REFUSED", flush=True)


def _fill(size: int) -> bool:
    held = bytearray()
    with contextlib.suppress(MemoryError):
        held = bytearray(size)
        held[::4096] = b"\1" * len(held[::4096])
    return bool(held)


def fill_output(out: Path, size: int) -> None:
    """Write `size` bytes and say in the log how many went in; the supervisor may end the run meanwhile."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open(out / "big", "wb") as handle, contextlib.suppress(OSError):
        for written in range(1 << 16, size + 1, 1 << 16):
            handle.write(bytes(1 << 16))
            handle.flush()
            os.write(1, b"%d\n" % written)


def train(data: Path, out: Path, seed: int) -> None:
    targets = json.loads((data / "targets.json").read_text())
    targets |= {"data": str(data), "out": str(out)}
    if targets.get("fill"):
        fill_memory(targets["fill"])
        return
    if targets.get("fill_output"):
        fill_output(out, targets["fill_output"])
        return
    worked: dict[str, object] = {}
    for name, attack in ATTACKS.items():
        try:
            worked[name] = bool(attack(targets))
        except BaseException as error:
            worked[name] = False
            worked[f"{name}_error"] = f"{type(error).__name__}: {error}"[:120]
    with contextlib.suppress(PermissionError):  # where no new process is allowed none can be left
        leave_daemons()
    (out / "worked.json").write_text(json.dumps(worked))
