"""How a candidate process ended, as a cause. Pure and total.

Use: `run_cause(spec, run)` for a training run and `seed_cause(seed)` for a prediction run. A cause that
the supervisor or the judge already wrote wins: it saw more than the record keeps. Otherwise the
cause follows from the facts by this table, first line that fits:

| seen from outside | cause |
|---|---|
| end `infra`, or the candidate never started | infra:sandbox, infra:not_started |
| end `pruned` | pruned |
| end `oom`, or killed by a signal with an out-of-memory kill counted | oom |
| end `cpu_cap` / `wall_cap` | cpu_cap / wall_cap |
| end `start_cap` | cpu_cap if start-up used its CPU seconds, else wall_cap |
| end `protocol` | illegal:protocol |
| end `signal` | segfault |
| exit code not 0 | oom if the exception names memory, else crash |
| exit code 0, nothing sealed | no_artifact |
| sealed bytes over the cap | oversize |

An out-of-memory kill of a helper process in a run that still ended well is no failure; it shows as
the number `worker_oom`. Limits: the exception text is the candidate's own word; it only chooses
between `oom` and `crash`, which have the same status.
"""

from __future__ import annotations

from lineage.records import RunFacts, SeedResult, TrainRun
from lineage.spec import EnvironmentSpec

MEMORY_WORDS = ("MemoryError", "DefaultCPUAllocator", "OutOfMemoryError", "out of memory")


def exit_cause(facts: RunFacts, start_cpu_cap: float | None = None) -> str | None:
    """Cause of how one process tree ended; None when it ended well."""
    if facts.end == "infra":
        return "infra:sandbox"
    if not facts.started:
        return "infra:not_started"
    if facts.end == "start_cap":
        spent = start_cpu_cap is None or facts.start_cpu_s >= start_cpu_cap
        return "cpu_cap" if spent else "wall_cap"
    if facts.end == "signal":
        return "oom" if facts.oom_kills > 0 else "segfault"
    if facts.end == "exit":
        if facts.code == 0:
            return None
        return "oom" if any(word in facts.exception for word in MEMORY_WORDS) else "crash"
    return {"protocol": "illegal:protocol"}.get(facts.end, facts.end)


def run_cause(spec: EnvironmentSpec, run: TrainRun) -> str | None:
    """Cause of a training run's failure; None when it left an artifact within the cap."""
    if run.cause is not None:
        return run.cause
    cause = exit_cause(run.facts, spec.budget.start_cpu_s)
    if cause is not None:
        return cause
    if run.artifact is None:
        return "no_artifact"
    return "oversize" if run.artifact.bytes > spec.budget.artifact_bytes else None


def seed_cause(seed: SeedResult) -> str | None:
    """Cause of a prediction run's failure; None when it answered everything."""
    if seed.cause is not None or seed.facts is None:
        return seed.cause
    return exit_cause(seed.facts)
