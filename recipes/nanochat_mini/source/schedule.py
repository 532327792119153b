"""How long training is, and how rate and decay move over it.

Use: STEPS, `rate_at(step, steps)`, `decay_at(step, steps)`. Limits: the training budget is CPU-seconds
of the whole run; beside busy neighbours a step costs about twice its quiet time.
"""

from __future__ import annotations

STEPS = 450  # optimizer steps; the training time grows with them
WARMUP_STEPS = 20
DECAY_SHARE = 0.6  # last part of the run, in which the rate falls
FINAL_RATE = 0.0  # share of the peak that is left at the end


def rate_at(step: int, steps: int) -> float:
    """Share of the peak rate: linear rise, plateau, linear fall."""
    rising = (step + 1) / WARMUP_STEPS
    falling = FINAL_RATE + (1 - FINAL_RATE) * (steps - step) / (DECAY_SHARE * steps)
    return min(1.0, rising, falling)


def decay_at(step: int, steps: int) -> float:
    """Share of the full weight decay."""
    return 1.0
