"""Builds the supervisor's request: what the candidate sees, its environment, its locks, its limits.

Use: `request(box, layers, ...)` gives the JSON object for `evaluators.judge.sandbox.supervisor_client`. An allow-list:
nothing of the host is there unless named here. Limits: without bubblewrap the candidate sees host
paths and shares the host's process list; landlock and seccomp then carry the weight.
"""

# paths are strings of an argument list here
# ruff: noqa: PTH103, PTH110, PTH112, PTH114, PTH115, PTH118, PTH119, PTH208
from __future__ import annotations

import json
import marshal
import os
import resource
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.judge.sandbox import compiled_packages, kernel, toolchain, visible_packages
from evaluators.judge.sandbox.available_layers import HERE, Layers
from evaluators.judge.sandbox.entry import FIELD
from evaluators.judge.sandbox.interpreters import python_of
from lineage.environment_spec import Budget
from lineage.records import Device, Record
from lineage.script_task import command, python_target

MIB = 1 << 20
# beside busy neighbours an import took 18 times its CPU time; it is a fiftieth of the usual start cap
START_WALL_FACTOR = 6.0
OWN_PROCESSES = 4  # bubblewrap twice, the interpreter, one to spare
OUTPUT_BYTES = 32 * MIB  # of what a script prints; a figure of a run of hours is a few MB
OWN_MORE = 2  # of a forked run: the program that keeps its sandbox open, and the process that reports its end
PLACEHOLDER = "/usr/bin/cat"


class Limits(Record):
    """Caps of one run; CPU and wall seconds before release (`start_*`) and after it.

    `loopback`: its processes may talk to each other through sockets of a network of their own. `work_bytes`: size of
    a script's working folder.
    """

    start_cpu_s: float
    start_wall_s: float
    cpu_s: float
    wall_s: float
    memory: int
    processes: int
    threads: int = 1
    tmp_bytes: int = 256 * MIB
    out_bytes: int = 0
    work_bytes: int = 0
    shm_bytes: int = 64 * MIB
    loopback: bool = False


def limits_for(budget: Budget, cpu_s: float, wall_s: float, *, writes: bool) -> Limits:
    """The caps of one run under an environment's budget; `writes`: it has an output folder."""
    return Limits(
        start_cpu_s=budget.start_cpu_s,
        start_wall_s=START_WALL_FACTOR * budget.start_cpu_s,
        cpu_s=cpu_s,
        wall_s=wall_s,
        memory=budget.memory_mb * MIB,
        processes=budget.processes + OWN_PROCESSES,
        threads=budget.threads,
        tmp_bytes=budget.tmp_mb * MIB,
        # room above the cap, so that an artifact that is too big can be measured and reported
        out_bytes=2 * budget.artifact_bytes + MIB if writes else 0,
        shm_bytes=budget.shm_mb * MIB,
        loopback=budget.loopback,
    )


class Box(Record):
    """One run's inside. `folder` is the run's own scratch folder; paths are on the host.

    `release` (empty at first) is what the candidate is given to look into; `data` is renamed into it. `compiled`: folder
    of a copy of the packages without sources (`sandbox.compiled_packages`), which is mounted in place of them and of all else
    under /usr/lib that is text. It needs bubblewrap. `python`: the recipe's own interpreter; `build`: compilers and headers
    are there. A run in mode `script` executes `command` in a copy of the source;
    `values` are what its placeholders stand for, `links` the folders of the released data whose files are linked into
    that copy, `output` the file on the host that gets all it prints.
    """

    mode: str
    asks: bool = False  # each request says what it must be answered with
    folder: str
    source: str
    fake: str
    data: str
    seed: int = 0
    outputs: int = 0
    context: int = 0
    fake_request: str = ""
    collect: str = ""
    artifact_cap: int = 0
    packages: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    python: str = ""
    build: bool = False
    compiled: str = ""
    libraries: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    command: str = ""
    values: dict[str, str] = {}
    links: tuple[str, ...] = ()
    output: str = ""
    limits: Limits

    @property
    def release(self) -> str:
        return os.path.join(self.folder, "release")


class Server(Record):
    """A fork server as its clients need it: their end of its socket, and what a run inherits from it.

    `cpu_s`, `wall_s`: seconds of its start up to the import of the packages. `bytes`: its anonymous memory.
    """

    socket: int
    cpu_s: float
    wall_s: float
    bytes: int


class SandboxPaths(Record):
    """The paths of the same files and folders as the candidate sees them."""

    recipe: str
    fake: str
    release: str
    out: str
    tmp: str
    entry: str
    kernel: str
    definitions: str
    inside: str
    fake_request: str
    work: str


