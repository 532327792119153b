"""Entry point of prediction: restores the artifact and answers requests, on one GPU if there is one.

Use: the judge's process calls `load(artifact)` once and `predict(net, inputs)` for every request. Limits: on
no surface.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import shape


def load(artifact: Path) -> torch.nn.Module:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = shape.make_net(device)
    net.load_state_dict(torch.load(artifact / "weights.pt", map_location=device, weights_only=True))
    return net.eval()


@torch.inference_mode()
def predict(net: torch.nn.Module, inputs: np.ndarray) -> np.ndarray:
    """(n, context) token ids -> (n, context, vocabulary) float32 scores of the token after each."""
    tokens = torch.from_numpy(inputs.astype(np.int64)).to(next(net.parameters()).device)
    return net(tokens).float().cpu().numpy()
