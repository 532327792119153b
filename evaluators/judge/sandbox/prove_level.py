"""Which sandbox this machine gets, and what a probe with decoys proved of it.

Use: `prove("medium")` at start; the record is passed on to everything that runs candidates. `doctor_report()`
for people. The proven properties set the level, never the names of the layers:

- strong: all of `FIRST`, `SECOND` and `THIRD` hold. medium: all of `FIRST`. weak: anything else.

Limits: the probe takes about half a second per kind of sandbox tried; its result is kept for the process.
What it does not try, it does not prove.
"""

from __future__ import annotations

import functools
import json
import os
import select
import tempfile
from pathlib import Path
from typing import Any, Literal, NamedTuple

from evaluators.judge.sandbox.available_layers import HERE, Layers, bwraps, choices
from evaluators.judge.sandbox.bubblewrap import MIB, Box, Limits, request
from evaluators.judge.sandbox.decoys import decoys, touched
from evaluators.judge.sandbox.fork_server_client import server_for, switched_on, unfit
from evaluators.judge.sandbox.strengthening_advice import advice
from evaluators.judge.sandbox.supervisor_client import Session
from lineage.errors import InfraFault, IsolationRefused
from lineage.records import Record

Level = Literal["strong", "medium", "weak"]
ORDER: tuple[Level, ...] = ("weak", "medium", "strong")

# property -> attacks of `probe.ATTACKS` that must all fail
FIRST = {
    "labels unreadable": ("read_labels",),
    "no writes outside": (
        *("write_lineage", "write_packages", "write_own_source", "write_data"),
        *("change_mode", "remount", "write_sysctl"),
    ),
    "keys absent": ("key_in_environment", "key_in_proc"),
    "no network": ("tcp", "udp", "abstract_socket"),
    "engine untouchable": ("signal_engine", "read_memory", "trace_engine", "sandbox_init"),
}
SECOND = {
    "whole tree ends": ("survivors",),
    "memory cap": ("fill_memory",),
    "process cap": ("many_processes",),
}
THIRD = {
    "no unix sockets of the host": ("path_socket",),
    "no new namespaces": ("new_namespace",),
    "limits stay": ("raise_limit",),
    "no shared memory of the host": ("shared_memory",),
    "host names hidden": ("see_host_names",),
    "output size cap": ("big_output",),
}
PROBE_PROCESSES, PROBE_MEMORY, PROBE_OUT = 24, 96 * MIB, 2 * MIB


class Isolation(Record):
    """A sandbox and what the probe showed of it. `tools` are its walls, as the supervisor needs them."""

    level: Level
    layers: tuple[str, ...]
    holds: tuple[str, ...]
    not_held: tuple[str, ...]
    advice: tuple[str, ...] = ()
    tools: Layers
    prepared: bool = False
    prepared_fault: str = ""

    @property
    def start_text(self) -> str:
        """How a run comes to its process."""
        if self.prepared:
            return "start of a run: forked from a process that has imported the packages; proven with the same probe"
        return f"start of a run: an interpreter of its own ({self.prepared_fault})"

    def text(self) -> str:
        lines = [
            f"isolation: {self.level.upper()} ({' + '.join(self.layers)})",
            f"  CPU time: {self.tools.clock}",
            f"  holds: {', '.join(self.holds)}",
        ]
        lines.append(f"  {self.start_text}")
        if self.not_held:
            lines.append(f"  NOT held: {', '.join(self.not_held)}")
        return "\n".join(lines + [f"  to get better: {line}" for line in self.advice])


class Kind(NamedTuple):
    """What the probe runs in: the walls, and whether its process is forked or started."""

    tools: Layers
    prepared: bool = False


def level_of(held: set[str]) -> Level:
    if not set(FIRST) <= held:
        return "weak"
    return "strong" if {*SECOND, *THIRD} <= held else "medium"


