"""Control groups: a memory cap, a process cap and CPU time of a whole process tree, v1 and v2.

Use: `find()` once says where groups may be made, by making one and moving a forked child into it
(so call it as a program from an engine that has threads); `create(bases, name)` makes one
per run; `join` is called in the child between fork and exec. Limits: on v2 the memory and pids
controllers must be delegated; where they are not, callers fall back to rlimits and /proc.
"""

# os.path: part of the supervisor, whose start-up time is paid by every run
# ruff: noqa: PTH102, PTH106, PTH110, PTH112, PTH115, PTH118, PTH120, PTH208
from __future__ import annotations

import os
import time

from evaluators.judge.sandbox.process_tree import kill as kill_process

PREFIX = "bakeoff-"


class Group:
    """The directories of one run's group, by controller; on v2 all three are the same directory."""

    def __init__(self, version: int, memory: str = "", pids: str = "", cpu: str = "") -> None:
        self.version, self.memory, self.pids, self.cpu = version, memory, pids, cpu

    def directories(self) -> list[str]:
        return sorted({d for d in (self.memory, self.pids, self.cpu) if d})


def _read(path: str) -> str:
    try:
        with open(path) as handle:
            return handle.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w") as handle:
        handle.write(text)


def _fields(path: str) -> dict[str, int]:
    pairs = (line.split() for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _mounts() -> list[tuple[str, str, str, set[str]]]:
    """(mount point, root inside the hierarchy, file system type, super options) of cgroup mounts."""
    found = []
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if tail and tail[0] in ("cgroup", "cgroup2"):
            found.append((fields[4], fields[3], tail[0], set(tail[2].split(",") if len(tail) > 2 else ())))
    return found


def _own(controller: str) -> str | None:
    for line in _read("/proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(",") if controller else names == "":
            return path
    return None


def _inside(mount: str, root: str, path: str) -> str:
    relative = os.path.relpath(path, root) if root != "/" else path.lstrip("/")
    return mount if relative.startswith("..") else os.path.normpath(os.path.join(mount, relative))


def _try(base: str, needed: str) -> bool:
    """Can a child group with the file `needed` be made under `base`, and a process moved into it?"""
    path = os.path.join(base, f"{PREFIX}try-{os.getpid()}-{time.monotonic_ns()}")
    try:
        os.mkdir(path)
    except OSError:
        return False
    try:
        return os.path.exists(os.path.join(path, needed)) and _can_join(path)
    finally:
        _rmdir(path)


def _rmdir(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        pass


def _can_join(path: str) -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            _write(os.path.join(path, "cgroup.procs"), "0")
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def find() -> dict[str, str]:
    """Where groups may be made: {"version", "memory", "pids", "cpu"}; empty when nowhere."""
    mounts = _mounts()
    bases: dict[str, str] = {}
    for key, controller, needed in (
        ("memory", "memory", "memory.limit_in_bytes"),
        ("pids", "pids", "pids.max"),
        ("cpu", "cpuacct", "cpuacct.usage"),
    ):
        for mount, root, kind, options in mounts:
            own = _own(controller)
            if kind == "cgroup" and controller in options and own is not None:
                base = _inside(mount, root, own)
                if _try(base, needed):
                    bases[key] = base
    if bases:
        return {"version": "1", **bases}
    for mount, root, kind, _ in mounts:
        own = _own("")
        if kind != "cgroup2" or own is None:
            continue
        base = _inside(mount, root, own)
        while base.startswith(mount):
            # a group that holds processes may not hand controllers on, so its parents are tried too
            if _try(base, "memory.max"):
                return {"version": "2", "memory": base, "pids": base, "cpu": base}
            if base == mount:
                break
            base = os.path.dirname(base)
    return {}


def create(bases: dict[str, str], name: str, *, memory: int, pids: int) -> Group | None:
    """Make the group of one run with its caps; None when there are no bases."""
    if not bases:
        return None
    made = {}
    for key in ("memory", "pids", "cpu"):
        if key in bases:
            made[key] = os.path.join(bases[key], PREFIX + name)
            if not os.path.isdir(made[key]):
                os.mkdir(made[key])
    group = Group(int(bases["version"]), **made)
    if group.memory:
        limit = "memory.limit_in_bytes" if group.version == 1 else "memory.max"
        _write(os.path.join(group.memory, limit), str(memory))
        swap, amount = (
            ("memory.memsw.limit_in_bytes", memory) if group.version == 1 else ("memory.swap.max", 0)
        )
        try:
            _write(os.path.join(group.memory, swap), str(amount))
        except OSError:
            pass  # absent without swap accounting
    if group.pids:
        _write(os.path.join(group.pids, "pids.max"), str(pids))
    return group


def join(group: Group) -> None:
    for directory in group.directories():
        _write(os.path.join(directory, "cgroup.procs"), "0")


def cpu_seconds(group: Group) -> float | None:
    """CPU seconds, user and system, of every process that was ever in the group."""
    if not group.cpu:
        return None
    if group.version == 1:
        return int(_read(os.path.join(group.cpu, "cpuacct.usage")) or 0) / 1e9
    return _fields(os.path.join(group.cpu, "cpu.stat")).get("usage_usec", 0) / 1e6


def memory_bytes(group: Group) -> int | None:
    """Anonymous plus shared memory now, without page cache."""
    if not group.memory:
        return None
    stat = _fields(os.path.join(group.memory, "memory.stat"))
    if group.version == 1:
        return stat.get("total_rss", 0) + stat.get("total_shmem", 0)
    return stat.get("anon", 0) + stat.get("shmem", 0)


def oom_kills(group: Group) -> int:
    name = "memory.oom_control" if group.version == 1 else "memory.events"
    return _fields(os.path.join(group.memory, name)).get("oom_kill", 0) if group.memory else 0


def members(group: Group) -> list[int]:
    found: set[int] = set()
    for directory in group.directories():
        found.update(int(p) for p in _read(os.path.join(directory, "cgroup.procs")).split())
    return sorted(found)


def kill(group: Group) -> list[int]:
    """One round of SIGKILL to every member; who they were."""
    if group.version == 2:
        try:
            _write(os.path.join(group.cpu, "cgroup.kill"), "1")
        except OSError:
            pass  # before Linux 5.14
    alive = members(group)
    for pid in alive:
        kill_process(pid)
    return alive


def remove(group: Group) -> None:
    for directory in group.directories():
        _rmdir(directory)


def sweep(bases: dict[str, str]) -> None:
    """End and remove groups left behind by supervisors that no longer exist.

    `run_name` tells a reused pid from the one that made the group, and leaves alone the groups of
    supervisors in other pid namespaces, whose life cannot be seen from here.
    """
    here = _pid_namespace()
    for base in {value for key, value in bases.items() if key != "version"}:
        try:
            names = os.listdir(base)
        except OSError:
            continue
        for name in names:
            parts = name.split("-")
            if len(parts) != 4 or parts[0] + "-" != PREFIX or parts[1] != here:
                continue
            if start_time(int(parts[2])) != parts[3]:
                path = os.path.join(base, name)
                for pid in _read(os.path.join(path, "cgroup.procs")).split():
                    kill_process(int(pid))
                _rmdir(path)


def _pid_namespace() -> str:
    return "".join(c for c in os.readlink("/proc/self/ns/pid") if c.isdigit())


def run_name() -> str:
    """The name of the group of this supervisor: pid namespace, pid, start time."""
    return f"{_pid_namespace()}-{os.getpid()}-{start_time(os.getpid())}"


def start_time(pid: int) -> str:
    """Clock tick at which a process started; together with the pid it names a process for good."""
    stat = _read(f"/proc/{pid}/stat")
    return stat.rpartition(")")[2].split()[19] if stat else ""


def main() -> None:
    import json

    print(json.dumps(find()))
