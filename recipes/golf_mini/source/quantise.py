"""Trained weights to few-bit integers and back.

Use: `quantise(state)` gives plain arrays to store, `dequantise(arrays)` the weights to predict with.
Limits: what is scored is the network after the round trip; arrays are any numpy integers or floats.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LEVELS = 31  # largest integer of a weight; deflate saves what it leaves of the byte


def quantise(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """One scale a row for matrices; half precision for everything small."""
    arrays = {}
    for name, tensor in state.items():
        value = tensor.float().numpy()
        if value.ndim < 2:
            arrays[name] = value.astype(np.float16)
            continue
        scale = np.maximum(np.abs(value).max(axis=1, keepdims=True), 1e-8) / LEVELS
        scale = scale.astype(np.float16).astype(np.float32)
        whole = np.clip(np.round(value / scale), -LEVELS, LEVELS)
        arrays[f"{name}:int"] = whole.astype(np.int8)
        arrays[f"{name}:scale"] = scale.astype(np.float16)
    return arrays


def dequantise(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    state = {}
    for key, array in arrays.items():
        name, _, part = key.partition(":")
        if part == "int":
            value = array.astype(np.float32) * arrays[f"{name}:scale"].astype(np.float32)
            state[name] = torch.from_numpy(value)
        elif not part:
            state[name] = torch.from_numpy(array.astype(np.float32))
    return state
