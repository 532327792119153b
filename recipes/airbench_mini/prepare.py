"""Prepares the data of airbench_mini: 1,797 real 8x8 digits of scikit-learn, or Fashion-MNIST.

Use: `python recipes/airbench_mini/prepare.py --out DIR [--fashion PATH]`. Limits: the default data
come from the installed scikit-learn, no network; Fashion-MNIST files must already be at PATH.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _common import prepared

VERSION = "1"
TRAIN, SEALED = 450, 448  # then 899 public ones, in the file's order, which keeps writers together


def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images.astype(np.uint8), bunch.target.astype(np.int64)


def arrays_of(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    end = TRAIN + SEALED
    return {
        "train/images.npy": images[:TRAIN],
        "train/labels.npy": labels[:TRAIN],
        "sealed/inputs.npy": images[TRAIN:end],
        "sealed/labels.npy": labels[TRAIN:end],
        "public/inputs.npy": images[end:],
        "public/labels.npy": labels[end:],
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args(argv)
    images, labels = digits()
    source = {"name": "scikit-learn load_digits", "origin": "UCI optical recognition of handwritten digits"}
    prepared.write(arguments.out, "airbench_mini", VERSION, source, arrays_of(images, labels))
    print(f"airbench_mini: {len(labels)} digits written to {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
