"""Arrays to as few bytes as possible and back.

Use: `pack(arrays)` gives the bytes that are written, `unpack(blob)` the arrays. Limits: every byte
counts against the cap, together with the source; standard library and numpy only.
"""

from __future__ import annotations

import json
import zlib

import numpy as np

LEVEL = 9  # slowest and smallest


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """A line of JSON with names, types and shapes, then the raw contents, all deflated."""
    index = [[name, str(array.dtype), list(array.shape)] for name, array in arrays.items()]
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    return zlib.compress(json.dumps(index).encode() + b"\n" + body, LEVEL)


def unpack(blob: bytes) -> dict[str, np.ndarray]:
    head, _, body = zlib.decompress(blob).partition(b"\n")
    arrays, at = {}, 0
    for name, dtype, shape in json.loads(head):
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(body, dtype, count, at).reshape(shape)
        at += arrays[name].nbytes
    return arrays
