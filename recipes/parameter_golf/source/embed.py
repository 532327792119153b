"""Where tokens become vectors and vectors become scores over tokens.

Use: `Embedding` at the bottom of the network, `Head` at its top. Limits: the tokenizer is frozen; every
parameter here counts against the size cap, so the head shares the embedding's matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm

import fixed

INIT_STD = 0.005  # of the shared matrix, which is also the head
LOGIT_CAP = 30.0  # smooth limit of the scores


class Embedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(fixed.VOCAB, width)
        nn.init.normal_(self.table.weight, std=INIT_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        return rms_norm(x, (x.shape[-1],))


class Head(nn.Module):
    """Scores from the matrix of the embedding that it is given."""

    def forward(self, x: Tensor, embedding: Embedding) -> Tensor:
        raw = linear(x, embedding.table.weight.to(x.dtype))
        return LOGIT_CAP * torch.tanh(raw / LOGIT_CAP)
