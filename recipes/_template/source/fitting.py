"""Stochastic gradient descent on the cross-entropy.

Use: `fit(images, labels, random)` gives trained parameters. Limits: data in memory, one thread.
"""

from __future__ import annotations

import numpy as np

import model

STEPS = 300  # the training loss still falls at the end
BATCH = 50  # 12 batches make one pass over 600 images
LR = 0.1  # one rate for all parameters and all steps
WEIGHT_DECAY = 1e-3  # per step, times the rate


def fit(images: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> model.Parameters:
    x, targets = model.features(images), np.eye(10, dtype=np.float32)[labels]
    parameters = model.make_parameters(random)
    for _ in range(STEPS):
        chosen = random.integers(0, len(x), BATCH)
        raw = model.scores(parameters, x[chosen])
        exp = np.exp(raw - raw.max(axis=1, keepdims=True))
        error = exp / exp.sum(axis=1, keepdims=True) - targets[chosen]
        for name, gradient in model.gradients(parameters, x[chosen], error).items():
            parameters[name] -= LR * (gradient + WEIGHT_DECAY * parameters[name])
    return parameters
