"""Entry point of prediction: `load(artifact)` once, then `predict(parameters, inputs)` per request.

Use: called in a second process that has the artifact and no data. Limits: on no surface.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import model


def load(artifact: Path) -> model.Parameters:
    with np.load(artifact / "parameters.npz") as stored:
        return {name: stored[name] for name in stored.files}


def predict(parameters: model.Parameters, inputs: np.ndarray) -> np.ndarray:
    return model.scores(parameters, model.features(inputs)).astype(np.float32)
