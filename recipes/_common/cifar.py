"""CIFAR-10 in its binary form: records of one label byte and 3,072 pixel bytes, planes red, green, blue.

Use: `read(paths)` gives images (n, 32, 32, 3) uint8 and labels int64; `from_archive(path)` reads the
published tar.gz. Limits: raises BadBatch, whose text names the file and what is wrong.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

RECORD = 1 + 3 * 32 * 32
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = ("test_batch.bin",)


class BadBatch(ValueError):
    pass


def parse(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    if not content or len(content) % RECORD:
        raise BadBatch(f"{name}: {len(content)} bytes are not a whole number of records of {RECORD}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    labels = rows[:, 0].astype(np.int64)
    if labels.max() > 9:
        raise BadBatch(f"{name}: label {int(labels.max())} in record {int(labels.argmax())}, above 9")
    images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels


def read(paths: Iterable[Path]) -> tuple[np.ndarray, np.ndarray]:
    parts = [parse(path.read_bytes(), str(path)) for path in paths]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def from_archive(path: Path) -> dict[str, bytes]:
    """The six batches by file name; nothing is unpacked to disk."""
    found = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if member.isfile() and name in TRAIN + TEST and (handle := archive.extractfile(member)):
                    found[name] = handle.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BadBatch(f"{path}: not a readable archive ({error})") from None
    if missing := [name for name in TRAIN + TEST if name not in found]:
        raise BadBatch(f"{path}: holds no {', '.join(missing)}")
    return found