INSIDE = SandboxPaths(
    recipe="/recipe",
    fake="/fake",
    release="/release",
    out="/out",
    tmp="/tmp",
    entry="/bench/entry.py",
    kernel="/bench/kernel.py",
    definitions="/bench/changed_definitions.py",
    inside="/bench/inside",
    fake_request="/fake_request.npy",
    work="/script",
)


def _outside(box: Box) -> SandboxPaths:
    return SandboxPaths(
        recipe=box.source,
        fake=box.fake,
        release=box.release,
        out=os.path.join(box.folder, "out"),
        tmp=os.path.join(box.folder, "tmp"),
        entry=str(HERE / "entry.py"),
        kernel=str(HERE / "kernel.py"),
        definitions=str(HERE / "changed_definitions.py"),
        inside=str(HERE / "inside"),
        fake_request=box.fake_request,
        work=os.path.join(box.folder, "work"),
    )


def _visible(box: Box) -> visible_packages.Visible:
    return visible_packages.visible(box.packages, box.masked, box.python, box.build)


def _entries(box: Box) -> dict[str, list[str]]:
    """The names to be found in each folder of installed packages."""
    seen = _visible(box).entries
    if not box.compiled:
        return seen
    return {
        folder: [compiled_packages.name_of(entry) for entry in entries] for folder, entries in seen.items()
    }


def environment(box: Box, view: SandboxPaths) -> dict[str, str]:
    """The whole environment of the candidate: nothing of the engine's is passed on."""
    threads = str(box.limits.threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": view.tmp,
        "TMPDIR": view.tmp,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "WANDB_MODE": "disabled",
        "CUDA_VISIBLE_DEVICES": ",".join(device.uuid for device in box.devices),
        "USER": "candidate",
        "PYTHONPATH": view.inside,
        "CANDIDATE_PACKAGES": json.dumps(_entries(box)),
        **dict.fromkeys(names, threads),
        **toolchain.environment(box.devices),
        **(LOOPBACK if box.limits.loopback else {}),
        # compile workers share a queue in /dev/shm, which landlock cannot give to one run alone
        **({} if view is INSIDE else {"TORCHINDUCTOR_COMPILE_THREADS": "1"}),
    }


def prefixes(python: str = "", build: bool = False) -> list[str]:
    """Folders of the interpreter that must be readable: binaries and the standard library; headers for a `build`."""
    base = python_of(python).base
    if base in ("/usr", "/"):
        return []
    folders = [os.path.join(base, name) for name in ("bin", "lib", "lib64", *(["include"] if build else []))]
    store = ["/nix/store"] if base.startswith("/nix/store") else []
    return [path for path in folders if os.path.isdir(path)] + store


def device_nodes(devices: Sequence[Device]) -> list[str]:
    """The device files of these devices that are here, control nodes included; of no other device."""
    return sorted({path for device in devices for path in device.nodes if os.path.exists(path)})


LOOPBACK = {
    "MASTER_ADDR": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "NCCL_IB_DISABLE": "1",
}
# the names that rendezvous looks up
ETC = {
    11: ("/etc/hosts", b"127.0.0.1 localhost sandbox\n::1 localhost\n"),
    12: ("/etc/nsswitch.conf", b"hosts: files\n"),
}
PROC_NEEDED = ("cpuinfo", "meminfo", "stat", "loadavg", "uptime", "version", "filesystems")
PROC_TELLING = ("keys", "key-users", "locks")
# where the CUDA driver looks for its devices
GPU_FOLDERS = ("/sys/bus/pci", "/sys/devices", "/sys/module/nvidia")
NAMESPACES = (
    *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-net", "--unshare-uts"),
    *("--unshare-cgroup-try", "--disable-userns", "--uid", "65534", "--gid", "65534"),
    # root would keep every capability inside, enough to remount the host writable
    *("--cap-drop", "ALL", "--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv"),
)


def _programs() -> list[str]:
    """The operating system's programs and libraries."""
    given = []
    for part in ("bin", "lib", "lib64", "include"):
        if os.path.isdir(f"/usr/{part}"):
            given += ["--ro-bind", f"/usr/{part}", f"/usr/{part}"]
    return given


