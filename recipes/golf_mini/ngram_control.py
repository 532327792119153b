"""Control for golf_mini: what a pruned n-gram table of a given packed size would score.

Use: `python recipes/golf_mini/ngram_control.py --data DIR [--bytes 28000] [--recent 3000000] [--order 4]`.
The table keeps the n-grams that save the most training bits over the next shorter context (Witten-Bell
weights, half-log2 probabilities, delta-coded keys, xz), as many as fit. Limits: a yardstick, not a recipe;
the bytes of the code that would read the table are not counted, which flatters it.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BASE = np.uint64(256)
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Layer:
    """N-grams of one length: sorted keys, their probabilities, and per context the kept mass."""

    keys: np.ndarray
    probability: np.ndarray
    contexts: np.ndarray
    mass: np.ndarray


def grams(text: np.ndarray, length: int) -> np.ndarray:
    keys = np.zeros(len(text) - length + 1, np.uint64)
    for at in range(length):
        keys = keys * BASE + text[at : at + len(keys)]
    return keys


def look_up(sorted_keys: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return at, sorted_keys[at] == keys


def chance(layers: list[Layer], keys: np.ndarray) -> np.ndarray:
    """Probability of the last byte of each key, given the bytes before it."""
    p = np.full(len(keys), 1 / 256)
    for length, layer in enumerate(layers, start=1):
        if len(layer.keys) == 0:
            continue
        key = keys % np.uint64(256**length)
        row, known = look_up(layer.contexts, key // BASE)
        at, kept = look_up(layer.keys, key)
        p = p * np.where(known, 1 - layer.mass[row], 1.0) + np.where(kept, layer.probability[at], 0.0)
    return p


def build(counted: list[tuple[np.ndarray, np.ndarray]], threshold: float) -> list[Layer]:
    layers: list[Layer] = []
    for length, (keys, counts) in enumerate(counted, start=1):
        _, first, row = np.unique(keys // BASE, return_index=True, return_inverse=True)
        total, kinds = np.add.reduceat(counts, first), np.diff(np.append(first, len(keys)))
        high, escape = counts / (total + kinds)[row], (kinds / (total + kinds))[row]
        if length > 1:
            shorter = chance(layers, keys)
            saved = counts * np.log2((high + escape * shorter) / shorter)
            keys, high = keys[saved > threshold], high[saved > threshold]
        if len(keys) == 0:
            layers.append(Layer(keys, high, keys, high))
            continue
        high = 2 ** (np.round(np.log2(high) * 2) / 2)
        contexts, first = np.unique(keys // BASE, return_index=True)
        mass = np.add.reduceat(high, first)
        capped = np.minimum(mass, 0.98)
        row = np.searchsorted(contexts, keys // BASE)
        layers.append(Layer(keys, high * (capped / mass)[row], contexts, capped))
    return layers


def packed_bytes(layers: list[Layer]) -> int:
    size = 0
    for layer in layers:
        gaps = np.diff(layer.keys, prepend=np.uint64(0))
        planes = [((gaps >> np.uint64(8 * at)) & np.uint64(255)).astype(np.uint8) for at in range(5)]
        levels = np.round(-2 * np.log2(np.maximum(layer.probability, 1e-9))).astype(np.uint8)
        size += sum(len(lzma.compress(plane.tobytes(), preset=9)) for plane in planes if plane.any())
        size += len(lzma.compress(levels.tobytes(), preset=9))
    return size


def fit(text: np.ndarray, order: int, limit: int) -> list[Layer]:
    """The largest table that packs into `limit` bytes, to 1/50 of an octave of the threshold."""
    counted = [np.unique(grams(text, length), return_counts=True) for length in range(1, order + 2)]
    low, high = 1.0, 1e6
    while high / low > 1.014:
        middle = (low * high) ** 0.5
        if packed_bytes(build(counted, middle)) > limit:
            low = middle
        else:
            high = middle
    return build(counted, high)


def score(layers: list[Layer], tokens: np.ndarray, context: int) -> float:
    """Bits per byte with the judge's windows: each starts with an empty history."""
    rows = (len(tokens) - 1) // context
    bits = 0.0
    order = len(layers) - 1
    starts = np.arange(rows) * context
    for offset in range(context):
        known = min(offset + 1, order)
        keys = np.zeros(rows, np.uint64)
        for back in range(known, -1, -1):
            keys = keys * BASE + tokens[starts + offset + 1 - back]
        bits -= float(np.log2(chance(layers[: known + 1], keys)).sum())
    return bits / (rows * context)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder written by prepare.py")
    parser.add_argument("--bytes", type=int, default=28_000, help="packed size of the table")
    parser.add_argument(
        "--recent", type=int, default=0, help="count only the last N bytes of the text; 0: all"
    )
    parser.add_argument("--order", type=int, default=4, help="bytes of history")
    arguments = parser.parse_args(argv)
    spec = tomllib.loads((HERE / "environment.toml").read_text(encoding="utf-8-sig"))
    text = np.load(arguments.data / "train" / "text.npy")[-arguments.recent :].astype(np.uint64)
    tokens = np.load(arguments.data / "public" / "tokens.npy").astype(np.uint64)
    layers = fit(text, arguments.order, arguments.bytes)
    facts = {
        "text_bytes": len(text),
        "order": arguments.order,
        "entries": sum(len(layer.keys) for layer in layers),
        "packed_bytes": packed_bytes(layers),
        "bits_per_byte": round(score(layers, tokens, int(spec["task"]["context"])), 4),
    }
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
