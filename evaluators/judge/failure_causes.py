"""From the supervisor's last report to facts, cause and numbers. Pure and total.

Use: `facts(final, isolation)` for the record, `explain(final, limits, artifact_needed=...)` for the
cause (None: it ended well) and the numbers that a repair needs. First line that fits:

| last report | cause |
|---|---|
| end `infra`, detail `cancelled` | abandoned |
| a fault of a device, as the driver reports it | infra:accelerator |
| end `infra`, anything else | infra:sandbox |
| `pruned`, `cpu_cap`, `wall_cap`, `oom` | the same word |
| `start_cap` | cpu_cap or wall_cap, whichever was used up; numbers say phase `start` |
| a rule broken (`protocol`) | oversize, no_artifact, or illegal:<rule> |
| `signal` XCPU / XFSZ / BUS / another | cpu_cap / oversize / oom / segfault; oom if the kernel counted a kill |
| `signal` ABRT after a CUDA error in the log | oom if it was of memory, else crash |
| exit not 0, exception of memory / of full shared memory / of a full output folder | oom / oom / oversize |
| exit before the import ended: SyntaxError / another | syntax / import |
| any other exit not 0 | crash |
| exit 0, artifact needed, none sealed | no_artifact |

The process can choose its exit code and its exception text, so these only choose among failures;
whether it started at all, memory kills, clocks, faults of devices and sealed bytes are seen from outside. A bus
error and a full /dev/shm are an `oom` whose numbers name that cap (`shm_cap_bytes`). Limits: a process that kills
itself looks like one killed by a bug; both are `segfault`.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from typing import Any

from evaluators.judge.sandbox.bubblewrap import Limits
from lineage.records import Number, RunFacts, check_cause

MEMORY_WORDS = ("MemoryError", "DefaultCPUAllocator", "OutOfMemoryError", "out of memory", "Cannot allocate")
# of torch, its DataLoader, multiprocessing and NCCL; the first two also when a worker died of a bus error
BUS_WORDS = ("Bus error", "bus error")
SHARED_WORDS = ("/dev/shm", "shared memory", "shared_memory", "(shm)", "file </torch_", *BUS_WORDS)
FULL_WORDS = ("No space left on device", "File too large", "Disk quota exceeded")
# as torch says it, newer and older
ASKED = re.compile(r"Tried to allocate ([\d.]+ [KMG]?i?B)")
TOTAL = re.compile(r"total capacity of ([\d.]+ [KMG]?i?B)|([\d.]+ [KMG]?i?B) total capacity")
FREE = re.compile(r"([\d.]+ [KMG]?i?B)(?: is)? free")
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
FACTS = tuple(name for name in RunFacts.model_fields if name != "isolation")


def facts(final: Mapping[str, Any], isolation: str) -> RunFacts:
    return RunFacts(**{key: final[key] for key in FACTS if key in final}, isolation=isolation)


def explain(
    final: Mapping[str, Any], limits: Limits, *, artifact_needed: bool = False
) -> tuple[str | None, dict[str, Number]]:
    """Cause and numbers of one ended run."""
    cause = _cause(final, limits, artifact_needed)
    return check_cause(cause), _numbers(final, limits, cause) if cause else {}


def _cause(final: Mapping[str, Any], limits: Limits, artifact_needed: bool) -> str | None:
    end = final["end"]
    if end == "infra" and final["detail"].startswith("cancelled"):
        return "abandoned"
    if device_faults(final):
        return "infra:accelerator"
    if end == "infra":
        return "infra:sandbox"
    if end in ("pruned", "cpu_cap", "wall_cap", "oom"):
        return str(end)
    if end == "start_cap":
        return "cpu_cap" if final["start_cpu_s"] > limits.start_cpu_s else "wall_cap"
    if end == "protocol":
        return _rule(final["rule"] or "protocol")
    if end == "signal":
        known = {signal.SIGXCPU: "cpu_cap", signal.SIGXFSZ: "oversize", signal.SIGBUS: "oom"}
        # in a thread of torch's own
        if final["code"] == signal.SIGABRT and "CUDA error" in final["log_tail"]:
            return "oom" if "out of memory" in final["log_tail"] else "crash"
        return "oom" if final["oom_kills"] else known.get(final["code"], "segfault")
    if final["code"] != 0:
        return _exit(final)
    artifact = final.get("artifact") or {}
    if artifact_needed and "files" not in artifact:
        return _rule(artifact.get("rule", "no_artifact")) if final["phase"] == "run" else _exit(final)
    return None


def device_faults(final: Mapping[str, Any]) -> tuple[str, ...]:
    """What the driver blamed the run's devices for; nothing that the candidate writes is among it."""
    use = final.get("device")
    return tuple(use.faults) if use is not None else ()


