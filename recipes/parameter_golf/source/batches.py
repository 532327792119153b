"""Which tokens are seen in which order, how long rows are, and how many make a step.

Use: `Batches(folder, rank, ranks, device)`, then `next(micro_rows)`. Limits: shards are read in order
and once; every rank reads a part of its own of the same stretch.
"""

from __future__ import annotations

from pathlib import Path

import torch
import train_gpt
from torch import Tensor

import fixed

TOKENS_PER_STEP = 524_288  # over all ranks


def micro_steps(ranks: int) -> int:
    """Forward passes of one rank that make one step."""
    return max(1, TOKENS_PER_STEP // (ranks * fixed.MICRO_ROWS * fixed.CONTEXT))


class Batches:
    def __init__(self, folder: Path, rank: int, ranks: int, device: torch.device) -> None:
        self.stream = train_gpt.TokenStream(str(folder / "fineweb_train_*.bin"))
        self.rank, self.ranks, self.device = rank, ranks, device

    def next(self, rows: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of `rows` rows."""
        span = rows * fixed.CONTEXT + 1
        stretch = self.stream.take(span * self.ranks)
        mine = stretch[self.rank * span : (self.rank + 1) * span].to(torch.int64)
        inputs, targets = mine[:-1].view(rows, -1), mine[1:].view(rows, -1)
        return inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)
