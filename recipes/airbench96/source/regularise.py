"""Weight decay, its targets, and the faster biases of the norms.

Use: `param_groups(net, rate, decay)`. Limits: decay is per step and independent of the rate, as upstream
defines it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

DECAY = 0.012  # per 1,024 examples
BIAS_SCALE = 64.0  # the norms' biases learn this much faster, with the same decay per step


def param_groups(net: nn.Module, rate: float, decay: float) -> list[dict[str, Any]]:
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    norms = [p for name, p in named if "norm" in name]
    others = [p for name, p in named if "norm" not in name]
    fast = rate * BIAS_SCALE
    return [
        {"params": norms, "lr": fast, "weight_decay": decay / fast},
        {"params": others, "lr": rate, "weight_decay": decay / rate},
    ]
