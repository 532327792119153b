"""Ending a hopeless training early, against the parent's own training curve.

Use: `rule = pruning_rule(engine, ref)`; `Watcher(rule)` is the `on_progress` of one training run and keeps its
curve. The rule itself is `evaluators.prune`; here is only where the parent's curves come from and when the
rule may be used: the environment names the direction of the reported value (`evaluation.prune`) and the
surfaces whose edits leave it comparable (`evaluation.prune_surfaces`), and a role that may edit anything else
is never pruned. Limits: curves of the parent's first measurement and of its confirmation count; a parent with
fewer than two of them is stood in for by the start, which is easier to keep up with.
"""

from __future__ import annotations

from evaluators.prune import Pruner, hopeless, pruner
from flows.config import BASELINE
from flows.engine import Engine
from flows.words import Curve, Patched, Trained, TrialRef
from lineage.results import get_result, list_results

MOST_POINTS = 240  # of a stored curve; a longer one is thinned


class Watcher:
    """Keeps one run's curve; says True when the run can be given up."""

    def __init__(self, rule: Pruner | None) -> None:
        self._rule = rule
        self._points: list[tuple[float, float]] = []

    def __call__(self, step: int, value: float) -> bool:
        self._points.append((float(step), float(value)))
        return self._rule is not None and hopeless(self._rule, self._points)

    @property
    def curve(self) -> Curve:
        stride = -(-len(self._points) // MOST_POINTS) or 1
        return tuple(self._points[stride - 1 :: stride])


def pruning_rule(engine: Engine, ref: TrialRef, purpose: str) -> Pruner | None:
    """The rule for a first measurement of this trial; None where pruning is off or has nothing to go by."""
    plan = engine.config.spec.evaluation
    if not plan.prune or purpose != "screen" or ref.trial == BASELINE:
        return None
    if not set(engine.config.role(ref.role).surfaces) <= set(plan.prune_surfaces):
        return None
    raw = get_result(engine.store, ref.campaign, ref.trial, "patch")
    parent = (Patched.model_validate_json(raw).parent if raw is not None else "") or BASELINE
    for trial in (parent, BASELINE):
        rule = pruner(_curves(engine, ref.campaign, trial), plan.prune)
        if rule.usable:
            return rule
    return None


def _curves(engine: Engine, campaign: str, trial: str) -> list[Curve]:
    """What the trial's finished runs reported, whatever they were run for."""
    names = [n for n in list_results(engine.store, campaign, trial) if "-train-" in n]
    found: list[Curve] = []
    for name in sorted(names):
        raw = get_result(engine.store, campaign, trial, name)
        if raw is not None:
            trained = Trained.model_validate_json(raw)
            pairs = zip(trained.runs, trained.curves, strict=False)
            found += [curve for run, curve in pairs if run.cause is None]
    return found
