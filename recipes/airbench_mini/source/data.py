"""Which images are trained on, how they are shown, and which views of a test image are averaged.

Use: `select` once, `batches` once an epoch, `augment` on every batch, `views` in prediction.
Limits: images are (n, 8, 8) tensors of grey levels 0 to 16; every view costs a forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

SHIFT = 1  # pixels; a digit that is moved by two loses strokes at the border
VIEWS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))  # shifts averaged at test time (down, right)


def select(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The training examples that are used at all."""
    return images, labels


def batches(count: int, size: int, epoch: int) -> Iterator[Tensor]:
    """Index tensors of one epoch; the last, smaller batch is left out."""
    order = torch.randperm(count)
    for start in range(0, count - size + 1, size):
        yield order[start : start + size]


def shift(images: Tensor, down: int, right: int) -> Tensor:
    """Move all images by whole pixels; what comes in from outside is empty paper."""
    height, width = images.shape[-2:]
    top, left = SHIFT - down, SHIFT - right
    padded = pad(images, (SHIFT, SHIFT, SHIFT, SHIFT))
    return padded[..., top : top + height, left : left + width]


def augment(images: Tensor, labels: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
    """Move every image by its own random shift of at most SHIFT pixels.

    The labels go through here too: class numbers, or probabilities (n, 10) if images are mixed.
    """
    count = len(images)
    moves = torch.randint(-SHIFT, SHIFT + 1, (count, 2))
    moved = images.clone()
    for down in range(-SHIFT, SHIFT + 1):
        for right in range(-SHIFT, SHIFT + 1):
            mine = (moves[:, 0] == down) & (moves[:, 1] == right)
            moved[mine] = shift(images[mine], down, right)
    return moved, labels


def views(images: Tensor) -> list[Tensor]:
    """The versions of the test images whose predictions are averaged."""
    return [shift(images, down, right) for down, right in VIEWS]
