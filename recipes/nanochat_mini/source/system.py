"""How the arithmetic is done: attention kernel, precision, layout, compilation.

Use: `attend` inside the network, `prepare(net)` once before training and once before answers,
`precision()` around every forward pass. Limits: one thread, no accelerator; the result must stay that of
the same network up to rounding.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def mask(length: int, window: int) -> Tensor:
    """True where a position (row) attends to another (column)."""
    distance = torch.arange(length)[:, None] - torch.arange(length)
    return (distance >= 0) & (distance < window)


def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention over the last `window` positions, for (n, heads, length, channels)."""
    return scaled_dot_product_attention(q, k, v, attn_mask=mask(q.shape[-2], window))


def precision() -> AbstractContextManager[object]:
    return nullcontext()


def prepare(net: nn.Module) -> nn.Module:
    return net
