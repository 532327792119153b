"""Diversity of a campaign's hypotheses: TF-IDF, online clustering, near-duplicates.

The paper gives the clustering rule (join the nearest centroid at cosine >= 0.30, else start a cluster; effective
count = exp of the Shannon entropy of cluster sizes) but not the tokeniser, the centroid update or what a
near-duplicate is. Chosen here, and printed with the figures: scikit-learn's unigram TF-IDF with sublinear term
frequency and its default tokens; a centroid is the mean of its members; a near-duplicate is a hypothesis
whose cosine with an earlier one is >= 0.80.
Limits: texts x clusters x words of 32-bit floats in memory: about 200 MB at 10,000 trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

JOIN, NEAR = 0.30, 0.80
METHOD = (
    f"unigram TF-IDF (sublinear tf, scikit-learn's tokens), mean centroids, join at cosine >= {JOIN:.2f};"
    f" near-duplicate: cosine >= {NEAR:.2f} with an earlier hypothesis"
)


@dataclass(frozen=True)
class Diversity:
    texts: int
    clusters: int
    effective_clusters: float
    top_cluster_share: float
    near_duplicate_share: float


def diversity(texts: Sequence[str]) -> Diversity:
    """Figures over the texts in the order in which they were proposed; all zero without any words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        matrix = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    except ValueError:  # no text contains a word
        return Diversity(len(texts), 0, 0.0, 0.0, 0.0)
    sizes = _cluster(matrix)
    shares = sizes / sizes.sum()
    return Diversity(
        texts=len(texts),
        clusters=len(sizes),
        effective_clusters=float(np.exp(-np.sum(shares * np.log(shares)))),
        top_cluster_share=float(shares.max()),
        near_duplicate_share=_near(matrix) / len(texts),
    )


def _cluster(matrix: Any) -> npt.NDArray[np.float64]:
    """Sizes of the online clusters. Sums instead of means: a cosine does not see the length."""
    capacity, used = 64, 0
    sums = np.zeros(
        (matrix.shape[1], capacity), dtype=np.float32
    )  # words x clusters: a text touches few rows
    squares = np.zeros(capacity)
    sizes: list[int] = []
    for at in range(matrix.shape[0]):
        words, weights = _words(matrix, at)
        dots = weights @ sums[words, :used] if used else np.empty(0)
        cosines = dots / np.sqrt(np.maximum(squares[:used], 1e-12))
        best = int(np.argmax(cosines)) if used else -1
        if used and cosines[best] >= JOIN:
            sizes[best] += 1
            squares[best] += 2 * dots[best] + weights @ weights
        else:
            if used == capacity:
                sums = np.concatenate([sums, np.zeros_like(sums)], axis=1)
                squares = np.concatenate([squares, np.zeros(capacity)])
                capacity *= 2
            best, used = used, used + 1
            sizes.append(1)
            squares[best] = weights @ weights
        sums[words, best] += weights
    return np.array(sizes, dtype=np.float64)


def _words(matrix: Any, at: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    start, end = matrix.indptr[at], matrix.indptr[at + 1]
    return matrix.indices[start:end], matrix.data[start:end].astype(np.float32)


def _near(matrix: Any) -> int:
    """How many texts have an earlier one at cosine >= NEAR."""
    found = 0
    for start in range(0, matrix.shape[0], 512):
        block = (matrix[start : start + 512] @ matrix[: start + 512].T).toarray()
        for row in range(block.shape[0]):
            earlier = block[row, : start + row]
            found += bool(earlier.size and earlier.max() >= NEAR)
    return found
