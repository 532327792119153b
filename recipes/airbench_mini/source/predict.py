"""Entry point of prediction: restores the artifact and answers requests.

Use: the judge's process calls `load(artifact)` once and `predict(net, inputs)` for every batch.
Limits: this file is on no surface; what may change is in `model.for_inference` and `data.views`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import data
import model


def load(artifact: Path) -> torch.nn.Module:
    net = model.make_net()
    net.load_state_dict(torch.load(artifact / "weights.pt", weights_only=True))
    return model.for_inference(net)


@torch.inference_mode()
def predict(net: torch.nn.Module, inputs: np.ndarray) -> np.ndarray:
    """(n, 8, 8) uint8 images -> (n, 10) float32 scores, the mean over all views."""
    shown = data.views(torch.tensor(inputs))
    scores = torch.stack([net(model.normalise(view)) for view in shown]).mean(dim=0)
    return scores.float().numpy()
