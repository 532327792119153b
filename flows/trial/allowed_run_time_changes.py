"""What a trial's edit may change at run time: its role's surfaces, and what its parent's program did already.

Use: `guard_of(engine, ref, patched)` for `judge_client.smoke` and `judge_client.train`. The sandbox reports which
definitions are no longer what their files define; the guard names those among them that are not the edit's.
A start that changes a library itself, or a file that changes itself at run time, does so in every child too:
that is in the parent's record and is no child's doing. Limits: a parent that was recorded before such
reports existed says nothing of its seed, so a seed is not judged against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agents.edits.module_names import module_of
from agents.edits.role_surface import owns
from evaluators.judge.foreign_definition_changes import named
from flows.engine.campaign_config import BASELINE
from flows.engine.engine import Engine
from flows.engine.stage_records import BuildChecks, Patched, Trained, TrialRef
from lineage.store.results import get_result, list_results

SEED = "torch.manual_seed("


def guard_of(engine: Engine, ref: TrialRef, patched: Patched) -> Callable[[Sequence[str]], list[str]] | None:
    """Names among a run's differences that this trial's edit must not make; None for the start."""
    if ref.trial == BASELINE:
        return None
    return guard_for(engine, ref, engine.tree(patched.source_sha256), patched.parent or BASELINE)


def guard_for(
    engine: Engine, ref: TrialRef, files: Mapping[str, bytes], base: str
) -> Callable[[Sequence[str]], list[str]]:
    """The same for a program that is no trial's yet; `base` is the trial that it is an edit of."""
    spec, role = engine.config.spec, engine.config.role(ref.role)
    modules = {module_of(path): path for path in files if path.endswith(".py")}
    parent = _effects(engine, ref.campaign, base)
    known = {*(parent or ()), *(_effects(engine, ref.campaign, BASELINE) or ())}

    def lawful(name: str) -> bool:
        if name in known or (parent is None and name.startswith(SEED)):
            return True
        module = next((m for m in _prefixes(name) if m in modules), None)
        return module is not None and owns(spec, role, modules[module], name[len(module) + 1 :])

    return lambda names: [name for name in names if not lawful(name)]


def _prefixes(name: str) -> list[str]:
    """`a.b.c`, `a.b`, `a`: the longest that is a module of the recipe names the file."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _effects(engine: Engine, campaign: str, trial: str) -> list[str] | None:
    """What the trial's program changed at run time, first check and runs together; None if nobody looked."""
    raw = get_result(engine.store, campaign, trial, "build")
    checks = BuildChecks.model_validate_json(raw).checks if raw is not None else ()
    told = [check.numbers["effects"] for check in checks if "effects" in check.numbers]
    if not told:
        return None
    found = [name for text in told for name in str(text).split("; ") if name]
    for name in list_results(engine.store, campaign, trial):
        if "-train-" in name and (stored := get_result(engine.store, campaign, trial, name)) is not None:
            for run in Trained.model_validate_json(stored).runs:
                found += named(run.facts.effects)
    return found
