"""Prepares the data: 1,797 real 8x8 digits from the installed scikit-learn, split in three.

Use: `python prepare.py --out DIR`. Limits: needs scikit-learn; no network. Replace `load` by your own
data and keep the layout: train/ is released to training, fake/ has the same files with random
contents, public/ and sealed/ stay with the judge.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tomllib
from pathlib import Path

import numpy as np

VERSION = "1"
HERE = Path(__file__).resolve().parent


def load() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images.astype(np.uint8), bunch.target.astype(np.int64)


def split(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Thirds in the file's order: training, public, sealed."""
    random = np.random.default_rng(0)
    return {
        "train/images.npy": images[:600],
        "train/labels.npy": labels[:600],
        "fake/images.npy": random.integers(0, 17, (600, 8, 8), dtype=np.uint8),
        "fake/labels.npy": random.integers(0, 10, 600, dtype=np.int64),
        "public/inputs.npy": images[600:1200],
        "public/labels.npy": labels[600:1200],
        "sealed/inputs.npy": images[1200:],
        "sealed/labels.npy": labels[1200:],
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    out: Path = parser.parse_args(argv).out
    files = {}
    for name, array in split(*load()).items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array, allow_pickle=False)
        content = path.read_bytes()
        files[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    environment = tomllib.loads((HERE / "environment.toml").read_text(encoding="utf-8-sig"))["name"]
    manifest = {
        "environment": environment,
        "version": VERSION,
        "source": {"name": "scikit-learn load_digits"},
        "files": files,
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    print(f"{environment}: {len(files)} files prepared")
    return 0


if __name__ == "__main__":
    sys.exit(main())
