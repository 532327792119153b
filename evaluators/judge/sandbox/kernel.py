"""Locks that a process puts on itself before it runs code it does not trust: rlimits, landlock, seccomp.

Use: loaded by path inside the sandbox by `entry.py`, which calls `lock(config)` first. Standard
library and ctypes only. Limits: Linux on x86_64 and aarch64; a demanded lock that cannot be set
raises, it is never skipped. System call numbers: kernel `unistd_64.h` and `asm-generic/unistd.h`.
"""

# loaded by path next to the candidate, os.path only
# ruff: noqa: PTH112
from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
from collections.abc import Iterable, Mapping
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER = 1, 38, 22, 36
PR_CAPBSET_DROP = 24

# name: (x86_64, aarch64); -1 where the architecture has no such call.
DENIED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "acct": (163, 89),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "personality": (135, 92),
    "vhangup": (153, 58),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "memfd_secret": (447, 447),
    # watching shared read-only files would let two runs signal each other
    "inotify_init1": (294, 26),
    "inotify_init": (253, -1),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    # and these would show what an earlier run left in the page cache
    "mincore": (27, 232),
    "cachestat": (451, 451),
    "preadv2": (327, 286),
    # these empty or fill the cache: a run could leave a message in it for the next one
    "fadvise64": (221, 223),
    "readahead": (187, 213),
    # System V and POSIX queues are host-wide where there is no IPC namespace
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "modify_ldt": (154, -1),
    "uselib": (134, -1),
    "ustat": (136, -1),
    "sysfs": (139, -1),
    "lookup_dcookie": (212, 18),
}
# Landlock does not govern these. Where it stands alone they do nothing and report success, so that
# honest code that copies a file's mode does not fail.
PRETENDED = {
    "chmod": (90, -1),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, -1),
    "lchown": (94, -1),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, -1),
    "utimes": (235, -1),
    "futimesat": (261, -1),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
_SOCKET = (41, 198)
_SOCKETPAIR = (53, 199)
_CLONE = (56, 220)
_FORKS = ((57, -1), (58, -1))  # fork, vfork
_MADVISE = (28, 233)
_EVICTS = (20, 21)  # MADV_COLD, MADV_PAGEOUT
_CLONE3 = (435, 435)
_SETRLIMIT = (160, 164)
_PRLIMIT64 = (302, 261)
_RLIMIT_CORE = 4
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS|CGROUP|UTS|IPC|USER|PID|NET
_CLONE_THREAD = 0x00010000

_LOAD, _JEQ, _JSET, _JGE, _RET = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL, _EPERM, _ENOSYS, _NOTHING = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026, 0x00050000


def _loopback(socket: int) -> list[tuple[int, int, int, int]]:
    """Sockets of the families unix, inet, inet6 and, to list interfaces as NCCL does, netlink route (0)."""
    return [
        *((_JEQ, 0, 9, socket), (_LOAD, 0, 0, 16), (_JEQ, 5, 0, 1), (_JEQ, 4, 0, 2), (_JEQ, 3, 0, 10)),
        *((_JEQ, 0, 3, 16), (_LOAD, 0, 0, 32), (_JEQ, 0, 1, 0), (_RET, 0, 0, _ALLOW), (_RET, 0, 0, _EPERM)),
    ]


def seccomp_program(
    *, alone: bool, loopback: bool = False, forks: bool = True
) -> list[tuple[int, int, int, int]]:
    """The BPF filter as (code, jt, jf, k) rows; see `man 2 seccomp`.

    Denied calls fail with EPERM; clone3 with ENOSYS so that libc falls back to clone, whose flags
    can be read. Sockets: AF_UNIX only; none where seccomp stands `alone`, without a mount namespace that
    hides the host's socket files; with `loopback` also those of a network namespace that has nothing else.
    Without `forks` there are threads only, no new processes: what a child uses that the kernel reaps itself
    is counted by a control group and by nothing else.
    """
    if alone and loopback:
        raise ValueError(
            "sockets need a network namespace; seccomp alone cannot tell loopback from elsewhere"
        )
    column, arch = _MACHINES[platform.machine()]
    rows = [(_LOAD, 0, 0, 4), (_JEQ, 1, 0, arch), (_RET, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    if column == 0:  # the x32 ABI numbers its calls from 2**30
        rows += [(_JGE, 0, 1, 0x40000000), (_RET, 0, 0, _KILL)]
    rows += [(_JEQ, 0, 1, _CLONE3[column]), (_RET, 0, 0, _ENOSYS)]
    rows += [(_JEQ, 0, 4 if forks else 6, _CLONE[column]), (_LOAD, 0, 0, 16)]
    rows += [(_JSET, 0, 1, _NEW_NAMESPACES), (_RET, 0, 0, _EPERM)]
    rows += [] if forks else [(_JSET, 1, 0, _CLONE_THREAD), (_RET, 0, 0, _EPERM)]
    rows += [(_RET, 0, 0, _ALLOW)]
    for call in () if forks else _FORKS:
        if call[column] >= 0:
            rows += [(_JEQ, 0, 1, call[column]), (_RET, 0, 0, _EPERM)]
    rows += [(_JEQ, 0, 5, _MADVISE[column]), (_LOAD, 0, 0, 32)]
    rows += [(_JEQ, 1, 0, _EVICTS[0]), (_JEQ, 0, 1, _EVICTS[1]), (_RET, 0, 0, _EPERM), (_RET, 0, 0, _ALLOW)]
    for call in (_SOCKETPAIR,) if alone or loopback else (_SOCKETPAIR, _SOCKET):
        rows += [(_JEQ, 0, 4, call[column]), (_LOAD, 0, 0, 16), (_JEQ, 0, 1, 1)]
        rows += [(_RET, 0, 0, _ALLOW), (_RET, 0, 0, _EPERM)]
    rows += _loopback(_SOCKET[column]) if loopback else []
    if alone:
        rows += [(_JEQ, 0, 1, _SOCKET[column]), (_RET, 0, 0, _EPERM)]
    # RLIMIT_CORE stays at 1: a candidate that sets it to 0 and crashes runs the host's core handler as root
    rows += [(_JEQ, 0, 4, _SETRLIMIT[column]), (_LOAD, 0, 0, 16), (_JEQ, 0, 1, _RLIMIT_CORE)]
    rows += [(_RET, 0, 0, _EPERM), (_RET, 0, 0, _ALLOW)]
    rows += [(_JEQ, 0, 8, _PRLIMIT64[column]), (_LOAD, 0, 0, 24), (_JEQ, 0, 5, _RLIMIT_CORE)]
    rows += [(_LOAD, 0, 0, 32), (_JEQ, 0, 2, 0), (_LOAD, 0, 0, 36), (_JEQ, 1, 0, 0), (_RET, 0, 0, _EPERM)]
    rows += [(_RET, 0, 0, _ALLOW)]  # another limit, or only read
    for numbers in DENIED.values():
        if numbers[column] >= 0:
            rows += [(_JEQ, 0, 1, numbers[column]), (_RET, 0, 0, _EPERM)]
    for numbers in PRETENDED.values() if alone else ():
        if numbers[column] >= 0:
            rows += [(_JEQ, 0, 1, numbers[column]), (_RET, 0, 0, _NOTHING)]
    return [*rows, (_RET, 0, 0, _ALLOW)]


def _check(value: int, what: str) -> int:
    if value < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return value


def prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, value, 0, 0, 0), f"prctl({option}, {value})")


