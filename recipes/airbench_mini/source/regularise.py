"""What holds the weights back: decay and to whom it applies, dropout, gradient limits.

Use: `param_groups(net)` for the optimizer, `Drop` inside the network, `limit(net)` before every step.
Limits: group options are those of the optimizer in `optim.py`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import dropout

WEIGHT_DECAY = 1e-3  # per step, times the learning rate
DROP_RATE = 0.0  # of the pooled features; 0: no dropout
MAX_GRAD_NORM = 0.0  # 0: gradients are not limited


class Drop(nn.Module):
    """Dropout of pooled features during training."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, DROP_RATE, self.training) if DROP_RATE > 0 else x


def param_groups(net: nn.Module) -> list[dict[str, Any]]:
    """Weights of two or more dimensions decay; norms and biases do not."""
    decayed = [p for p in net.parameters() if p.ndim >= 2]
    free = [p for p in net.parameters() if p.ndim < 2]
    return [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": free, "weight_decay": 0.0}]


def limit(net: nn.Module) -> None:
    """Called between backward and the optimizer's step."""
    if MAX_GRAD_NORM > 0:
        nn.utils.clip_grad_norm_(net.parameters(), MAX_GRAD_NORM)
