"""Peak rates and decay of the fetched optimizer's groups.

Use: `make_optimizer(net, tokens_per_step)`. Limits: rates are for 524,288 tokens a step and scale with the
square root of the batch.
"""

from __future__ import annotations

import torch
from nanochat.gpt import GPT

EMBEDDING_LR = 0.3
UNEMBEDDING_LR = 0.008
MATRIX_LR = 0.02
SCALAR_LR = 0.5
WEIGHT_DECAY = 0.28  # of the matrices, where the update points the same way
REFERENCE_TOKENS = 524_288


def batch_scale(tokens_per_step: int) -> float:
    return (tokens_per_step / REFERENCE_TOKENS) ** 0.5


def make_optimizer(net: GPT, tokens_per_step: int) -> torch.optim.Optimizer:
    scale = batch_scale(tokens_per_step)
    return net.setup_optimizer(
        unembedding_lr=UNEMBEDDING_LR * scale,
        embedding_lr=EMBEDDING_LR * scale,
        matrix_lr=MATRIX_LR * scale,
        weight_decay=WEIGHT_DECAY * scale,
        scalar_lr=SCALAR_LR * scale,
    )
