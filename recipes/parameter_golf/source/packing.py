"""The trained weights to bytes and back: quantisation of the fetched `train_gpt.py`, then compression.

Use: `pack(state)` gives the bytes that are written, `unpack(blob)` the weights to predict with. Limits: what is
scored is the network after the round trip; bytes count against the cap together with the source.
"""

from __future__ import annotations

import io
import zlib

import torch
import train_gpt
from torch import Tensor

LEVEL = 9  # slowest and smallest


def pack(state: dict[str, Tensor]) -> bytes:
    quantised, _ = train_gpt.quantize_state_dict_int8(state)
    buffer = io.BytesIO()
    torch.save(quantised, buffer)
    return zlib.compress(buffer.getvalue(), LEVEL)


def unpack(blob: bytes) -> dict[str, Tensor]:
    quantised = torch.load(io.BytesIO(zlib.decompress(blob)), map_location="cpu", weights_only=True)
    return train_gpt.dequantize_state_dict_int8(quantised)
