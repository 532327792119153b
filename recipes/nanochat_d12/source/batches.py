"""Which documents are seen, how they are packed into rows, and in what order.

Use: `batches(folder, rank, ranks, rows)` yields (inputs, targets) for ever. Limits: shards are token streams
in which every document starts with `fixed.BOS`; rank r reads the shards r, r + ranks, ...
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import fixed

BUFFER = 1000  # documents to choose from when a row is filled
HEADER_BYTES = 1024  # of a shard


def documents(folder: Path, rank: int, ranks: int) -> Iterator[np.ndarray]:
    """Documents of this rank's shards, over and over."""
    shards = sorted(folder.glob("*.bin"))
    mine = [shard for number, shard in enumerate(shards) if number % ranks == rank] or shards
    while True:
        for shard in mine:
            tokens = np.memmap(shard, dtype="<u2", mode="r", offset=HEADER_BYTES)
            starts = np.flatnonzero(tokens == fixed.BOS)
            for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True):
                yield np.asarray(tokens[start:stop])


def rows(source: Iterator[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Rows of `length` tokens: the longest documents that fit, then the shortest one, cropped."""
    shelf: list[tuple[int, int, np.ndarray]] = []  # by length, then by arrival
    arrived = 0
    while True:
        row, room = [], length
        while room:
            while len(shelf) < BUFFER:
                document = next(source)
                bisect.insort(shelf, (len(document), arrived, document), key=lambda entry: entry[:2])
                arrived += 1
            fits = bisect.bisect_right(shelf, room, key=lambda entry: entry[0])
            _, _, document = shelf.pop(fits - 1 if fits else 0)
            row.append(document[:room])
            room -= len(row[-1])
        yield np.concatenate(row)


def batches(folder: Path, rank: int, ranks: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    source = rows(documents(folder, rank, ranks), fixed.CONTEXT + 1)
    while True:
        block = torch.from_numpy(np.stack([next(source) for _ in range(count)]).astype(np.int64))
        yield block[:, :-1].contiguous(), block[:, 1:].contiguous()
