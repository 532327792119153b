"""Where bytes become vectors and vectors become scores over bytes.

Use: `Embedding` at the bottom of the network, `Head` at its top. Limits: the alphabet is the 256 byte
values; every parameter here counts against the size cap.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

SPAN = 4  # bytes seen by one position before any attention: itself and those before it
CHANNELS = 16  # of one byte; SPAN of them are mixed into a position


class Embedding(nn.Module):
    """A position's vector from its own byte and those just before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(256, CHANNELS)
        self.mix = nn.Linear(SPAN * CHANNELS, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        padded = pad(self.table(tokens), (0, 0, SPAN - 1, 0))
        return self.mix(torch.cat([padded[:, at : at + length] for at in range(SPAN)], dim=-1))


class Head(nn.Module):
    """Scores of the next byte, with an output matrix of their own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, 256, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x)
