"""Which stretches of the training text are seen, how long they are, and in what order.

Use: `batches(text, steps)` yields (inputs, targets) pairs. Limits: the text is one byte array of
speeches in the order of their years, with a zero byte between speeches.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BATCH = 8  # rows a step; small, because the number of steps matters more than their noise
RECENT = 3_000_000  # last bytes of the text that are drawn from; English has changed since 1790
LENGTH = 64  # bytes a row; prediction asks for 128


def select(text: Tensor) -> Tensor:
    """The part of the training text that is used at all."""
    return text[-RECENT:]


def batches(text: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random stretches, each independent of the others."""
    text = select(text)
    offsets = torch.arange(LENGTH + 1)
    for _ in range(steps):
        starts = torch.randint(len(text) - LENGTH - 1, (BATCH, 1))
        rows = text[starts + offsets].long()
        yield rows[:, :-1], rows[:, 1:]
