"""The optimizer: parameter groups, update rule, gradient limits, weight averaging.

Use: `make_optimizer(net)`, `update(net, optimizer, loss, rate, decay)` every step, `finish(net)` at the
end. Limits: rates over time are in `schedule.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LR = 6e-3  # peak rate
BETAS = (0.9, 0.95)  # the second below Adam's 0.999, as the run is short
WEIGHT_DECAY = 0.1  # AdamW's, times the rate; matrices of the blocks only
MAX_GRAD_NORM = 1.0  # the first steps are the steepest


def make_optimizer(net: nn.Module) -> torch.optim.Optimizer:
    inner = [p for name, p in net.named_parameters() if name.startswith("blocks.")]
    outer = [p for name, p in net.named_parameters() if not name.startswith("blocks.")]
    groups = [{"params": inner, "weight_decay": WEIGHT_DECAY}, {"params": outer, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LR, betas=BETAS)


def update(net: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, rate: float, decay: float) -> None:
    """One step at `rate` times the peak rate and `decay` times the full decay."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), MAX_GRAD_NORM)
    for group in optimizer.param_groups:
        group["lr"] = LR * rate
    optimizer.param_groups[0]["weight_decay"] = WEIGHT_DECAY * decay
    optimizer.step()


def finish(net: nn.Module) -> nn.Module:
    """The network to keep."""
    return net
