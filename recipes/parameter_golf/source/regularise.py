"""Which parameters are treated how: groups, decay, gradient limits.

Use: `split(net)` for the optimizers, `limit(net)` before their steps, `decay(net, share)` after. Limits: decay
also decides how well weights quantise and compress.
"""

from __future__ import annotations

import torch
import train_gpt
from torch import Tensor, nn

MAX_GRAD_NORM = 0.0  # 0: gradients are not limited
MATRIX_DECAY = 0.0  # share of a matrix that is taken off per step at the peak rate


def split(net: nn.Module) -> dict[str, list[Tensor]]:
    """The shared table; matrices of the blocks; everything else."""
    groups: dict[str, list[Tensor]] = {"table": [], "matrices": [], "scalars": []}
    for name, parameter in net.named_parameters():
        control = any(part in name for part in train_gpt.CONTROL_TENSOR_NAME_PATTERNS)
        inner = "blocks." in name and parameter.ndim == 2 and not control
        groups["table" if "embedding." in name else "matrices" if inner else "scalars"].append(parameter)
    return groups


def limit(net: nn.Module) -> None:
    if MAX_GRAD_NORM > 0:
        nn.utils.clip_grad_norm_(net.parameters(), MAX_GRAD_NORM)


@torch.no_grad()
def decay(net: nn.Module, share: float) -> None:
    if MATRIX_DECAY > 0:
        for matrix in split(net)["matrices"]:
            matrix.mul_(1 - MATRIX_DECAY * share)
