"""CORE's 22 tasks (DCLM, arXiv 2406.11794) out of nanochat's eval_bundle.zip, as items of token ids.

Use: `items(bundle, encode, size, bos, context, count, part)`. Few-shot examples are drawn as nanochat draws
them (seed 1234 + index, after a shuffle with seed 1337), so that scores compare. Limits: needs PyYAML; an
item that is longer than `context` loses its start; raises BadBundle, whose text says what is wrong.
"""

from __future__ import annotations

import csv
import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SHUFFLE_SEED, SHOTS_SEED = 1337, 1234
KINDS = {"multiple_choice": "choice", "schema": "schema", "language_modeling": "cloze"}

Item = dict[str, Any]
Encode = Callable[[str], list[int]]


class BadBundle(ValueError):
    pass


def items(
    bundle: Path,
    encode: Encode,
    size: Callable[[list[int]], int],
    bos: int,
    context: int,
    count: int,
    part: int,
) -> Iterator[Item]:
    """Up to `count` items a task; `part` 0 and 1 share none."""
    import yaml

    try:
        with zipfile.ZipFile(bundle) as archive:
            tasks = yaml.safe_load(_text(archive, "core.yaml"))["icl_tasks"]
            table = csv.DictReader(io.StringIO(_text(archive, "eval_meta_data.csv")))
            chances = {row["Eval Task"]: float(row["Random baseline"]) / 100 for row in table}
            for task in tasks:
                rows = _text(archive, f"eval_data/{task['dataset_uri']}").splitlines()
                data = [json.loads(row) for row in rows if row.strip()]
                random.Random(SHUFFLE_SEED).shuffle(data)
                for index in range(part, min(len(data), 2 * count), 2):
                    kind, pairs = render(data, index, task)
                    one = tokenise(kind, pairs, encode, bos, context)
                    gold = int(data[index].get("gold", 0))
                    last = one["choices"][gold if kind == "choice" else 0]
                    yield one | {
                        "task": task["label"],
                        "gold": gold,
                        "chance": 0.0 if kind == "cloze" else chances[task["label"]],
                        "gold_bytes": size(last),
                    }
    except (zipfile.BadZipFile, KeyError, ValueError, yaml.YAMLError) as error:
        raise BadBundle(f"{bundle}: not an eval bundle of nanochat ({error!r})") from error


def _text(archive: zipfile.ZipFile, name: str) -> str:
    found = [path for path in archive.namelist() if path == name or path.endswith(f"/{name}")]
    if not found:
        raise KeyError(f"no {name}")
    return archive.read(found[0]).decode("utf-8")


def render(data: list[Item], index: int, task: Item) -> tuple[str, list[tuple[str, str]]]:
    """Kind of item, and (text before, whole text) of every option; examples come first, a blank line apart."""
    kind = KINDS[task["icl_task_type"]]
    joint = task.get("continuation_delimiter", " ")
    others = [number for number in range(len(data)) if number != index]
    shots = int(task["num_fewshot"][0])
    chosen = random.Random(SHOTS_SEED + index).sample(others, shots) if shots else []
    head = "".join(f"{_solved(data[number], kind, joint)}\n\n" for number in chosen)
    item = data[index]
    if kind == "choice":
        return kind, [(head + item["query"], f"{head}{item['query']}{joint}{one}") for one in item["choices"]]
    if kind == "schema":
        texts = [f"{head}{one}{joint}{item['continuation']}" for one in item["context_options"]]
        return kind, [(text, text) for text in texts]
    before = f"{head}{item['context'].strip()}{joint}"
    return kind, [(before.strip(), before + item["continuation"])]


def _solved(item: Item, kind: str, joint: str) -> str:
    if kind == "choice":
        return f"{item['query']}{joint}{item['choices'][item['gold']]}"
    if kind == "schema":
        return f"{item['context_options'][item['gold']]}{joint}{item['continuation']}"
    return f"{item['context'].strip()}{joint}{item['continuation']}"


def tokenise(kind: str, pairs: list[tuple[str, str]], encode: Encode, bos: int, context: int) -> Item:
    """Tokens of contexts and choices; what is scored starts where the options part, or ends where they join."""
    wholes = [[bos, *encode(text)] for _, text in pairs]
    if kind == "cloze":
        split = len([bos, *encode(pairs[0][0])])
        if wholes[0][:split] != [bos, *encode(pairs[0][0])] or split >= len(wholes[0]):
            raise ValueError("a cloze whose context is no prefix of the whole in tokens")
        contexts, choices = [wholes[0][:split]], [wholes[0][split:]]
    elif kind == "choice":
        split = min(_common_prefix(wholes), min(len(whole) for whole in wholes) - 1)
        contexts, choices = [wholes[0][:split]], [whole[split:] for whole in wholes]
    else:
        same = _common_prefix([whole[::-1] for whole in wholes])
        same = max(1, min(same, min(len(whole) for whole in wholes) - 1))
        contexts, choices = [whole[:-same] for whole in wholes], [wholes[0][-same:]]
    room = max(1, context - max(len(choice) for choice in choices))
    return {"kind": kind, "contexts": [tokens[-room:] for tokens in contexts], "choices": choices}


def _common_prefix(rows: list[list[int]]) -> int:
    for at, tokens in enumerate(zip(*rows, strict=False)):
        if len(set(tokens)) > 1:
            return at
    return min(len(row) for row in rows)
