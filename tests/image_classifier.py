"""A small repository that classifies images from a folder per class, with argparse, as many examples on the web do.

Use: `write(folder)` makes its files and images. The images are scikit-learn's digits as PGM files; numpy alone is needed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

MAIN = '''\
import argparse
import csv
import os

import numpy as np


def load(root):
    """Images and labels of root/CLASS/NAME.pgm."""
    images, labels = [], []
    for label, name in enumerate(sorted(os.listdir(root))):
        for file in sorted(os.listdir(os.path.join(root, name))):
            with open(os.path.join(root, name, file), "rb") as handle:
                magic, size, most, pixels = handle.read().split(b"\\n", 3)
            images.append(np.frombuffer(pixels, dtype=np.uint8) / float(most))
            labels.append(label)
    return np.stack(images), np.array(labels)


def softmax(z):
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def main():
    parser = argparse.ArgumentParser(description="digits")
    parser.add_argument("--data", default="data")
    parser.add_argument("--output-dir", default="runs")
    parser.add_argument("--epochs", type=int, default=3, metavar="N")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.05, help="learning rate")
    parser.add_argument("--momentum", type=float, default=0.5)
    parser.add_argument("--hidden", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    x, y = load(os.path.join(args.data, "train"))
    xv, yv = load(os.path.join(args.data, "val"))
    w1 = rng.normal(0, 0.2, (x.shape[1], args.hidden))
    w2 = rng.normal(0, 0.2, (args.hidden, 10))
    v1, v2 = np.zeros_like(w1), np.zeros_like(w2)
    os.makedirs(args.output_dir, exist_ok=True)
    with open(os.path.join(args.output_dir, "log.csv"), "w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["epoch", "val_acc"])
        for epoch in range(1, args.epochs + 1):
            order = rng.permutation(len(x))
            for rows in np.array_split(order, max(1, len(x) // args.batch_size)):
                h = np.maximum(x[rows] @ w1, 0)
                error = softmax(h @ w2)
                error[np.arange(len(rows)), y[rows]] -= 1
                v2 = args.momentum * v2 - args.lr * h.T @ error / len(rows)
                v1 = args.momentum * v1 - args.lr * x[rows].T @ ((error @ w2.T) * (h > 0)) / len(rows)
                w1, w2 = w1 + v1, w2 + v2
            accuracy = float(np.mean((np.maximum(xv @ w1, 0) @ w2).argmax(axis=1) == yv))
            table.writerow([epoch, accuracy])
            print(f"Epoch {epoch}/{args.epochs}  acc: {100 * accuracy:.2f}%")
    np.savez(os.path.join(args.output_dir, "model.npz"), w1=w1, w2=w2)


if __name__ == "__main__":
    main()
'''


def write(folder: Path, most: int = 600) -> None:
    digits = load_digits()
    (folder / "main.py").parent.mkdir(parents=True, exist_ok=True)
    (folder / "main.py").write_text(MAIN, "utf-8")
    (folder / "README.md").write_text("# digits\n", "utf-8")
    for number in range(most):
        part = "val" if number % 3 == 0 else "train"
        place = folder / "data" / part / f"digit_{digits.target[number]}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = digits.images[number].astype(np.uint8)
        (place / f"{number:04d}.pgm").write_bytes(b"P5\n8 8\n16\n" + pixels.tobytes())
