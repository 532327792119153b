"""Entry point of training: reads the released data, trains, writes the artifact.

Use: the supervisor calls `warm_up(fake)` before it releases the data and `train(data, out, seed)`
after. Limits: this file is on no surface, so the seed and the files read are the same for every
candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import model
import optim


def read(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.from_numpy(np.load(folder / "images.npy"))
    labels = torch.from_numpy(np.load(folder / "labels.npy"))
    return images, labels


def warm_up(fake: Path) -> None:
    """One epoch on random images, so that lazy initialisation is not billed to the run."""
    torch.manual_seed(0)
    images, labels = read(fake)
    optim.fit(model.make_net(), images, labels, epochs=1)


def rehearse(fake: Path, out: Path) -> None:
    """The path of `train` in one epoch: what a first check runs."""
    images, labels = read(fake)
    write(optim.fit(model.make_net(), images, labels, epochs=1), out)


def write(net: torch.nn.Module, out: Path) -> None:
    torch.save(net.state_dict(), out / "weights.pt")


def train(data: Path, out: Path, seed: int, report: Callable[[int, float], None] | None = None) -> None:
    torch.manual_seed(seed)
    images, labels = read(data)
    write(optim.fit(model.make_net(), images, labels, report), out)
