"""Token shards in the `.bin` format of modded-nanogpt and parameter-golf.

256 little-endian int32 (magic 20240520, version 1, number of tokens, zeros), then the tokens as
little-endian uint16. Use: `read(path)`, `write(path, tokens)`. Limits: raises BadShard, whose text names
the file and what is wrong; a file must be exactly as long as its header says.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

MAGIC, VERSION, HEADER_INTS = 20240520, 1, 256
HEADER_BYTES = HEADER_INTS * 4


class BadShard(ValueError):
    pass


def count(path: Path) -> int:
    """Number of tokens, by a header that agrees with the size of the file."""
    size = path.stat().st_size
    header = np.fromfile(path, dtype="<i4", count=HEADER_INTS)
    if header.size < HEADER_INTS:
        raise BadShard(f"{path}: {size} bytes are too few for the header of {HEADER_BYTES}")
    if int(header[0]) != MAGIC or int(header[1]) != VERSION:
        raise BadShard(
            f"{path}: magic {int(header[0])} version {int(header[1])}, where {MAGIC} version {VERSION} is needed"
        )
    tokens = int(header[2])
    if tokens < 1 or size != HEADER_BYTES + 2 * tokens:
        raise BadShard(
            f"{path}: the header says {tokens} tokens, {HEADER_BYTES + 2 * max(tokens, 0)} bytes, and the file has {size}"
        )
    return tokens


def read(path: Path, limit: int | None = None) -> np.ndarray:
    """All tokens, or the first `limit`."""
    wanted = count(path) if limit is None else min(limit, count(path))
    tokens = np.fromfile(path, dtype="<u2", count=wanted, offset=HEADER_BYTES)
    if tokens.size != wanted:
        raise BadShard(f"{path}: {tokens.size} tokens could be read where {wanted} were asked for")
    return tokens


def write(path: Path, tokens: np.ndarray) -> None:
    if tokens.ndim != 1 or tokens.size == 0 or int(tokens.min()) < 0 or int(tokens.max()) > 65_535:
        raise BadShard(f"{path}: tokens must be one axis of numbers from 0 to 65535, at least one")
    header = np.zeros(HEADER_INTS, "<i4")
    header[:3] = MAGIC, VERSION, tokens.size
    with path.open("wb") as handle:
        handle.write(header.tobytes())
        handle.write(tokens.astype("<u2").tobytes())
