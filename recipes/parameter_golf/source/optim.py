"""Optimizers, their rates, and how these move with the time that is left.

Use: `make_optimizers(net)`, `set_rates(optimizers, step, elapsed, limit)` before every step. Limits: the
horizon is wall-clock time, so schedules are functions of elapsed seconds and measured step time.
"""

from __future__ import annotations

import torch
import train_gpt
from torch import nn

import regularise

EMBED_LR = 0.05  # Adam, shared embedding and head
MATRIX_LR = 0.04  # Muon, matrices of the blocks
SCALAR_LR = 0.04  # Adam, vectors and scales
BETAS = (0.9, 0.95)
MOMENTUM = 0.95  # Muon, after the warm-up
MOMENTUM_START = 0.85
MOMENTUM_STEPS = 500
NEWTON_STEPS = 5
COOL_STEPS = 1200  # last steps, over which the rate falls to nothing


def make_optimizers(net: nn.Module) -> list[torch.optim.Optimizer]:
    groups = regularise.split(net)
    fused = next(net.parameters()).is_cuda
    matrices = train_gpt.Muon(groups["matrices"], MATRIX_LR, MOMENTUM, NEWTON_STEPS)
    table = torch.optim.Adam([{"params": groups["table"], "lr": EMBED_LR}], betas=BETAS, fused=fused)
    scalars = torch.optim.Adam([{"params": groups["scalars"], "lr": SCALAR_LR}], betas=BETAS, fused=fused)
    optimizers: list[torch.optim.Optimizer] = [matrices, table, scalars]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def share(step: int, elapsed: float, limit: float) -> float:
    """Share of the peak rate: one, then a linear fall over the time that COOL_STEPS take."""
    cooling = COOL_STEPS * elapsed / max(step, 1)
    left = max(limit - elapsed, 0.0)
    return min(1.0, left / cooling) if cooling > 0 else 1.0


def set_rates(optimizers: list[torch.optim.Optimizer], step: int, elapsed: float, limit: float) -> None:
    rising = min(step / MOMENTUM_STEPS, 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share(step, elapsed, limit)
            if isinstance(optimizer, train_gpt.Muon):
                group["momentum"] = (1 - rising) * MOMENTUM_START + rising * MOMENTUM
