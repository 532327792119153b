"""Questions for language models: windows of text, and items with choices.

Use: `language(spec, folder)`; quantities are `bits_per_byte`, and with an `items.jsonl`
`centered_accuracy`, `gold_bits_per_byte` and `centered_<task>`. All rows go out as ordinary requests of the
same length, shuffled together. Limits: rows are `task.context` tokens; longer contexts lose their start.

Items (`kind`): `choice`, one context and several continuations, the one with the lowest mean bits per
token is taken; `schema`, several contexts and one continuation, the same rule on the continuation;
`cloze`, right if every token of the continuation is the most likely one. These are the three kinds of CORE
(Li et al. 2024, DataComp-LM, arXiv 2406.11794, section 3.5), centred as there:
(accuracy - chance) / (1 - chance), averaged over tasks.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.judge import metrics
from evaluators.judge.item_scores import Items, one_run
from evaluators.judge.predictor_pipes import Floats
from evaluators.judge.questions import Ints, Kept, Questions, load_array
from lineage.environment_spec import EnvironmentSpec
from lineage.errors import DataMissing

FILLER_SEED = 20_240_520  # public text behind short items, so that their rows look like any other


def windows(tokens: Ints, context: int) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """Rows of `context` tokens, their next tokens, and which of these are scored.

    Every token but the first is a scored target exactly once. The last row reaches back so that it
    is full; what it repeats is not scored again.
    """
    last = len(tokens) - 1 - context
    if last < 0:
        raise DataMissing(f"{len(tokens)} tokens are fewer than one request of {context} and its targets")
    starts = np.array([*range(0, last, context), last], dtype=np.int64)
    index = starts[:, None] + np.arange(context)
    scored = np.ones(index.shape, dtype=np.bool_)
    if len(starts) > 1:
        scored[-1] = index[-1] >= starts[-2] + context
    return tokens[index], tokens[index + 1], scored


def documents(tokens: Ints, context: int, scored: npt.NDArray[np.bool_], separator: int | None) -> Ints:
    """The document, from 0, of every scored target, in the order of `windows`.

    Text without marks, or with only one document, is cut at the windows that it is asked in.
    """
    marks = np.flatnonzero(tokens == separator) if separator is not None else np.zeros(0, dtype=np.int64)
    marks = marks[marks > 0]
    if not len(marks):
        return np.asarray(np.nonzero(scored)[0], dtype=np.int64)
    targets = np.arange(1, len(tokens))  # windows score every token but the first, once, in this order
    return np.searchsorted(marks, targets, side="right").astype(np.int64)


def document_bits(bits: Kept, parts: Ints, outputs: int, nbytes: int) -> Items:
    """Bits per byte of every document; the first one includes the first token, which has no history."""
    size = int(parts.max()) + 1
    tokens = np.bincount(parts, minlength=size).astype(np.float64)
    total = np.bincount(parts, weights=bits, minlength=size)
    tokens[0] += 1
    total[0] += math.log2(outputs)
    weights = nbytes * tokens / tokens.sum()
    return one_run(total / weights, weights)


def question_scores(items: list[Item], bits: Kept, hits: Kept) -> Items:
    """What every question gives to `centered_accuracy`: the weighted mean over these is the score."""
    by_task: dict[str, list[float]] = defaultdict(list)
    for item in items:
        by_task[item.task].append(item.chance)
    guess = {task: math.fsum(chances) / len(chances) for task, chances in by_task.items()}
    values = [(is_right(item, bits, hits) - guess[item.task]) / (1 - guess[item.task]) for item in items]
    weights = [1 / (len(by_task) * len(by_task[item.task])) for item in items]
    return one_run(np.array(values), np.array(weights))


@dataclass(frozen=True)
class Option:
    """One continuation of one item: its row, and the positions whose answers predict it."""

    row: int
    start: int
    stop: int


@dataclass(frozen=True)
class Item:
    task: str
    kind: str
    options: tuple[Option, ...]
    gold: int
    chance: float
    gold_bytes: int


def _pairs(raw: dict[str, Any]) -> list[tuple[list[int], list[int]]]:
    """(context, continuation) of every option, by the kind of item."""
    contexts, choices = raw["contexts"], raw["choices"]
    if raw["kind"] == "schema":
        return [(context, choices[0]) for context in contexts]
    return [(contexts[0], choice) for choice in (choices if raw["kind"] == "choice" else choices[:1])]


def read_items(path: Path, tokens: Ints, context: int, base: int) -> tuple[list[Item], Ints, Ints]:
    """Items, and the rows and targets of their options; `base` is the number of rows before them."""
    items: list[Item] = []
    rows: list[list[int]] = []
    targets: list[list[int]] = []
    rng = np.random.default_rng(FILLER_SEED)
    for number, line in enumerate(path.read_text().splitlines()):
        try:
            raw = json.loads(line)
            options = []
            for before, after in _pairs(raw):
                whole = [*before, *after][-(context + 1) :]
                stop = len(whole) - 1
                start = max(0, stop - len(after))
                at = int(rng.integers(0, max(1, len(tokens) - context - 1)))
                filler = [int(token) for token in tokens[at : at + context + 1]]
                whole = [*whole, *filler][: context + 1]
                options.append(Option(base + len(rows), start, stop))
                rows.append(whole[:-1])
                targets.append(whole[1:])
            gold, chance, size = int(raw["gold"]), float(raw["chance"]), int(raw["gold_bytes"])
            if not 0 <= gold < len(options) or not 0 <= chance < 1 or any(o.start >= o.stop for o in options):
                raise ValueError("gold, chance or an empty continuation")
            items.append(Item(str(raw["task"]), str(raw["kind"]), tuple(options), gold, chance, size))
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise DataMissing(
                f"{path} line {number + 1} is no item: {error!r}; run prepare.py again"
            ) from error
    return items, np.array(rows, dtype=np.int64), np.array(targets, dtype=np.int64)


def is_right(item: Item, bits: Kept, hits: Kept) -> bool:
    """The decision rule of the item's kind; see the module's docstring."""
    gold = item.options[item.gold]
    if item.kind == "cloze":
        return bool(hits[gold.row, gold.start : gold.stop].all())
    costs = [float(bits[o.row, o.start : o.stop].mean()) for o in item.options]
    others = [cost for number, cost in enumerate(costs) if number != item.gold]
    return all(costs[item.gold] < other for other in others)  # a tie is not a decision


def score_items(items: list[Item], bits: Kept, hits: Kept) -> dict[str, float]:
    """`centered_accuracy` (1: all right, 0: as good as guessing), per task too; bits per byte of the gold texts."""
    right: dict[str, list[bool]] = defaultdict(list)
    chance: dict[str, list[float]] = defaultdict(list)
    for item in items:
        right[item.task].append(is_right(item, bits, hits))
        chance[item.task].append(item.chance)
    centred = {}
    for task, answers in right.items():
        guess = math.fsum(chance[task]) / len(answers)
        centred[task] = (sum(answers) / len(answers) - guess) / (1 - guess)
    golds = [item.options[item.gold] for item in items]
    total = math.fsum(float(bits[o.row, o.start : o.stop].sum()) for o in golds)
    return {
        "centered_accuracy": math.fsum(centred.values()) / len(centred),
        "gold_bits_per_byte": metrics.bits_per_byte(total, sum(item.gold_bytes for item in items)),
        **{f"centered_{task}": value for task, value in centred.items()},
    }


def decided(items: list[Item], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Where the largest answer alone counts: the continuations of cloze items."""
    found = np.zeros(shape, dtype=np.bool_)
    for item in items:
        if item.kind == "cloze":
            option = item.options[0]
            found[option.row, option.start : option.stop] = True
    return found


