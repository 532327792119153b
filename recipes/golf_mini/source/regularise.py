"""What holds the weights back: decay and to whom it applies, dropout, gradient limits.

Use: `param_groups(net)` for the optimizer, `drop` inside the network, `limit(net)` before every step.
Limits: one pass over a large text; there is little to overfit.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import dropout

WEIGHT_DECAY = 0.1  # AdamW's, times the rate; also keeps the weights easy to quantise
DROP_RATE = 0.0  # of what a block adds
MAX_GRAD_NORM = 1.0  # the first steps are the steepest; 0: off


def drop(x: Tensor, training: bool) -> Tensor:
    return dropout(x, DROP_RATE, training) if DROP_RATE > 0 else x


def param_groups(net: nn.Module) -> list[dict[str, Any]]:
    """Decay for the matrices of the blocks; none for embedding and head."""
    inner = [p for name, p in net.named_parameters() if name.startswith("blocks.") and p.ndim >= 2]
    kept = {id(p) for p in inner}
    rest = [p for p in net.parameters() if id(p) not in kept]
    return [{"params": inner, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]


def limit(net: nn.Module) -> None:
    """Called between backward and the optimizer's step."""
    if MAX_GRAD_NORM > 0:
        nn.utils.clip_grad_norm_(net.parameters(), MAX_GRAD_NORM)
