"""The optimizer, its schedules, and the training loop that they shape.

Use: `fit(net, text, steps)` trains in place and gives back the network to keep. Limits: one thread; the
number of steps is what the training budget in CPU-seconds allows, with room for busy neighbours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import batches
import loss
import regularise

STEPS = 2600  # optimizer steps; the training time grows with them
LR = 6e-3  # peak rate
BETAS = (0.9, 0.95)  # the second below Adam's usual one, as the run is short
WARMUP_STEPS = 20
DECAY_SHARE = 0.6  # last part of the run, in which the rate falls to nothing


def make_optimizer(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(regularise.param_groups(net), lr=LR, betas=BETAS)


def rate_at(step: int, steps: int) -> float:
    """Share of the peak rate: linear rise, plateau, linear fall."""
    rising = (step + 1) / WARMUP_STEPS
    falling = (steps - step) / (DECAY_SHARE * steps)
    return min(1.0, rising, falling)


def fit(
    net: nn.Module, text: Tensor, steps: int = STEPS, report: Callable[[int, float], None] | None = None
) -> nn.Module:
    optimizer = make_optimizer(net)
    net.train()
    for step, (inputs, targets) in enumerate(batches.batches(text, steps)):
        for group in optimizer.param_groups:
            group["lr"] = LR * rate_at(step, steps)
        value = loss.criterion(net(inputs), targets, step / steps)
        optimizer.zero_grad()
        value.backward()
        regularise.limit(net)
        optimizer.step()
        if report is not None and step % 50 == 49:
            report(step + 1, value.item())
    return net