def _libraries_alone() -> list[str]:
    """The operating system's shared libraries and nothing else of it: no programs, no headers, no other folders."""
    given = []
    for part in ("lib", "lib64"):
        top = f"/usr/{part}"
        if not os.path.isdir(top) or os.path.islink(top):
            continue
        given += ["--ro-bind", top, top]
        shared = [path for path in _folders(top) if path.endswith("-linux-gnu")]
        for path in [*_folders(top), *(inner for one in shared for inner in _folders(one))]:
            if path not in shared:
                given += ["--size", "4096", "--tmpfs", path]
    return given


def _folders(top: str) -> list[str]:
    return sorted(entry.path for entry in os.scandir(top) if entry.is_dir(follow_symlinks=False))


def _system(devices: Sequence[Device], programs: Sequence[str]) -> list[str]:
    """`programs`, devices and /proc; no configuration, no home."""
    given = list(programs)
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            given += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
        elif os.path.isdir(f"/{name}"):
            given += ["--ro-bind", f"/{name}", f"/{name}"]
    for path in ("/etc/ld.so.cache", "/etc/alternatives"):
        given += ["--ro-bind-try", path, path]
    given += ["--proc", "/proc", *proc_masks(bool(devices)), "--dev", "/dev"]
    for path in device_nodes(devices):
        given += ["--dev-bind", path, path]
    for path in GPU_FOLDERS if devices else ():
        given += ["--ro-bind-try", path, path]
    return given


def proc_masks(has_devices: bool) -> list[str]:
    """Blank what of /proc is not this process's own or plain information.

    Under a root engine the candidate's kernel uid is root's, which may write /proc/sys without any
    capability (core_pattern runs a program on the host); and /proc/1 is bubblewrap's own process.
    """
    given = ["--size", "4096", "--tmpfs", "/proc/1", "--remount-ro", "/proc/1"]
    for name in sorted(os.listdir("/proc")):
        path = f"/proc/{name}"
        mode = os.lstat(path).st_mode if not name.isdigit() else stat.S_IFLNK
        if stat.S_ISLNK(mode) or name in PROC_NEEDED or (has_devices and name == "driver"):
            continue
        if stat.S_ISDIR(mode):
            given += ["--size", "4096", "--tmpfs", path, "--remount-ro", path]
        elif name in PROC_TELLING or mode & 0o222 or not mode & 0o004:
            given += ["--ro-bind", "/dev/null", path]
    return given


def _interpreter(python: str, build: bool) -> list[str]:
    """The interpreter's folders."""
    return [part for path in prefixes(python, build) for part in ("--ro-bind", path, path)]


def _interpreter_alone(copy: str) -> list[str]:
    """The interpreter's binary, its shared libraries, and a compiled copy of its own modules."""
    binary, library = visible_packages.interpreter(), compiled_packages.standard_library()
    real = os.path.realpath(binary)
    given = ["--ro-bind", real, real]
    given += [] if real == binary else ["--ro-bind", real, binary]
    for folder in prefixes():
        names = sorted(os.listdir(folder)) if os.path.basename(folder).startswith("lib") else []
        for path in (os.path.join(folder, name) for name in names if ".so" in name):
            given += ["--ro-bind", path, path]
    return [*given, "--ro-bind", os.path.join(copy, "library"), library]


def _python(box: Box) -> list[str]:
    """The interpreter and the allowed packages; other installed packages are blanked."""
    seen, copy = _visible(box), box.compiled
    given = _interpreter_alone(copy) if copy else _interpreter(box.python, box.build)
    roots = ("/usr/lib", "/usr/lib64", *prefixes(box.python))
    blank = {path for path in seen.hidden if any(path.startswith(root + "/") for root in roots)} | {
        *seen.site
    }
    for path in sorted(blank):
        given += ["--size", "65536", "--tmpfs", path]
    for path in seen.paths:
        given += ["--ro-bind", *(compiled_packages.at(copy, path) if copy else (path, path))]
    for path in sorted(blank):
        given += ["--remount-ro", path]
    return given


