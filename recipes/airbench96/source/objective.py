"""What training minimises, per example.

Use: `losses(logits, labels)`. Limits: the sum over the kept examples is what is differentiated; rates are
set for that.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

LABEL_SMOOTHING = 0.2


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING, reduction="none")
