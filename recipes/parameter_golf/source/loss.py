"""What training minimises.

Use: `criterion(logits, targets)`. Limits: the score is the plain cross-entropy per byte of text.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy


def criterion(logits: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
