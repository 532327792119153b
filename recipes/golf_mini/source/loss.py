"""What training minimises.

Use: `criterion(logits, targets, progress)`. Limits: the score is the plain cross-entropy of the next
byte; `progress` runs from 0 to 1.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

Z_LOSS = 0.0  # weight of the squared log-normaliser; 0: off


def criterion(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
    value = cross_entropy(logits.flatten(0, 1), targets.flatten())
    if Z_LOSS > 0:
        value = value + Z_LOSS * logits.logsumexp(dim=-1).square().mean()
    return value
