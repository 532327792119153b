"""Entry point of training: the loop, the seed, the files.

Use: the supervisor calls `warm_up(fake)` before it releases the data and `train(data, out, seed)`
after. Limits: on no surface; the loss is the plain cross-entropy of the next byte.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import model
import optim
import schedule
import system
import text


def read(folder: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(folder / "text.npy"))


def fit(
    corpus: torch.Tensor, steps: int, report: Callable[[int, float], None] | None = None
) -> torch.nn.Module:
    net = system.prepare(model.Net())
    optimizer = optim.make_optimizer(net)
    net.train()
    for step, (inputs, targets) in enumerate(text.batches(corpus, steps)):
        with system.precision():
            loss = cross_entropy(net(inputs).flatten(0, 1).float(), targets.flatten())
        optim.update(net, optimizer, loss, schedule.rate_at(step, steps), schedule.decay_at(step, steps))
        if report is not None and step % 50 == 49:
            report(step + 1, loss.item())
    return optim.finish(net)


def warm_up(fake: Path) -> None:
    """Three steps on random bytes, so that lazy initialisation is not billed to the run."""
    torch.manual_seed(0)
    fit(read(fake), steps=3)


def rehearse(fake: Path, out: Path) -> None:
    """The path of `train` in three steps: what a first check runs."""
    torch.save(fit(read(fake), steps=3).state_dict(), out / "weights.pt")


def train(data: Path, out: Path, seed: int, report: Callable[[int, float], None] | None = None) -> None:
    torch.manual_seed(seed)
    net = fit(read(data), schedule.STEPS, report)
    torch.save(net.state_dict(), out / "weights.pt")
