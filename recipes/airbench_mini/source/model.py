"""The network, how raw images become its inputs, and how a trained copy is made ready to answer.

Use: `make_net()` before training, `for_inference(net)` once after loading, `normalise(images)` on
every batch of both. Limits: 8x8 grey images with levels 0 to 16, ten classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import regularise

WIDTH_1 = 32  # channels of the stem, at full size
WIDTH_2 = 64  # channels after the first halving
KERNEL = 3  # an 8x8 digit has strokes of one to two pixels
LOGIT_SCALE = 0.25  # keeps the first logits small, as a wide pooled layer would otherwise saturate
PIXEL_MEAN = 4.910  # of the training images
PIXEL_STD = 6.065  # of the training images
MEMORY_FORMAT = torch.contiguous_format  # layout of images and weights


def activation(x: Tensor) -> Tensor:
    return nn.functional.gelu(x)


def make_norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels)


class Block(nn.Module):
    """Convolution, norm, activation; the input is added back where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, KERNEL, padding="same", bias=False)
        self.norm = make_norm(outputs)
        self.residual = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = activation(self.norm(self.conv(x)))
        return x + y if self.residual else y


class Net(nn.Module):
    """Three blocks, one halving of the resolution, global maximum, linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Block(1, WIDTH_1)
        self.pool = nn.MaxPool2d(2)
        self.body = nn.Sequential(Block(WIDTH_1, WIDTH_2), Block(WIDTH_2, WIDTH_2))
        self.drop = regularise.Drop()
        self.head = nn.Linear(WIDTH_2, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.pool(self.stem(x)))
        x = self.drop(x.amax(dim=(2, 3)))
        return self.head(x) * LOGIT_SCALE


def initialise(net: Net) -> None:
    """Start the weights: torch's defaults for the convolutions, zeros for the head's bias."""
    nn.init.zeros_(net.head.bias)


def make_net() -> Net:
    net = Net()
    initialise(net)
    return net.to(memory_format=MEMORY_FORMAT)


def normalise(images: Tensor) -> Tensor:
    """(n, 8, 8) levels of any dtype -> (n, 1, 8, 8) float32 of mean 0 and deviation 1."""
    x = (images.float() - PIXEL_MEAN) / PIXEL_STD
    return x.unsqueeze(1).contiguous(memory_format=MEMORY_FORMAT)


def for_inference(net: Net) -> Net:
    """A trained network, ready to answer."""
    return net.eval()
