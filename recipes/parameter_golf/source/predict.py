"""Entry point of prediction: unpacks the artifact and answers requests, on one GPU if there is one.

Use: the judge's process calls `load(artifact)` once and `predict(net, inputs)` for every request. Limits: on
no surface; what may change is in `answer` and `packing`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import answer
import net as network
import packing


def load(artifact: Path) -> torch.nn.Module:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = network.make_net(device)
    net.load_state_dict(packing.unpack((artifact / "model.bin").read_bytes()))
    return net.eval()


@torch.inference_mode()
def predict(net: torch.nn.Module, inputs: np.ndarray) -> np.ndarray:
    """(n, context) token ids -> (n, context, vocabulary) float32 scores of the token after each."""
    device = next(net.parameters()).device
    tokens = torch.from_numpy(inputs.astype(np.int64)).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        return answer.answer(net, tokens).float().cpu().numpy()
