"""Entry point of training: reads the released text, trains, quantises, packs, writes the artifact.

Use: the supervisor calls `warm_up(fake)` before it releases the data and `train(data, out, seed)`
after. Limits: on no surface, so the seed and the files read are the same for every candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import model
import optim
import packing
import quantise


def read(folder: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(folder / "text.npy"))


def warm_up(fake: Path) -> None:
    """Three steps on random bytes, so that lazy initialisation is not billed to the run."""
    torch.manual_seed(0)
    optim.fit(model.Net(), read(fake), steps=3)


def rehearse(fake: Path, out: Path) -> None:
    """The path of `train` in three steps: what a first check runs."""
    write(optim.fit(model.Net(), read(fake), steps=3), out)


def write(net: torch.nn.Module, out: Path) -> None:
    (out / "model.bin").write_bytes(packing.pack(quantise.quantise(net.state_dict())))


def train(data: Path, out: Path, seed: int, report: Callable[[int, float], None] | None = None) -> None:
    torch.manual_seed(seed)
    write(optim.fit(model.Net(), read(data), report=report), out)
