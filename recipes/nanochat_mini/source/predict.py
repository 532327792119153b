"""Entry point of prediction: restores the artifact and answers requests.

Use: the judge's process calls `load(artifact)` once and `predict(net, inputs)` for every request.
Limits: on no surface.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import model
import system


def load(artifact: Path) -> torch.nn.Module:
    net = system.prepare(model.Net())
    net.load_state_dict(torch.load(artifact / "weights.pt", weights_only=True))
    return net.eval()


@torch.inference_mode()
def predict(net: torch.nn.Module, inputs: np.ndarray) -> np.ndarray:
    """(n, context) token ids -> (n, context, 256) float32 scores of the byte after each."""
    with system.precision():
        return net(torch.from_numpy(inputs.astype(np.int64))).float().numpy()
