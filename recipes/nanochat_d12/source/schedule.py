"""How long training is, how many tokens a step has, and how rate, momentum and decay move.

Use: `total_steps(net)`, then the three shapes of (step, total). Limits: the wall-clock budget of
environment.toml caps the horizon.
"""

from __future__ import annotations

import math

from torch import nn

TOKENS_PER_PARAMETER = 12.0  # of matrices and head
TOKENS_PER_STEP = 524_288  # over all ranks
WARMUP_STEPS = 40
COOL_SHARE = 0.65  # last part of the run, in which the rate falls
FINAL_RATE = 0.05  # share of the peak that is left at the end
MOMENTUM = (0.85, 0.97, 0.90)  # start, plateau, end
MOMENTUM_STEPS = 400


def total_steps(net: nn.Module) -> int:
    counts = net.num_scaling_params()
    return int(TOKENS_PER_PARAMETER * (counts["transformer_matrices"] + counts["lm_head"])) // TOKENS_PER_STEP


def rate_at(step: int, total: int) -> float:
    """Share of the peak rate: linear rise, plateau, linear fall."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    left = (total - step) / round(COOL_SHARE * total)
    return 1.0 if left >= 1 else left + (1 - left) * FINAL_RATE


def momentum_at(step: int, total: int) -> float:
    start, plateau, end = MOMENTUM
    if step < MOMENTUM_STEPS:
        return start + (plateau - start) * step / MOMENTUM_STEPS
    fallen = 1 - (total - step) / round(COOL_SHARE * total)
    return plateau + (end - plateau) * max(0.0, fallen)


def decay_at(step: int, total: int) -> float:
    """Share of the full decay: a half cosine to nothing."""
    return 0.5 * (1 + math.cos(math.pi * step / total))