def bwrap_arguments(box: Box, env: Mapping[str, str], *, userns_flag: bool = True) -> list[str]:
    """Namespaces and mounts. Order matters: a later mount hides an earlier one."""
    given = [flag for flag in NAMESPACES if userns_flag or flag != "--disable-userns"]
    for name, value in env.items():
        given += ["--setenv", name, value]
    given += _system(box.devices, _libraries_alone() if box.compiled else _programs())
    for path in toolchain.folders(box.devices, box.build):
        given += ["--ro-bind-try", path, path]
    for number, (path, _) in ETC.items() if box.limits.loopback else ():
        given += ["--ro-bind-data", str(number), path]
    given += ["--size", str(box.limits.shm_bytes), "--tmpfs", "/dev/shm"]
    given += ["--size", str(box.limits.tmp_bytes), "--tmpfs", "/tmp"]
    given += _python(box)
    for name in ("entry.py", "kernel.py", "changed_definitions.py", "inside"):
        given += ["--ro-bind", str(HERE / name), f"/bench/{name}"]
    given += ["--ro-bind", box.source, INSIDE.recipe, "--ro-bind", box.fake, INSIDE.fake]
    given += ["--ro-bind", box.release, INSIDE.release]
    if box.fake_request:
        given += ["--ro-bind", box.fake_request, INSIDE.fake_request]
    if box.limits.out_bytes:
        given += ["--size", str(box.limits.out_bytes), "--tmpfs", INSIDE.out]
    if box.command:
        given += ["--size", str(box.limits.work_bytes), "--tmpfs", INSIDE.work]
    return [*given, "--remount-ro", "/", "--chdir", "/tmp"]


def rlimits(box: Box, layers: Layers) -> dict[str, int]:
    caps = box.limits
    limits = {
        "CORE": 1,  # 0 still pipes a core to the host's handler; 1 is the kernel's word for never
        "NOFILE": 1024,
        "CPU": int(caps.start_cpu_s + caps.cpu_s) + 5,
        # with bubblewrap every place to write is a file system of its own size, and one says better that it is full
        "FSIZE": max(caps.out_bytes, caps.tmp_bytes, caps.work_bytes, caps.memory if layers.bwrap else 0),
        "MSGQUEUE": 0,
    }
    if "memory" not in layers.cgroup and not box.devices:
        limits["AS"] = (
            caps.memory + 2048 * MIB
        )  # mappings count; torch maps about 2 GiB that it never touches
    if "pids" not in layers.cgroup and os.geteuid() != 0 and layers.bwrap:
        limits["NPROC"] = caps.processes  # counted per user namespace, so only there is it this run's alone
    return limits


def _landlock(box: Box, view: SandboxPaths) -> dict[str, list[str]]:
    """The trees that may be read, those that may be written too, and the folders that may be listed."""
    roots = ("/usr/lib", "/usr/lib64", "/usr/bin", "/lib", "/lib64", "/bin", *prefixes(box.python, box.build))
    parts = [visible_packages.without_packages(root, box.python) for root in roots]
    read = [path for trees, _ in parts for path in trees]
    read += [
        "/etc/ld.so.cache",
        "/etc/alternatives",
        *_visible(box).paths,
    ]
    read += [view.recipe, view.fake, view.release, view.entry, view.kernel]
    read += [view.definitions, view.inside]
    read += ["/proc/self", *(f"/proc/{name}" for name in PROC_NEEDED), "/sys/devices/system/cpu"]
    read += ["/dev/urandom", "/dev/random", "/dev/zero"]
    read += [view.fake_request] if view.fake_request else []
    read += [*GPU_FOLDERS, "/proc/driver/nvidia", "/proc/devices"] if box.devices else []
    read += toolchain.folders(box.devices, box.build)
    write = [view.out, view.tmp, "/dev/null", *device_nodes(box.devices)]
    write += [view.work] if box.command else []
    return {"read": read, "write": write, "names": [path for _, folders in parts for path in folders]}


def _forks(box: Box, layers: Layers) -> bool:
    """May the run start processes? Where nothing counts the CPU time of all of them only on devices, whose score is
    no CPU time and whose wall clock no child escapes, and where the environment's runs have several processes.
    """
    return layers.counts_cpu or bool(box.devices) or box.limits.loopback


def locks(box: Box, layers: Layers, view: SandboxPaths) -> dict[str, Any]:
    limits = rlimits(box, layers)
    if layers.bwrap:  # the others are set before it starts
        limits = {name: value for name, value in limits.items() if name == "NPROC"}
    wanted: dict[str, Any] = {"rlimits": limits, "powerless": not layers.bwrap}  # bubblewrap does it itself
    if layers.landlock:
        wanted["landlock"] = _landlock(box, view)
    if layers.seccomp and not layers.bwrap:  # bubblewrap sets it on its own process too
        wanted["seccomp"] = {"alone": True, "forks": _forks(box, layers)}
    return wanted


def _child_locks(box: Box, layers: Layers) -> dict[str, Any]:
    """What bubblewrap sets before it starts a program, for a process that joins the sandbox later."""
    seccomp = {"alone": False, "loopback": box.limits.loopback, "forks": _forks(box, layers)}
    return {"rlimits": rlimits(box, layers), "powerless": True, "seccomp": seccomp}


