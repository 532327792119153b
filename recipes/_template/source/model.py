"""Softmax regression: raw images to features, features to scores.

Use: `make_parameters`, then `scores(parameters, features(images))`. Limits: 8x8 images, ten classes.
"""

from __future__ import annotations

import numpy as np

PIXEL_MAX = 16.0  # grey levels of the scans run from 0 to 16

Parameters = dict[str, np.ndarray]


def features(images: np.ndarray) -> np.ndarray:
    """(n, 8, 8) levels -> (n, 64) float32 in 0 to 1."""
    return images.reshape(len(images), -1).astype(np.float32) / PIXEL_MAX


def make_parameters(random: np.random.Generator) -> Parameters:
    weight = random.normal(0.0, 0.01, (64, 10)).astype(np.float32)
    return {"weight": weight, "bias": np.zeros(10, np.float32)}


def scores(parameters: Parameters, x: np.ndarray) -> np.ndarray:
    return x @ parameters["weight"] + parameters["bias"]


def gradients(parameters: Parameters, x: np.ndarray, error: np.ndarray) -> Parameters:
    """Gradients of the mean loss, given its derivative by the scores."""
    return {"weight": x.T @ error / len(x), "bias": error.mean(axis=0)}
