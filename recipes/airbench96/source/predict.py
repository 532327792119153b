"""Entry point of prediction: restores the artifact and answers requests, test-time views included.

Use: the judge's process calls `load(artifact)` once and `predict(net, inputs)` for every request. Limits: CUDA
only; on no surface; not compiled, since compilation would be in the score.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import augment
import networks


def load(artifact: Path) -> torch.nn.Module:
    net = networks.plain()
    net.load_state_dict(torch.load(artifact / "weights.pt", map_location="cuda", weights_only=True))
    return net.eval()


@torch.inference_mode()
def predict(net: torch.nn.Module, inputs: np.ndarray) -> np.ndarray:
    """(n, 32, 32, 3) uint8 images -> (n, 10) float32 scores."""
    images = torch.tensor(inputs, device="cuda")
    return augment.scores(net, images).float().cpu().numpy()
