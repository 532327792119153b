"""How the arithmetic is done: compilation, eight-bit products, matmul precision.

Use: `prepare(net)` gives the network to train with, `set_up()` comes first. Limits: the weights that are
kept are those of the network that was given; predictions are made without eight-bit products.
"""

from __future__ import annotations

import torch
from torch import nn

EIGHT_BIT = False  # float8 products in the wide layers; needs an H100 or later
LEAST_WIDTH = 128  # of a layer that is worth it


def set_up() -> None:
    torch.set_float32_matmul_precision("high")


def _wide(module: nn.Module, _: str) -> bool:
    if not isinstance(module, nn.Linear):
        return False
    sides = (module.in_features, module.out_features)
    return min(sides) >= LEAST_WIDTH and all(side % 16 == 0 for side in sides)


def prepare(net: nn.Module) -> nn.Module:
    cuda = next(net.parameters()).is_cuda
    if EIGHT_BIT and cuda:
        from nanochat.fp8 import Float8LinearConfig, convert_to_float8_training

        config = Float8LinearConfig.from_recipe_name("tensorwise")
        convert_to_float8_training(net, config=config, module_filter_fn=_wide)
    return torch.compile(net, dynamic=False) if cuda else net
