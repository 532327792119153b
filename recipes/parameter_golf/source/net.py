"""The network: blocks of the fetched `train_gpt.py` between our embedding and head.

Use: `make_net(device)`; `Net` maps tokens (n, length) to scores (n, length, vocabulary). Limits:
position i may use positions up to i only; the judge checks.
"""

from __future__ import annotations

import torch
import train_gpt
from torch import Tensor, nn

import embed

LAYERS = 9
WIDTH = 512
HEADS = 8
KV_HEADS = 4  # two query heads share one pair of keys and values
MLP_RATIO = 2
ROPE_BASE = 10_000.0
QK_GAIN = 1.5  # start of the learned gain on the queries


class Net(nn.Module):
    """The first half of the blocks keeps its outputs, which the second half adds in reverse order."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = embed.Embedding(WIDTH)
        self.blocks = nn.ModuleList(
            train_gpt.Block(WIDTH, HEADS, KV_HEADS, MLP_RATIO, ROPE_BASE, QK_GAIN) for _ in range(LAYERS)
        )
        self.skip_weights = nn.Parameter(torch.ones(LAYERS // 2, WIDTH))
        self.final_norm = train_gpt.RMSNorm()
        self.head = embed.Head()
        for module in self.modules():
            if getattr(module, "_zero_init", False):
                nn.init.zeros_(module.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        x = start = self.embedding(tokens)
        kept: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            if number < LAYERS // 2:
                x = block(x, start)
                kept.append(x)
                continue
            if kept:
                x = x + self.skip_weights[number - LAYERS // 2].to(x.dtype) * kept.pop()
            x = block(x, start)
        return self.head(self.final_norm(x), self.embedding)


def make_net(device: torch.device) -> Net:
    """Matrices in float32 for the optimizer, cast in every product; the rest as upstream has it."""
    net = Net().to(device).bfloat16()
    for module in net.modules():
        if isinstance(module, train_gpt.CastedLinear):
            module.float()
    train_gpt.restore_low_dim_params_to_fp32(net)
    return net
