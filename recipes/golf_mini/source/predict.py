"""Entry point of prediction: unpacks the artifact and answers requests.

Use: the judge's process calls `load(artifact)` once and `predict(net, inputs)` for every request.
Limits: on no surface; what may change is in `answer`, `packing` and `quantise`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import answer
import model
import packing
import quantise


def load(artifact: Path) -> torch.nn.Module:
    arrays = packing.unpack((artifact / "model.bin").read_bytes())
    net = model.Net()
    net.load_state_dict(quantise.dequantise(arrays))
    return net.eval()


@torch.inference_mode()
def predict(net: torch.nn.Module, inputs: np.ndarray) -> np.ndarray:
    """(n, context) token ids -> (n, context, 256) float32 scores of the byte after each."""
    tokens = torch.from_numpy(inputs.astype(np.int64))
    return answer.answer(net, tokens).float().numpy()
