"""What each test item gave to a score: the judge's record of it, and its artifact.

Use: `one_run(values, weights)` for one run, `stacked(runs)` for several, `pack(seeds, quantities)` to bytes and
`unpack(data)` back. A quantity is the weighted mean over items, sum(w x) / sum(w), of every run:

    accuracy            item = row         w = 1                        x = 1 if right, else 0
    bits_per_byte       item = document    w = bytes of the document    x = bits per byte in it
    centered_accuracy   item = question    w = 1 / (tasks * questions of its task)
                                           x = (right - chance of its task) / (1 - chance of its task)

Items are in the order of the prepared data, so those of two programs on one split pair up. The artifact is a plain
npz file without pickles (`numpy.load` reads it): `seeds`, and per quantity `<name>.weights` (items,) and
`<name>.values` (runs, items). Equal contents give equal bytes. Above `MOST` items, neighbours are put together in
blocks of equal size (the last may be smaller). Limits: text without document marks is cut at the windows that it
is asked in; the bytes of a document are its share of the tokens, exact where a token is a byte.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lineage.errors import StoreCorrupt

Floats = npt.NDArray[np.float64]
MOST = 1_000_000
NAME = "items.npz"  # the file in which the judge hands the artifact over


@dataclass(frozen=True)
class Items:
    """`weights` (items,) and `values` (runs, items) of one quantity."""

    weights: Floats
    values: Floats

    @property
    def means(self) -> Floats:
        """The quantity of each run, shape (runs,)."""
        return np.asarray(self.values @ self.weights / self.weights.sum())

    def __len__(self) -> int:
        return len(self.weights)


def one_run(values: npt.NDArray[Any], weights: npt.NDArray[Any] | None = None, most: int = MOST) -> Items:
    """Items of one run; `weights` are 1 where none are given."""
    x = np.asarray(values, dtype=np.float64)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    if len(x) > most:
        starts = np.arange(0, len(x), -(-len(x) // most))
        total = np.add.reduceat(w, starts)
        x, w = np.add.reduceat(w * x, starts) / total, total
    return Items(w, x[None, :])


def stacked(runs: Sequence[Items]) -> Items:
    """Several runs of one program on one split. Raises ValueError when their items differ."""
    first = runs[0].weights
    if any(not np.array_equal(run.weights, first) for run in runs):
        raise ValueError("items of different splits or tasks cannot be put side by side")
    return Items(first, np.concatenate([run.values for run in runs]))


def pack(seeds: Sequence[int], quantities: Mapping[str, Items]) -> bytes:
    """The artifact. Values that are all 0 or 1 take a byte each, others eight."""
    arrays: dict[str, npt.NDArray[Any]] = {"seeds": np.asarray(seeds, dtype=np.int64)}
    for name, items in sorted(quantities.items()):
        values: npt.NDArray[Any] = items.values
        if np.isin(values, (0.0, 1.0)).all():
            values = values.astype(np.uint8)
        arrays[f"{name}.weights"], arrays[f"{name}.values"] = items.weights, values
    sink = io.BytesIO()
    np.savez(sink, allow_pickle=False, **arrays)  # zip entries carry no time
    return sink.getvalue()


def unpack(data: bytes) -> tuple[tuple[int, ...], dict[str, Items]]:
    """Seeds and quantities. Raises StoreCorrupt when the bytes are no such artifact."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as held:
            seeds = tuple(int(seed) for seed in held["seeds"])
            names = sorted(name.removesuffix(".values") for name in held.files if name.endswith(".values"))
            found = {
                name: Items(
                    held[f"{name}.weights"].astype(np.float64), held[f"{name}.values"].astype(np.float64)
                )
                for name in names
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StoreCorrupt(f"not an artifact of test items: {error}; restore it from a copy") from error
    for name, items in found.items():
        if items.values.shape != (len(seeds), len(items.weights)):
            shape = f"{items.values.shape} values, {len(seeds)} seeds, {len(items.weights)} items"
            raise StoreCorrupt(f"artifact of test items: {name} has {shape}; restore it from a copy")
    return seeds, found
