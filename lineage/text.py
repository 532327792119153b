"""Which earlier hypotheses say nearly the same: cosine of TF-IDF vectors, kept incrementally.

Use: `index.extend(texts)`, `index.nearest(text, n)`.
Tokens are lower-case runs of letters, digits and inner dots or dashes of two or more characters; weights
are (1 + ln tf) * idf with idf = ln((1+N)/(1+df)) + 1, the formula of scikit-learn's sublinear TF-IDF.
Limits: about 30 ms per query at 100,000 texts; word order and synonyms are not seen.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import log
from typing import Any

import numpy as np
import numpy.typing as npt

TOKEN = re.compile(r"[a-z0-9](?:[a-z0-9_.\-]*[a-z0-9])")
Floats = npt.NDArray[np.float64]


def tokens(text: str) -> list[str]:
    return TOKEN.findall(text.lower())


class TextIndex:
    """An append-only collection of texts. Removing is not needed: lineage only grows."""

    def __init__(self) -> None:
        self.size = 0
        self._terms: dict[str, int] = {}
        self._df: list[int] = []
        self._chunks: list[tuple[npt.NDArray[np.int64], Floats, npt.NDArray[np.int64]]] = []

    def extend(self, texts: Sequence[str]) -> None:
        ids: list[int] = []
        weights: list[float] = []
        docs: list[int] = []
        for text in texts:
            for term, count in Counter(tokens(text)).items():
                at = self._terms.setdefault(term, len(self._terms))
                if at == len(self._df):
                    self._df.append(0)
                self._df[at] += 1
                ids.append(at)
                weights.append(1.0 + log(count))
                docs.append(self.size)
            self.size += 1
        if ids:
            self._chunks.append((np.array(ids, np.int64), np.array(weights), np.array(docs, np.int64)))
        if len(self._chunks) > 64:
            self._chunks = [self._flat()]

    def _flat(self) -> Any:
        return tuple(np.concatenate([chunk[part] for chunk in self._chunks]) for part in range(3))

    def nearest(self, text: str, n: int) -> list[tuple[int, float]]:
        """Up to n (position, cosine) with cosine > 0, nearest first; ties go to the earlier text."""
        found = Counter(tokens(text))
        if not self._chunks or not found or n < 1:
            return []
        ids, weights, docs = self._flat()
        idf = np.log((1.0 + self.size) / (1.0 + np.array(self._df))) + 1.0
        unseen = float(np.log(1.0 + self.size)) + 1.0
        query = np.zeros(len(idf))
        norm = 0.0
        for term, count in found.items():
            at = self._terms.get(term)
            weight = (1.0 + log(count)) * (unseen if at is None else float(idf[at]))
            norm += weight * weight
            if at is not None:
                query[at] = weight
        scaled = weights * idf[ids]
        dots = np.bincount(docs, weights=scaled * query[ids], minlength=self.size)
        norms = np.sqrt(np.bincount(docs, weights=scaled * scaled, minlength=self.size))
        cosines = dots / np.where(norms > 0, norms, 1.0) / np.sqrt(norm)
        order = np.argsort(-cosines, kind="stable")[:n]
        return [(int(at), min(1.0, float(cosines[at]))) for at in order if cosines[at] > 0]
