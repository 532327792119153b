"""The network between embedding and head: a small causal transformer.

Use: `Net()` maps byte values (n, length) to scores of the following byte (n, length, 256). Limits:
position i may use positions up to i only; the judge checks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, rms_norm, scaled_dot_product_attention

import embed
import regularise

WIDTH = 48  # channels of the residual stream; the file's bytes grow with its square
LAYERS = 1  # blocks; each costs time and bytes
HEADS = 1  # of WIDTH / HEADS channels each
MLP_RATIO = 3  # hidden width of the feed-forward part over WIDTH
ROPE_BASE = 1000.0  # longest wavelength of the positions; the context is short


def norm(x: Tensor) -> Tensor:
    return rms_norm(x, (x.shape[-1],))


def rotate(x: Tensor) -> Tensor:
    """Rotary positions for (n, heads, length, channels)."""
    length, half = x.shape[-2], x.shape[-1] // 2
    rates = ROPE_BASE ** -(torch.arange(half) / half)
    angle = torch.arange(length)[:, None] * rates
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(rotate(norm(q)), rotate(norm(k)), v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(n, length, WIDTH))


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, MLP_RATIO * WIDTH, bias=False)
        self.down = nn.Linear(MLP_RATIO * WIDTH, WIDTH, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(relu(self.up(x)).square())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.feed_forward = FeedForward()

    def forward(self, x: Tensor) -> Tensor:
        x = x + regularise.drop(self.attention(norm(x)), self.training)
        return x + regularise.drop(self.feed_forward(norm(x)), self.training)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = embed.Embedding(WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = embed.Head(WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        x = norm(self.embedding(tokens))
        for block in self.blocks:
            x = block(x)
        return self.head(norm(x))
