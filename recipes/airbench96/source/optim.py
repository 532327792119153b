"""Optimizer, schedules, averaging, and the two training loops: a small proxy, then the main network.

Use: `fit_proxy(net, folder, seed)` gives the masks of hard examples, `fit(net, masks, folder, seed)` trains.
Limits: every step is in the score; accuracy must reach 0.96 in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import airbench96_faster as upstream
import torch
from torch import Tensor, nn

import augment
import networks
import objective
import regularise

EPOCHS = 45.0
BATCH = 1024
LR = 9.0  # per 1,024 examples
MOMENTUM = 0.85
WARMUP = 0.1  # share of the steps in which the rate rises
START_RATE = 0.2  # share of the peak at the first step
AVERAGE_EVERY = 5  # steps between two updates of the lookahead average
AVERAGE_DECAY = 0.95**5  # its final weight on the past
PROXY_BACKWARD_EVERY = 4  # the proxy skips the other backward passes


def make_optimizer(net: nn.Module) -> torch.optim.Optimizer:
    scale = 1024 * (1 + 1 / (1 - MOMENTUM))  # Nesterov steps are this much larger than the gradient
    groups = regularise.param_groups(net, LR / scale, regularise.DECAY * BATCH / scale)
    return torch.optim.SGD(groups, lr=LR / scale, momentum=MOMENTUM, nesterov=True)


def rate_at(step: int, total: int) -> float:
    """Share of the peak rate: a linear rise, then a linear fall to nothing."""
    rising = int(total * WARMUP)
    if step < rising:
        return START_RATE + (1 - START_RATE) * step / rising
    return (total - step) / (total - rising)


def steps_of(count: int) -> int:
    return math.ceil(count // BATCH * EPOCHS)


def hardest(values: Tensor) -> Tensor:
    mask = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    mask[values.argsort()[-augment.KEPT :]] = True
    return mask


def fit_proxy(net: nn.Module, folder: Path, seed: int) -> list[Tensor]:
    """One mask a step: which examples of the batch the main network will train on."""
    source = augment.loader(folder, BATCH, seed)
    total = steps_of(len(source.images))
    optimizer, masks = make_optimizer(net), []
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, total))
    networks.whiten(net, source.normalize(source.images[: networks.WHITEN_IMAGES]))
    net.train()
    for step, (_, images, labels) in zip(range(total), source, strict=False):
        learn = step % PROXY_BACKWARD_EVERY == 0
        with torch.set_grad_enabled(learn):
            values = objective.losses(net(images), labels)
        masks.append(hardest(values.detach()))
        if learn:
            optimizer.zero_grad(set_to_none=True)
            (values * masks[-1]).sum().backward()
            optimizer.step()
        schedule.step()
    return masks


def fit(net: nn.Module, masks: Iterator[Tensor], folder: Path, seed: int) -> None:
    source = augment.loader(folder, BATCH, seed)
    total = steps_of(len(source.images))
    optimizer = make_optimizer(net)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, total))
    networks.whiten(net, source.normalize(source.images[: networks.WHITEN_IMAGES]))
    average = upstream.LookaheadState(net)
    net.train()
    for step, (mask, (_, images, labels)) in enumerate(zip(masks, source, strict=False), start=1):
        values = objective.losses(net(images[mask]), labels[mask])
        optimizer.zero_grad(set_to_none=True)
        values.sum().backward()
        optimizer.step()
        schedule.step()
        if step % AVERAGE_EVERY == 0:
            average.update(net, decay=AVERAGE_DECAY * (step / total) ** 3)
        if step == total:
            average.update(net, decay=1.0)
            return