def properties(worked: dict[str, bool]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(held, not held); an attack that was not reported counts as having worked."""
    every = {**FIRST, **SECOND, **THIRD}
    held = tuple(name for name, tries in every.items() if not any(worked.get(t, True) for t in tries))
    return held, tuple(name for name in every if name not in held)


def _run(
    kind: Kind, folder: Path, targets: dict[str, Any], alive: int, *, loopback: bool = False
) -> dict[str, Any]:
    """One run of the probe through the supervisor, as any candidate."""
    for name in ("source", "fake", "staged", "sealed"):
        (folder / name).mkdir(parents=True)
    (folder / "source" / "train.py").write_bytes((HERE / "probe.py").read_bytes())
    (folder / "staged" / "targets.json").write_text(json.dumps(targets))
    limits = Limits(
        start_cpu_s=30,
        start_wall_s=60,
        cpu_s=30,
        wall_s=60,
        memory=PROBE_MEMORY,
        processes=PROBE_PROCESSES,
        tmp_bytes=4 * MIB,
        out_bytes=PROBE_OUT,
        loopback=loopback,
    )
    box = Box(
        mode="train",
        folder=str(folder),
        source=str(folder / "source"),
        fake=str(folder / "fake"),
        data=str(folder / "staged"),
        collect=str(folder / "sealed"),
        artifact_cap=MIB,
        limits=limits,
    )
    server = server_for(kind.tools, box) if kind.prepared else None
    return Session(request(box, kind.tools, {7: alive}, server), (alive,)).finish()


def _attack(kind: Kind, folder: Path, *, loopback: bool = False) -> dict[str, bool]:
    """Attack name -> did it work, in this sandbox."""
    with decoys(folder / "decoys") as targets:
        settings = {"processes": PROBE_PROCESSES, "same_pids": not kind.tools.bwrap}
        ours, theirs = os.pipe()
        try:
            final = _run(kind, folder / "matrix", {**targets, **settings}, theirs, loopback=loopback)
        finally:
            os.close(theirs)
        report = folder / "matrix" / "sealed" / "worked.json"
        if not report.exists():
            what = final["exception"] or final["log_tail"][-300:] or final["detail"] or final["end"]
            raise InfraFault(
                "probe", f"the probe did not report from ({', '.join(kind.tools.names())}): {what}"
            )
        worked = {name: bool(value) for name, value in json.loads(report.read_text()).items()}
        # everything the probe started holds the other end of this pipe
        worked["survivors"] = not select.select([ours], [], [], 3)[0]
        os.close(ours)
        worked["write_lineage"] |= bool(touched(targets))
    final = _run_alone(kind, folder / "memory", {"fill": 3 * PROBE_MEMORY})
    worked["fill_memory"] = "REFUSED" not in final["log_tail"] and not final["oom_kills"]
    # a run of its own: where only the supervisor's clock holds this cap, it may end the run
    final = _run_alone(kind, folder / "output", {"fill_output": 2 * PROBE_OUT})
    written = max((int(line) for line in final["log_tail"].split() if line.isdigit()), default=2 * PROBE_OUT)
    worked["big_output"] = written > PROBE_OUT
    return worked


def _run_alone(kind: Kind, folder: Path, targets: dict[str, Any]) -> dict[str, Any]:
    ours, theirs = os.pipe()
    try:
        return _run(kind, folder, targets, theirs)
    finally:
        os.close(theirs)
        os.close(ours)


def examine(tools: Layers, *, loopback: bool = False, prepared: bool = False) -> Isolation:
    """Run the probe in one kind of sandbox; with `loopback` in one whose processes have sockets.

    `prepared`: forked from a process that was there before, else started.
    """
    with tempfile.TemporaryDirectory(prefix="bakeoff-probe-") as name:
        worked = _attack(Kind(tools, prepared), Path(name).resolve(), loopback=loopback)
    held, missing = properties(worked)
    level = level_of(set(held))
    return Isolation(
        level=level, layers=tools.names(), holds=held, not_held=missing, tools=tools, prepared=prepared
    )


def _with_prepared(found: Isolation, loopback: bool) -> Isolation:
    """The sandbox with the faster start, if the same probe shows every property of the slower one for it."""
    fault = unfit(found.tools)
    if not fault:
        try:
            forked = examine(found.tools, loopback=loopback, prepared=True)
        except InfraFault as error:
            fault = str(error)
        else:
            lost = sorted(set(found.holds) - set(forked.holds))
            fault = f"a forked run does not hold: {', '.join(lost)}" if lost else ""
    return found.model_copy(update={"prepared": not fault, "prepared_fault": fault})


@functools.lru_cache(maxsize=8)
def _best(tried: tuple[str, ...], loopback: bool, prepared: bool) -> Isolation:
    found: list[Isolation] = []
    faults: list[str] = []
    tools, why = choices()
    if loopback and not tools[0].bwrap:
        fix = "; ".join(advice("medium", why, tools[0])[:2])
        raise IsolationRefused(
            "this environment's runs have several processes that talk over loopback (budget.gpus above 1, or "
            "budget.distributed). Only bubblewrap gives a run a network of its own; without one, sockets would reach "
            f"this machine's services and the network: REFUSED. {fix}. Or choose a variant for one device"
        )
    for option in tools[:1] if loopback else tools:
        try:
            found.append(examine(option, loopback=loopback))
        except InfraFault as fault:
            faults.append(str(fault))
            continue
        if found[-1].level == "strong":
            break
    if not found:
        raise IsolationRefused(f"no sandbox works on this machine: {'; '.join(faults)}")
    chosen = max(found, key=lambda one: ORDER.index(one.level))
    chosen = _with_prepared(chosen, loopback)
    return chosen.model_copy(update={"advice": (*advice(chosen.level, why, chosen.tools), *faults)})


def best(*, loopback: bool = False) -> Isolation:
    """The best sandbox this machine can give, proven once per process."""
    return _best(tuple(bwraps()), loopback, switched_on())


def prove(policy: str = "medium", *, loopback: bool = False) -> Isolation:
    """The best sandbox here, for runs with `loopback` sockets or without.

    Raises IsolationRefused when what is proven of it is below `policy`.
    """
    if policy not in ORDER:
        raise IsolationRefused(f"isolation policy {policy!r} is unknown; known: {', '.join(ORDER)}")
    found = best(loopback=loopback)
    if ORDER.index(found.level) < ORDER.index(policy):
        raise IsolationRefused(
            f"{found.text()}\n  this campaign's policy asks for: {policy} -> REFUSED. Make it stronger as said "
            f"above, or accept it with isolation = {found.level!r}; every trial then records it"
        )
    return found


def doctor_report() -> dict[str, Any]:
    """What `bakeoff doctor` prints: level, holds, not_held, layers, advice."""
    found = best()
    return {
        "level": found.level,
        "holds": list(found.holds),
        "not_held": list(found.not_held),
        "layers": list(found.layers),
        "clock": found.tools.clock,
        "advice": list(found.advice),
        "prepared": found.prepared,
        "prepared_fault": found.prepared_fault,
        "start": found.start_text,
    }