def setns(handle: int, kinds: int) -> None:
    """Join namespaces of the process that the pidfd `handle` names; that of pids counts for children only."""
    _check(_libc.setns(handle, kinds), "setns")


def seccomp_code(*, alone: bool, loopback: bool = False, forks: bool = True) -> bytes:
    program = seccomp_program(alone=alone, loopback=loopback, forks=forks)
    return b"".join(struct.pack("HBBI", *row) for row in program)


def seccomp(*, alone: bool, loopback: bool = False, forks: bool = True) -> None:
    code = seccomp_code(alone=alone, loopback=loopback, forks=forks)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    _check(_libc.prctl(PR_SET_SECCOMP, 2, header, 0, 0), "seccomp filter")


def landlock_abi() -> int:
    """The landlock version this kernel speaks, 0 when it has none."""
    return max(0, int(_libc.syscall(444, None, 0, 1)))


def landlock(read: Iterable[str], write: Iterable[str], names: Iterable[str] = ()) -> None:
    """Only these trees may be read, or read and written, or their `names` listed; no TCP, no signals out.

    Bits: `linux/landlock.h`. Older kernels lack TCP (ABI < 4) and signal scope (ABI < 6); what
    then holds is for the probe to say.
    """
    abi = landlock_abi()
    if abi < 1:
        raise OSError("landlock: not offered by this kernel")
    known = (1 << 13) - 1 | (1 << 13 if abi >= 2 else 0) | (1 << 14 if abi >= 3 else 0)
    known |= 1 << 15 if abi >= 5 else 0
    net = 3 if abi >= 4 else 0
    scope = 3 if abi >= 6 else 0
    attributes = struct.pack("QQQ", known, net, scope)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    rules = _check(_libc.syscall(444, attributes, ctypes.c_size_t(size), 0), "landlock ruleset")
    reading = 1 | 1 << 2 | 1 << 3
    writing = reading | 1 << 1 | sum(1 << bit for bit in range(4, 15))
    on_file = 1 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
    devices = 1 << 15  # ioctl on /dev/nvidia* and ttys; harmless on regular trees
    for paths, rights in ((read, reading), (write, writing | devices), (names, 1 << 3)):
        for path in paths:
            try:
                handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            wanted = rights & known & (-1 if os.path.isdir(path) else on_file)
            rule = struct.pack("=Qi", wanted, handle)
            _check(_libc.syscall(445, rules, 1, rule, 0), f"landlock rule for {path}")
            os.close(handle)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    _check(_libc.syscall(446, rules, 0), "landlock")
    os.close(rules)


def drop_capabilities() -> None:
    """None of root's powers for this process and what it starts: not a better priority, not a higher limit."""
    for number in range(64):
        _libc.prctl(
            PR_CAPBSET_DROP, number, 0, 0, 0
        )  # refused without CAP_SETPCAP, and then there is nothing to drop
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    head, nothing = struct.pack("Ii", 0x20080522, 0), bytes(24)  # _LINUX_CAPABILITY_VERSION_3, this process
    _check(_libc.capset(head, nothing), "capset")


def limit(limits: Mapping[str, int]) -> None:
    """Soft and hard limit alike; a hard limit that is already lower stays."""
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        bound = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)
        resource.setrlimit(kind, (bound, bound))


def lock(config: Mapping[str, Any]) -> None:
    """Apply `rlimits` {name: value}, `powerless`, `landlock` {read, write} and `seccomp` {alone, ...}, in that order."""
    limit(config.get("rlimits", {}))
    if config.get("powerless"):
        drop_capabilities()
    if config.get("landlock") is not None:
        landlock(**config["landlock"])
    if config.get("seccomp") is not None:
        seccomp(**config["seccomp"])