def _prepared(
    box: Box, layers: Layers, argv: list[str], inner: dict[str, Any], env: dict[str, str], server: Server
) -> dict[str, Any]:
    """The part of a request that concerns a run forked from `server`; `message` is what the server gets."""
    message = {
        "config": inner,
        "argv": argv,
        "env": {**env, "PWD": "/tmp"},  # bubblewrap sets it with --chdir
        "cwd": "/tmp",
        "locks": _child_locks(box, layers),
    }
    return {**server.model_dump(), "message": message}


def request(
    box: Box, layers: Layers, channels: Mapping[int, int] | None = None, server: Server | None = None
) -> dict[str, Any]:
    """The request for one run. Makes the run's folders; `box.data` must be on the same file system.

    With `server` the run is forked from that process; needs bubblewrap and control groups.
    """
    view = INSIDE if layers.bwrap else _outside(box)
    os.makedirs(box.release, exist_ok=True)
    env = environment(box, view)
    inner = _inner(box, layers, view)
    argv = [view.entry, marshal.dumps(inner, 4).hex()]
    command = (
        [visible_packages.interpreter(box.python), "-I", "-S", *argv] if server is None else [PLACEHOLDER]
    )
    prepared = None if server is None else _prepared(box, layers, argv, inner, env, server)
    limits = box.limits.model_dump()
    files: dict[int, bytes] = {}
    if layers.bwrap:
        arguments = bwrap_arguments(box, env, userns_flag=layers.userns_flag)
        if server is not None:
            arguments += ["--info-fd", "8"]
            limits["processes"] += OWN_MORE
        if layers.seccomp:
            arguments += ["--seccomp", "10"]
            files[10] = kernel.seccomp_code(
                alone=False, loopback=box.limits.loopback, forks=_forks(box, layers)
            )
        files |= {number: data for number, (_, data) in ETC.items()} if box.limits.loopback else {}
        # not on the command line: pid 1 of the sandbox shows that to the candidate
        files[9] = "\0".join(arguments).encode()
        command = [layers.bwrap, "--args", "9", "--", *command]
        env = {"PATH": "/usr/bin:/bin"}
    else:
        for path in (view.out, view.tmp, *([view.work] if box.command else [])):
            os.makedirs(path, exist_ok=True)
        limits |= {"out_folder": view.out}
    order = FIELD.join((os.path.join(view.release, "data"), str(box.seed))) + "\n"
    return {
        "argv": command,
        "memory_files": files,
        "rlimits": {
            getattr(resource, f"RLIMIT_{name}"): value
            for name, value in (rlimits(box, layers) if layers.bwrap else {}).items()
            if name != "NPROC"  # in the new user namespace only
        },
        "env": env,
        "cwd": "/" if layers.bwrap else view.tmp,
        "pdeathsig": not layers.bwrap,
        "subreaper": not (layers.bwrap and layers.grouped),
        "cgroup": dict(layers.cgroup),
        "limits": limits,
        "release": [box.data, os.path.join(box.release, "data")],
        "order": order.encode(),
        "collect": {"folder": box.collect, "cap": box.artifact_cap} if box.collect else None,
        "channels": dict(channels or {}),
        "output": {"path": box.output, "cap": OUTPUT_BYTES} if box.output else None,
        "cleanup": box.folder,
        "prepared": prepared,
    }


def _inner(box: Box, layers: Layers, view: SandboxPaths) -> dict[str, Any]:
    """The configuration of `entry.py`."""
    return {
        "mode": box.mode,
        "kernel": view.kernel,
        "definitions": view.definitions,
        "libraries": list(box.libraries),
        "locks": locks(box, layers, view),
        "packages": _entries(box),
        "inside": view.inside,
        "recipe": view.recipe,
        "fake": view.fake,
        "out": view.out,
        "outputs": box.outputs,
        "context": box.context,
        "asks": box.asks,
        "fake_request": view.fake_request,
        **(_script(box, view) if box.command else {}),
    }


def _script(box: Box, view: SandboxPaths) -> dict[str, Any]:
    """The command with everything filled in, and where its working folder and files are."""
    data = os.path.join(view.release, "data")
    known = {"seed": str(box.seed), "out": view.out, "work": view.work, "released": data}
    values = {name: place.format(**known) for name, place in box.values.items()}
    words = command(box.command, values)
    return {
        "command": words,
        "in_process": bool(python_target(words)),
        "work": view.work,
        "tmp": view.tmp,
        "links": list(box.links),
        "collects": bool(box.collect),
    }