def language(spec: EnvironmentSpec, folder: Path) -> Questions:
    """Windows and items of one split. Raises DataMissing.

    The first token of the text has no context and is charged as uniform: log2(vocabulary) bits.
    """
    task = spec.task
    tokens = load_array(folder / "tokens.npy").astype(np.int64)
    if tokens.ndim != 1 or tokens.min(initial=0) < 0 or tokens.max(initial=0) >= task.outputs:
        raise DataMissing(f"{folder}/tokens.npy: need one axis of numbers below {task.outputs}")
    meta = json.loads((folder / "meta.json").read_bytes())
    nbytes = int(meta["bytes"])
    rows, targets, scored = windows(tokens, task.context)
    parts = documents(tokens, task.context, scored, meta.get("separator"))
    items: list[Item] = []
    first = np.zeros(len(rows), dtype=np.int64)
    if (folder / "items.jsonl").exists():
        items, more, follow = read_items(folder / "items.jsonl", tokens, task.context, len(rows))
        first = np.concatenate([first, [o.start for item in items for o in item.options]])
        rows, targets = np.concatenate([rows, more]), np.concatenate([targets, follow])
    count = len(scored)

    def reduce(numbers: Ints, answer: Floats) -> Kept:
        wanted = targets[numbers]
        return np.stack([metrics.token_bits(answer, wanted), answer.argmax(axis=-1) == wanted], axis=1)

    def score(kept: Kept) -> dict[str, float]:
        bits, hits = kept[:, 0], kept[:, 1]
        total = float(bits[:count][scored].sum()) + math.log2(task.outputs)
        found = {"bits_per_byte": metrics.bits_per_byte(total, nbytes)}
        return found | (score_items(items, bits, hits) if items else {})

    def worse(numbers: Ints, one: Kept, other: Kept) -> Kept:
        bits, hits = np.maximum(one[:, 0], other[:, 0]), np.minimum(one[:, 1], other[:, 1])
        return np.stack([bits, hits], axis=1)

    def contributions(kept: Kept) -> dict[str, Items]:
        bits, hits = kept[:, 0], kept[:, 1]
        found = {"bits_per_byte": document_bits(bits[:count][scored], parts, task.outputs, nbytes)}
        return found | ({"centered_accuracy": question_scores(items, bits, hits)} if items else {})

    return Questions(
        rows=rows,
        shape=(task.context, task.outputs),
        batch=task.batch,
        kept_shape=(2, task.context),
        reduce=reduce,
        score=score,
        worse=worse,
        items=contributions,
        first=first,
        decided=decided(items, rows.shape),
    )
