"""Writes the folder that every `prepare.py` leaves: train/, fake/, public/, sealed/, manifest.json.

Use: `write(out, environment, version, source, arrays, extra)`; the folder appears under its name
only when it is complete. Limits: arrays are held in memory; an existing folder is replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FAKE_SEED = 20240520


def sha256_file(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fake_like(array: np.ndarray, seed: int = FAKE_SEED) -> np.ndarray:
    """Random values of the same shape, dtype and range, unrelated to the real ones."""
    random = np.random.default_rng(seed)
    low, high = array.min(), array.max()
    if np.issubdtype(array.dtype, np.integer):
        return random.integers(int(low), int(high), array.shape, dtype=array.dtype, endpoint=True)
    return random.uniform(low, high, array.shape).astype(array.dtype)


def write(
    out: Path,
    environment: str,
    version: str,
    source: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    extra: Mapping[str, bytes] | None = None,
) -> None:
    """Write `arrays` (path -> array, saved as .npy) and `extra` (path -> bytes) and the manifest of both.

    Every array under train/ gets a random twin under fake/ unless the caller gives one.
    """
    with staging(out) as staged:
        for path, content in (extra or {}).items():
            target(staged, path).write_bytes(content)
        for path, array in arrays.items():
            np.save(target(staged, path), array, allow_pickle=False)
            twin = path.replace("train/", "fake/", 1)
            if path.startswith("train/") and twin not in arrays:
                np.save(target(staged, twin), fake_like(array), allow_pickle=False)
        seal(staged, environment, version, source)


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name, and its place, when the block ends without an error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield staged
        staged.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        staged.rename(out)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def place(source: Path, path: Path) -> None:
    """A hard link to a large file, or a copy where there can be none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), path)
    except OSError:
        shutil.copyfile(source, path)


def seal(folder: Path, environment: str, version: str, source: Mapping[str, Any]) -> None:
    """Write manifest.json over every file of `folder`."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_file(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    manifest = {"environment": environment, "version": version, "source": dict(source), "files": files}
    part = folder / f".manifest-{os.getpid()}"
    part.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    part.rename(folder / "manifest.json")


def target(folder: Path, path: str) -> Path:
    full = folder / path
    full.parent.mkdir(parents=True, exist_ok=True)
    return full