def device_memory(text: str) -> dict[str, Number]:
    """Asked, free and total bytes from the text of torch's error; empty when it is not one of a device's memory.

    >>> device_memory("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 4.00 GiB of which 1.50 GiB is free.")
    {'asked_bytes': 2147483648, 'free_bytes': 1610612736, 'total_bytes': 4294967296}
    """
    if "CUDA" not in text or "out of memory" not in text:
        return {}
    found: dict[str, Number] = {}
    for name, pattern in (("asked_bytes", ASKED), ("free_bytes", FREE), ("total_bytes", TOTAL)):
        match = pattern.search(text)
        if match:
            amount, unit = next(group for group in match.groups() if group).split()
            found[name] = int(float(amount) * UNITS.get(unit, 1))
    return found


def _rule(rule: str) -> str:
    return rule if rule in ("oversize", "no_artifact") else f"illegal:{rule}"


def _exit(final: Mapping[str, Any]) -> str:
    said = final["exception"]
    if any(word in said for word in MEMORY_WORDS) or _shared_memory_full(final):
        return "oom"
    if any(word in said for word in FULL_WORDS):
        return "oversize"
    if final["phase"] != "up":
        return "crash"
    return "syntax" if said.startswith(("SyntaxError", "IndentationError", "TabError")) else "import"


def _shared_memory_full(final: Mapping[str, Any]) -> bool:
    """Did /dev/shm run out of room? Writing into a mapping of a full one ends in a bus error."""
    said = final["exception"] + final["log_tail"][-2000:]  # a worker's own message is at the end of the log
    full = any(word in said for word in (*FULL_WORDS, *BUS_WORDS))
    died = final["end"] == "signal" and final["code"] == signal.SIGBUS
    return died or (full and any(word in said for word in SHARED_WORDS))


def _numbers(final: Mapping[str, Any], limits: Limits, cause: str) -> dict[str, Number]:
    phase = final["phase"]
    numbers: dict[str, Number] = {"phase": phase if phase == "run" else "start"}
    if cause == "cpu_cap":
        cap = limits.cpu_s if phase == "run" else limits.start_cpu_s
        numbers |= {"cpu_s": final["cpu_s"] if phase == "run" else final["start_cpu_s"], "cap_s": cap}
    elif cause == "wall_cap":
        cap = limits.wall_s if phase == "run" else limits.start_wall_s
        numbers |= {"wall_s": final["wall_s"] if phase == "run" else final["start_wall_s"], "cap_s": cap}
    elif cause == "oom" and _shared_memory_full(final):
        numbers |= {"shm_cap_bytes": limits.shm_bytes, "setting": "budget.shm_mb"}
    elif cause == "oom":
        said = f"{final['exception']}\n{final['log_tail']}"
        numbers |= device_memory(said) or {"peak_bytes": final["peak_bytes"], "cap_bytes": limits.memory}
    elif cause == "infra:accelerator":
        numbers["detail"] = "; ".join(device_faults(final))[:400]
    elif cause == "segfault":
        numbers["signal"] = final["code"]
    elif cause == "oversize":
        numbers |= (final.get("artifact") or {}).get("numbers", {})
    if final["stage"]:
        numbers["stage"] = final["stage"]
    if final["exception"]:
        numbers["exception"] = final["exception"][:400]
    if final["code"] and cause != "segfault":
        numbers["exit_code"] = final["code"]
    return numbers
