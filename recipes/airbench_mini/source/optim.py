"""The optimizer, its schedules, and the training loop that they shape.

Use: `fit(net, images, labels)` trains in place and returns the network to keep. Limits: one
thread; every step costs CPU-seconds, and CPU-seconds are the score.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import data
import loss
import model
import regularise

EPOCHS = 28  # passes over the training images; the accuracy gate decides how few will do
BATCH = 32  # images a step; the last, smaller batch of a pass is dropped
LR = 0.02  # peak rate of SGD with momentum
MOMENTUM = 0.9
WARMUP = 0.1  # share of the steps in which the rate rises
FINAL_LR = 0.0  # share of the peak that is left at the last step


def make_optimizer(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(regularise.param_groups(net), lr=LR, momentum=MOMENTUM, nesterov=True)


def rate_at(progress: float) -> float:
    """Share of the peak rate: a linear rise, then a linear fall."""
    if progress < WARMUP:
        return progress / WARMUP
    fallen = (progress - WARMUP) / (1 - WARMUP)
    return 1 - (1 - FINAL_LR) * fallen


def batch_size_at(epoch: int) -> int:
    return BATCH


def fit(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    report: Callable[[int, float], None] | None = None,
    epochs: int = EPOCHS,
) -> nn.Module:
    images, labels = data.select(images, labels)
    optimizer = make_optimizer(net)
    total = sum(len(labels) // batch_size_at(epoch) for epoch in range(epochs))
    step = 0
    net.train()
    for epoch in range(epochs):
        for chosen in data.batches(len(labels), batch_size_at(epoch), epoch):
            progress = (step + 1) / (total + 1)
            for group in optimizer.param_groups:
                group["lr"] = LR * rate_at(progress)
            shown, targets = data.augment(images[chosen], labels[chosen], epoch)
            value = loss.criterion(net(model.normalise(shown)), targets, progress)
            optimizer.zero_grad()
            value.backward()
            regularise.limit(net)
            optimizer.step()
            step += 1
            if report is not None:
                report(step, value.item())
    return net
