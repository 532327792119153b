"""Entry point of training: proxy, main network, artifact.

Use: the supervisor calls `warm_up(fake)` before it releases the data and `train(data, out, seed)` after, in one
process. Limits: CUDA only; on no surface. The networks are compiled once, in the warm-up, and start afresh in
`train`.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import nn

import networks
import optim

WARM_UP_STEPS = 8  # enough for both kinds of the proxy's steps and an update of the average


@functools.cache
def compiled() -> tuple[nn.Module, nn.Module]:
    if not torch.cuda.is_available():
        raise RuntimeError("airbench96 needs a CUDA device; airbench_mini is its CPU form")
    return networks.build()


def run(folder: Path, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    main, proxy = compiled()
    networks.restart(proxy)
    networks.restart(main)
    masks = optim.fit_proxy(proxy, folder, seed)
    optim.fit(main, iter(masks), folder, seed)
    return main


def short_run(fake: Path) -> nn.Module:
    """A few steps of both networks on random images with random labels."""
    whole = optim.EPOCHS
    optim.EPOCHS = WARM_UP_STEPS * optim.BATCH / 50_000
    try:
        net = run(fake, 0)
        torch.cuda.synchronize()
    finally:
        optim.EPOCHS = whole
    return net


def write(net: nn.Module, out: Path) -> None:
    torch.save(net._orig_mod.state_dict(), out / "weights.pt")


def warm_up(fake: Path) -> None:
    short_run(fake)


def rehearse(fake: Path, out: Path) -> None:
    """The path of `train` in a few steps: what a first check runs."""
    write(short_run(fake), out)


def train(data: Path, out: Path, seed: int) -> None:
    write(run(data, seed), out)
