"""Held-out inputs that are made afresh for every home, so that a table of the public rows misses them.

Use: `draw = generator(secret(out), "airbench_mini", "public")`, then `images(pixels, draw)` or `start(room, draw)`.
The secret is 32 bytes: BAKEOFF_DATA_SECRET (64 hex digits), else the file `.secret` beside the folder that is
prepared, which the first preparation makes. A home prepares the same data again and again; another one prepares
others, of another hash. Machines that share a store, or replay each other's trials, need the same secret: copy the
file or set the variable. `identity(secret)` goes into the manifest. Limits: it hides nothing from who holds the data.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from _common.wheels import Wanted

VARIABLE, FILE, BYTES = "BAKEOFF_DATA_SECRET", ".secret", 32
PIXELS, DEGREES, LEVEL = 0.06, 1.0, 16  # shift and turn of an image, and its highest grey level


def secret(out: Path) -> bytes:
    """The home's secret; made and kept beside `out` when there is none. Raises Wanted for one that is no secret."""
    text, where = os.environ.get(VARIABLE, ""), VARIABLE
    if not text:
        path = out.absolute().parent / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as handle:
                handle.write(os.urandom(BYTES).hex() + "\n")
        except FileExistsError:
            pass
        text, where = path.read_text("ascii").strip(), str(path)
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != BYTES:
        raise Wanted(
            f"{where} must be {2 * BYTES} hexadecimal digits; copy it from the machine that has the data"
        )
    return found


def identity(held: bytes) -> str:
    """What names a secret without telling it."""
    return hashlib.sha256(b"identity" + held).hexdigest()[:16]


def generator(held: bytes, *purpose: str) -> np.random.Generator:
    """Draws that only this secret gives, apart for every purpose."""
    digest = hashlib.sha256(held + "\0".join(purpose).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def start(room: int, draw: np.random.Generator) -> int:
    """Where a stretch begins that leaves `room` bytes free."""
    return int(draw.integers(0, room + 1)) if room > 0 else 0


def images(pixels: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """(n, h, w) grey levels, each image moved and turned a little and every level redrawn by at most one.

    Bilinear; outside is empty paper. Next to no image stays what it was. Wider moves cost: at 0.15 pixels and 3
    degrees the start of airbench_mini fell from 0.978 to 0.969 on the public digits.
    """
    count, height, width = pixels.shape
    turn = np.deg2rad(draw.uniform(-DEGREES, DEGREES, count))[:, None, None]
    down, right = (draw.uniform(-PIXELS, PIXELS, (count, 1, 1)) for _ in range(2))
    y, x = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    rows = np.cos(turn) * y - np.sin(turn) * x + (height - 1) / 2 + down
    columns = np.sin(turn) * y + np.cos(turn) * x + (width - 1) / 2 + right
    padded = np.pad(pixels.astype(np.float64), ((0, 0), (1, 2), (1, 2)))
    rows, columns = np.clip(rows + 1, 0, height + 1), np.clip(columns + 1, 0, width + 1)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    low, side = rows - top, columns - left
    which = np.arange(count)[:, None, None]
    moved = (
        padded[which, top, left] * (1 - low) * (1 - side)
        + padded[which, top, left + 1] * (1 - low) * side
        + padded[which, top + 1, left] * low * (1 - side)
        + padded[which, top + 1, left + 1] * low * side
    )
    return np.clip(np.round(moved + draw.uniform(-0.5, 0.5, moved.shape)), 0, LEVEL).astype(pixels.dtype)
