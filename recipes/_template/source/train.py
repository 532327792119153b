"""Entry point of training: `train(data, out, seed)` reads the released files and writes the artifact.

Use: called by the supervisor in a process of its own. Limits: on no surface, so nobody edits the seed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import fitting


def train(data: Path, out: Path, seed: int) -> None:
    images, labels = np.load(data / "images.npy"), np.load(data / "labels.npy")
    parameters = fitting.fit(images, labels, np.random.default_rng(seed))
    np.savez(out / "parameters.npz", **parameters)
