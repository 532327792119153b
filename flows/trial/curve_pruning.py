"""Ending a hopeless training early, against the parent's own training curve.

Use: `rule = pruning_rule(engine, ref, purpose)`; `Watcher(rule)` is the `on_progress` of one training run and keeps its
curve. The rule itself is `evaluators.statistics.pruning_rule`; here is only where the parent's curves come from and when the
rule may be used: the environment names the direction of the reported value (`evaluation.prune`) and the
surfaces whose edits leave it comparable (`evaluation.prune_surfaces`), and a role that may edit anything else
is never pruned. A parent's curve is bounded by what the judge measured of it, and one trial in five runs to its end
whatever the rule says: the record then holds how many prunes were false. Limits: curves of the parent's first measurement and of its confirmation count; a parent with
fewer than two of them is stood in for by the start, which is easier to keep up with.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from evaluators.statistics.confirmation import TIME_METRICS
from evaluators.statistics.pruning_rule import Pruner, ends_at, pruner
from flows.engine.campaign_config import BASELINE
from flows.engine.engine import Engine
from flows.engine.stage_records import Curve, Patched, Pruning, Trained, TrialRef
from flows.trial.screen_racing import SCREEN
from lineage.store.results import get_result, list_results

MOST_POINTS = 240  # of a stored curve; a longer one is thinned
CHECKED = 0.2  # share of trials that run to their end even where the rule would end them


@dataclass(frozen=True)
class PruningRule:
    """The bars, the trial that they come from, and whether this trial is one of those that run to their end."""

    bars: Pruner
    against: str
    is_checked: bool


class Watcher:
    """Keeps one run's curve; says True when the run can be given up."""

    def __init__(self, rule: PruningRule | None) -> None:
        self._rule = rule
        self._points: list[tuple[float, float]] = []
        self.ended_at: float | None = None

    def __call__(self, step: int, value: float) -> bool:
        self._points.append((float(step), float(value)))
        if self._rule is None or self.ended_at is not None:
            return False
        self.ended_at = ends_at(self._rule.bars, self._points)
        return self.ended_at is not None and not self._rule.is_checked

    @property
    def curve(self) -> Curve:
        stride = -(-len(self._points) // MOST_POINTS) or 1
        return tuple(self._points[stride - 1 :: stride])


def pruning_of(rule: PruningRule | None, watchers: list[Watcher]) -> Pruning | None:
    """What the rule said of a trial's runs; None when it would have ended none."""
    for run, watcher in enumerate(watchers):
        if rule is not None and watcher.ended_at is not None:
            step = watcher.ended_at
            return Pruning(step=step, run=run, is_checked=rule.is_checked, against=rule.against)
    return None


def is_checked(engine: Engine, trial: str) -> bool:
    """Is this trial one of those that run to their end? Drawn with the campaign's secret: nobody can foresee it."""
    drawn = hmac.new(bytes.fromhex(engine.config.secret), f"{trial}|prune".encode(), "sha256").digest()
    return int.from_bytes(drawn[:4], "big") < CHECKED * 2**32


def pruning_rule(engine: Engine, ref: TrialRef, purpose: str) -> PruningRule | None:
    """The rule for a first measurement of this trial; None where pruning is off or has nothing to go by."""
    plan = engine.config.spec.evaluation
    if not plan.prune or purpose.partition("-")[0] != SCREEN or ref.trial == BASELINE:
        return None
    if not set(engine.config.role(ref.role).surfaces) <= set(plan.prune_surfaces):
        return None
    raw = get_result(engine.store, ref.campaign, ref.trial, "patch")
    parent = (Patched.model_validate_json(raw).parent if raw is not None else "") or BASELINE
    start = _curves(engine, ref.campaign, BASELINE)
    checked = is_checked(engine, ref.trial)
    if parent != BASELINE and (gain := _judged_gain(engine, parent)) is not None:
        bars = pruner(_curves(engine, ref.campaign, parent), plan.prune, start, gain)
        if bars.usable:
            return PruningRule(bars, parent, checked)
    bars = pruner(start, plan.prune)
    return PruningRule(bars, BASELINE, checked) if bars.usable else None


def _judged_gain(engine: Engine, trial: str) -> float | None:
    """Gain over the start that the judge measured, relative to the start's score; 0 where the score is a time.

    A confirmed trial counts by the mean of its fresh replicates. None without both scores.
    """
    spec, view = engine.config.spec, engine.view()
    if spec.score.metric in TIME_METRICS:
        return 0.0
    scores = []
    for name in (BASELINE, trial):
        row = view.trial(name)
        scores.append(view.ranking.fresh.get(name, row.score if row is not None else None))
    start, own = scores
    if start is None or own is None or start == 0:
        return None
    return spec.sign * (own - start) / abs(start)


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
