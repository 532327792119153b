"""Numbers from past outcomes: optuna's TPE over the constants of a surface, rebuilt from lineage.

The study is made anew at every ask from the rows (`add_trial`), so lineage stays the only record and a
resumed campaign gets the same numbers. Failures are given as constraints, graded where a measure of the failure
exists (seconds or bytes over, accuracy short) and 1 where none does, never as FAIL: optuna ignores
failed trials and proposes their like again (17.7 of the last 30 asks against 5.5, measured).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import ModuleType

from agents.catalogue.memory import Memory, Trial
from agents.catalogue.recipe_constants import Number, at_unit, unit
from agents.catalogue.technique import Range

MAX_TRIALS = 60  # an ask over 60 trials takes about 10 ms, and older ones are of other programs
STARTUP = 5
Space = Mapping[str, tuple[Number, Range]]


@lru_cache(maxsize=1)
def _optuna() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import optuna
    optuna.logging.set_verbosity(logging.ERROR)
    return optuna


def warm_up() -> None:
    """Import optuna now (about a second), not inside the first ask."""
    _optuna()


def violation(trial: Trial) -> float:
    """How badly a trial failed: <= 0 when it did not, else graded by the smallest room."""
    if trial.valid:
        return -min([1.0, *trial.room.values()])
    missed = [-room for room in trial.room.values() if room < 0]
    return max(missed) if missed else 1.0


def _position(
    memory: Memory, trial: Trial, key: str, number: Number, span: Range, start: Mapping[str, float]
) -> float:
    value = memory.states[trial.id].numbers.get(key, start.get(key, number.value))
    return min(1.0, max(0.0, unit(value, span)))


def _chosen(memory: Memory, space: Space) -> list[Trial]:
    """The latest trials, and the best ones of any age."""
    tried = [t for t in memory.trials.values() if t.gain is not None or (t.cause and not t.broken)]
    ranked = sorted((t for t in tried if t.valid and t.gain is not None), key=lambda t: -(t.gain or 0.0))
    kept = {t.id for t in [*ranked[: MAX_TRIALS // 4], *tried[-MAX_TRIALS:]]}
    return [t for t in tried if t.id in kept][-MAX_TRIALS:]


def ask(
    memory: Memory, space: Space, start: Mapping[str, float], seed: int, count: int = 1
) -> list[dict[str, float]]:
    """`count` settings for the constants in `space`; `start` has the start's numbers."""
    optuna = _optuna()
    keys: Sequence[str] = sorted(space)
    flat = {key: optuna.distributions.FloatDistribution(0.0, 1.0) for key in keys}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
        study = optuna.create_study(direction="minimize", sampler=sampler)
        rows = _chosen(memory, space)
        worst = max((-(t.gain or 0.0) for t in rows if t.gain is not None), default=0.0)
        for trial in rows:
            place = {key: _position(memory, trial, key, *space[key], start) for key in keys}
            study.add_trial(
                optuna.trial.create_trial(
                    params=place,
                    distributions=flat,
                    value=-trial.gain if trial.gain is not None else worst,
                    constraints={"holds": violation(trial)},
                )
            )
        asked = [study.ask(flat).params for _ in range(count)]
    return [
        {key: at_unit(place[key], space[key][1], space[key][0].integer) for key in keys} for place in asked
    ]
