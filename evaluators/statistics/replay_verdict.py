"""The verdict on a replay: is what was measured again the same, within noise, or different? Pure.

Use: `compare(recorded, replayed, noise_sd, deciding)` with two Measurements of the same trial on the same
split and seeds. Verdicts:

- `same bits`: every quantity of every seed that does not measure time or memory is equal to the last
  bit, and so are artifact and source sizes; times may differ within noise.
- `within noise`: some figure differs, and none by more than chance explains: per quantity, the mean
  difference over seeds lies inside its two-sided 99 % interval (paired t over seeds where there are
  3 or more; else 4 sd of the recorded noise floor). A time may also be off by a factor of 1.5: the load
  of a shared machine moved the CPU time of the same bits by 1.4 and more; and by 0.05 s, because
  scheduling alone moved 6 ms of work to 13 ms there. Where `deciding` is given, times outside it (the
  wall clock of an environment that scores CPU seconds) are shown and decide nothing.
- `differs`: a figure is outside, a seed that worked fails (or the reverse), or the two are not of the same
  thing (other source, environment or judge); `reasons` lists why.

Each figure carries both values, so that a person can disagree. Limits: with 1 or 2 seeds and no noise
floor for a quantity, any difference in it is reported as `differs`, except in a time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lineage.records import Measurement

ReplayVerdict = Literal["same bits", "within noise", "differs"]
TIME_WORDS = ("seconds", "_s", "peak", "rss", "load")
TIME_FACTOR = 1.5
TIME_LEAST_S = 0.05
TAIL_LEVEL = 0.005  # each side of the 99 % interval


@dataclass(frozen=True)
class Figure:
    """One quantity: its mean over seeds when recorded and when replayed, and the verdict on it."""

    name: str
    recorded: float
    replayed: float
    verdict: ReplayVerdict


@dataclass(frozen=True)
class Replay:
    verdict: ReplayVerdict
    figures: tuple[Figure, ...]
    reasons: tuple[str, ...]


def is_time(name: str) -> bool:
    """Whether the quantity depends on the machine's load: a time or a memory size."""
    return any(name.endswith(word) or name.startswith(word) for word in TIME_WORDS)


def compare(
    recorded: Measurement,
    replayed: Measurement,
    noise_sd: Mapping[str, float] | None = None,
    deciding: Collection[str] | None = None,
) -> Replay:
    """Compare two measurements; `noise_sd` gives the calibrated sd of one run per quantity.

    `deciding`: the quantities that are scored or ruled on; None means every one.
    """
    reasons = _identity(recorded, replayed)
    figures = []
    if not reasons:
        names = {key for seed in recorded.per_seed for key in seed.quantities}
        for name in ("artifact_bytes", "source_bytes"):
            if name not in names:
                figures.append(_exact(name, getattr(recorded, name), getattr(replayed, name)))
        for name in sorted(names):
            figures.append(_figure(name, recorded, replayed, (noise_sd or {}).get(name)))
        reasons += [
            f"{f.name} was {f.recorded:.6g}, is {f.replayed:.6g}"
            for f in figures
            if f.verdict == "differs" and (deciding is None or f.name in deciding or not is_time(f.name))
        ]
    if reasons:
        return Replay("differs", tuple(figures), tuple(reasons))
    same = all(f.verdict == "same bits" for f in figures if not is_time(f.name))
    return Replay("same bits" if same else "within noise", tuple(figures), ())


def _identity(recorded: Measurement, replayed: Measurement) -> list[str]:
    """Why the two cannot be compared at all, or differ before any figure is looked at."""
    reasons = []
    for name in ("metric", "split", "source_sha256", "environment_sha256", "evaluator_sha256"):
        then, again = getattr(recorded, name), getattr(replayed, name)
        if then != again:
            reasons.append(f"{name} was {then}, is {again}")
    then_seeds = [seed.seed for seed in recorded.per_seed]
    now_seeds = [seed.seed for seed in replayed.per_seed]
    if then_seeds != now_seeds:
        reasons.append(f"seeds were {then_seeds}, are {now_seeds}")
        return reasons
    for then_seed, now_seed in zip(recorded.per_seed, replayed.per_seed, strict=True):
        if then_seed.cause != now_seed.cause:
            was, now = then_seed.cause or "a result", now_seed.cause or "a result"
            reasons.append(f"seed {then_seed.seed} gave {was}, gives {now}")
        elif set(then_seed.quantities) != set(now_seed.quantities):
            reasons.append(f"seed {then_seed.seed} has other quantities than before")
    return reasons


def _exact(name: str, then: float, now: float) -> Figure:
    return Figure(name, float(then), float(now), "same bits" if then == now else "differs")


def _figure(name: str, recorded: Measurement, replayed: Measurement, sd: float | None) -> Figure:
    then = [seed.quantities[name] for seed in recorded.per_seed if name in seed.quantities]
    now = [seed.quantities[name] for seed in replayed.per_seed if name in seed.quantities]
    mean_then, mean_now = float(np.mean(then)), float(np.mean(now))
    if then == now:
        return Figure(name, mean_then, mean_now, "same bits")
    inside = _inside(name, then, now, sd)
    return Figure(name, mean_then, mean_now, "within noise" if inside else "differs")


def _inside(name: str, then: list[float], now: list[float], sd: float | None) -> bool:
    """Could chance alone make this difference?"""
    if len(then) >= 3:
        from scipy.stats import ttest_rel  # half a second to import

        spread = float(np.ptp(np.subtract(now, then)))
        if spread > 0 and ttest_rel(now, then).pvalue >= 2 * TAIL_LEVEL:
            return True
    mean_then, mean_now = float(np.mean(then)), float(np.mean(now))
    if sd and abs(mean_now - mean_then) <= 4 * sd * float(np.sqrt(2 / len(then))):
        return True
    low, high = sorted((abs(mean_then), abs(mean_now)))
    least = TIME_LEAST_S if name.endswith(("seconds", "_s")) else 0.0
    return is_time(name) and (high <= TIME_FACTOR * low or high - low <= least)
