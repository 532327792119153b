"""Scores of a recipe's answers, computed a second time and in another way than the judge's.

Use: `accuracy`, `bits_per_byte`, `centered` with a `predict(inputs)` function. Limits: for looking at a
recipe without the engine and for checking the judge's figures; nothing here decides a trial.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

Predict = Callable[[np.ndarray], np.ndarray]
Item = dict[str, Any]


def accuracy(predict: Predict, inputs: np.ndarray, labels: np.ndarray, batch: int) -> float:
    scores = [predict(inputs[at : at + batch]) for at in range(0, len(inputs), batch)]
    return float((np.concatenate(scores).argmax(axis=1) == labels).mean())


def log2_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))) / math.log(2)


def bits_per_byte(predict: Predict, tokens: np.ndarray, nbytes: int, task: dict[str, Any]) -> float:
    """Windows that start afresh; the last one ends with the text and only adds what is new.

    The first token has no history and costs log2(outputs).
    """
    context, batch = int(task["context"]), int(task["batch"])
    text = tokens.astype(np.int64)
    starts = [*range(0, len(text) - 1 - context, context), len(text) - 1 - context]
    bits, done = math.log2(int(task["outputs"])), 0
    for at in range(0, len(starts), batch):
        some = starts[at : at + batch]
        table = log2_softmax(predict(np.stack([text[start : start + context] for start in some])))
        for row, start in enumerate(some):
            for offset in range(max(0, done - start), context):
                bits -= float(table[row, offset, text[start + offset + 1]])
            done = start + context
    return bits / nbytes


def centered(predict: Predict, items: list[Item], task: dict[str, Any]) -> tuple[dict[str, float], float]:
    """Centered accuracy of every task (their plain mean is the score), and gold bits per byte over all items.

    choice and schema: the option with the lowest mean loss over its tokens, a tie is wrong; cloze: every token
    greedy.
    """
    rows = [(context, choice) for item in items for context in item["contexts"] for choice in item["choices"]]
    losses, greedy = _losses(predict, rows, int(task["context"]), int(task["batch"]))
    right: dict[str, list[float]] = defaultdict(list)
    chance: dict[str, list[float]] = defaultdict(list)
    bits, nbytes, at = 0.0, 0, 0
    for item in items:
        count = len(item["contexts"]) * len(item["choices"])
        lengths = [len(choice) for _, choice in rows[at : at + count]]
        mean_loss = [losses[at + option] / lengths[option] for option in range(count)]
        gold = int(item["gold"]) if count > 1 else 0
        best = [option for option in range(count) if mean_loss[option] == min(mean_loss)]
        hit = greedy[at] if item["kind"] == "cloze" else best == [gold]
        right[item["task"]].append(float(hit))
        chance[item["task"]].append(float(item["chance"]))
        bits += losses[at + gold]
        nbytes += int(item["gold_bytes"])
        at += count
    scores = {}
    for name, hits in right.items():
        r = sum(chance[name]) / len(hits)
        scores[name] = (sum(hits) / len(hits) - r) / (1 - r)
    return scores, bits / nbytes


def _losses(
    predict: Predict, rows: list[tuple[list[int], list[int]]], context: int, batch: int
) -> tuple[list[float], list[bool]]:
    """Bits of every continuation after its context, and whether each of its tokens was the likeliest."""
    losses, greedy = [], []
    for at in range(0, len(rows), batch):
        some = rows[at : at + batch]
        inputs = np.zeros((len(some), context), np.int64)
        for row, (before, after) in enumerate(some):
            whole = [*before, *after][:-1]
            inputs[row, : len(whole)] = whole
        table = log2_softmax(predict(inputs))
        for row, (before, after) in enumerate(some):
            span = np.arange(len(before) - 1, len(before) - 1 + len(after))
            losses.append(-float(table[row, span, after].sum()))
            greedy.append(bool((table[row, span].argmax(axis=-1) == np.array(after)).all()))
    return losses, greedy
