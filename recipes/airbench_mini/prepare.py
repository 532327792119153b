"""Prepares the data of airbench_mini: 1,797 real 8x8 digits of scikit-learn, or Fashion-MNIST.

Use: `python recipes/airbench_mini/prepare.py --out DIR`, or with `--fashion PATH` (the Debian package
dataset-fashion-mnist, or a folder with its four files), the data of the variant `fashion`. Limits: the digits
come from the installed scikit-learn; no network.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _common import idx, prepared

VERSION = "1"
Parts = dict[str, tuple[np.ndarray, np.ndarray]]


def digits() -> Parts:
    """In the file's order, which keeps writers together: 450 to train, 448 sealed, 899 public."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int64)
    return {
        "train": (images[:450], labels[:450]),
        "sealed": (images[450:898], labels[450:898]),
        "public": (images[898:], labels[898:]),
    }


def fashion(path: Path) -> Parts:
    """Halved to 14x14 and to levels 0 to 16, so that the recipe is the same."""
    train, train_labels, test, test_labels = idx.fashion(path)

    def part(images: np.ndarray, labels: np.ndarray, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        quarters = images[start:stop].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
        return np.round(quarters * (16 / 255)).astype(np.uint8), labels[start:stop].astype(np.int64)

    return {
        "train": part(train, train_labels, 0, 2000),
        "sealed": part(test, test_labels, 2000, 4000),
        "public": part(test, test_labels, 0, 2000),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--fashion", type=Path, help="dataset-fashion-mnist .deb, or the folder of its files")
    arguments = parser.parse_args(argv)
    out: Path = arguments.out
    try:
        parts = fashion(arguments.fashion) if arguments.fashion else digits()
    except idx.BadIdx as error:
        print(f"airbench_mini: {error}", file=sys.stderr)
        return 2
    arrays = {}
    for split, (images, labels) in parts.items():
        arrays[f"{split}/{'images' if split == 'train' else 'inputs'}.npy"] = images
        arrays[f"{split}/labels.npy"] = labels
    name = "Fashion-MNIST" if arguments.fashion else "scikit-learn load_digits, from UCI optical digits"
    prepared.write(out, "airbench_mini", VERSION, {"name": name}, arrays)
    sizes = ", ".join(f"{len(labels)} {split}" for split, (_, labels) in parts.items())
    print(f"airbench_mini: {name}: {sizes} images prepared")
    return 0


if __name__ == "__main__":
    sys.exit(main())
