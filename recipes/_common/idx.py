"""MNIST's IDX files (gzipped or not), as Fashion-MNIST comes in them, also inside a Debian package.

Use: `fashion(path)` with a folder, or a .deb, that holds the four files. Limits: unsigned bytes only;
raises BadIdx, whose text names the file and what is wrong; a .deb needs `dpkg-deb`.
"""

from __future__ import annotations

import gzip
import io
import shutil
import struct
import subprocess
import tarfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class BadIdx(ValueError):
    pass


def parse(content: bytes, name: str) -> np.ndarray:
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise BadIdx(f"{name}: damaged gzip ({error})") from None
    if len(content) < 4 or content[:3] != b"\0\0\x08" or content[3] not in (1, 3):
        raise BadIdx(f"{name}: not an IDX file of unsigned bytes with one or three axes")
    axes = content[3]
    if len(content) < 4 + 4 * axes:
        raise BadIdx(f"{name}: ends inside its header")
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    have, need = len(content) - 4 - 4 * axes, int(np.prod([int(n) for n in shape], dtype=object))
    if have != need:
        raise BadIdx(f"{name}: the header says {need} values in {shape} and the file has {have}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def fashion(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images and labels, test images and labels."""
    contents = _from_deb(path) if path.is_file() else _from_folder(path)
    if missing := [name for name in FILES if name not in contents]:
        raise BadIdx(f"{path}: holds no {', '.join(missing)}")
    train, train_labels, test, test_labels = (parse(contents[name], f"{path}: {name}") for name in FILES)
    for images, labels in ((train, train_labels), (test, test_labels)):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise BadIdx(f"{path}: {images.shape} images do not go with {labels.shape} labels")
    return train, train_labels, test, test_labels


def _from_folder(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        name = path.name.removesuffix(".gz")
        if name in FILES and path.is_file():
            found.setdefault(name, path.read_bytes())
    return found


def _from_deb(path: Path) -> dict[str, bytes]:
    if shutil.which("dpkg-deb") is None:
        raise BadIdx(f"{path}: reading a .deb needs dpkg-deb; unpack it elsewhere and give the folder")
    done = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(path)], capture_output=True, check=False)
    if done.returncode != 0:
        raise BadIdx(f"{path}: dpkg-deb cannot read it; give the .deb or the folder of its files")
    found = {}
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        for member in archive:
            name = PurePosixPath(member.name).name.removesuffix(".gz")
            if member.isfile() and name in FILES and (handle := archive.extractfile(member)):
                found[name] = handle.read()
    return found
