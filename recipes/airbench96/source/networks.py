"""Widths and depths of the main and the proxy network; compilation; the whitening layer's start.

Use: `build()` gives the two compiled networks, `whiten(net, images)` sets the frozen first layer. Limits:
CUDA only, as the fetched `airbench96_faster.py` is.
"""

from __future__ import annotations

import airbench96_faster as upstream
import torch
from torch import Tensor, nn

MAIN = {"widths": {"block1": 128, "block2": 384, "block3": 512}, "depth": 3, "scaling_factor": 1 / 9}
PROXY = {"widths": {"block1": 32, "block2": 64, "block3": 64}, "depth": 2, "scaling_factor": 1 / 9}
WHITEN_IMAGES = 5000  # of the training set, for the patch statistics
COMPILE_MODE = "max-autotune"


def plain() -> nn.Module:
    return upstream.make_net(MAIN)


def build() -> tuple[nn.Module, nn.Module]:
    """Main and proxy network; the proxy's whitening bias is frozen."""
    proxy = upstream.make_net(PROXY)
    proxy[0].bias.requires_grad = False
    return torch.compile(plain(), mode=COMPILE_MODE), torch.compile(proxy, mode=COMPILE_MODE)


def restart(net: nn.Module) -> None:
    upstream.reinit_net(net)


def whiten(net: nn.Module, images: Tensor) -> None:
    upstream.init_whitening_conv(net._orig_mod[0], images[:WHITEN_IMAGES])
