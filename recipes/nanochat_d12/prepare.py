"""Prepares nanochat_d12: the public repository's model and optimizer, ClimbMix shards as tokens, CORE items.

Use: `python recipes/nanochat_d12/prepare.py --out DIR [--repo DIR] [--data DIR] [--shards 40] [--val-tokens N]
[--core-items N]`. Limits: 4.1 GB of downloads with 40 shards, which resume and are kept;
needs pyarrow, PyYAML, rustbpe and tiktoken. `--data` holds shard_*.parquet (the last in order is held out),
eval_bundle.zip, and, to skip its training, tokenizer.json of an earlier run.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _common import bpe, core_bundle, documents, fetch, prepared, shards, workspace
from _common.wheels import Wanted

HERE = Path(__file__).resolve().parent
VERSION = "1"
RECIPE_FILES = ("__init__", "gpt", "optim", "common", "flash_attention", "fp8")
REPOSITORY = fetch.Repository(
    "karpathy/nanochat",
    "92d63d4e8bb4df75c3b71618f31ddde2378b2bcd",
    {
        "nanochat/__init__.py": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "nanochat/gpt.py": "8cdedc2e418b9d4dc45884e07f59904fcdec066bb3d76664b2adf2d415f704e3",
        "nanochat/optim.py": "7c9b714c6f76e3a9d50fc530044b2767d0cd89391237e609548f1cd730afed8f",
        "nanochat/common.py": "b843db6e769db18d3364e42cb3742a9537a3d4cf43e5f098293babc7ddeb44bf",
        "nanochat/flash_attention.py": "a10b0b10ad91893fcf9c9b19c96bd3468a2721cf156dcdbeeeecf05f97f22c2f",
        "nanochat/fp8.py": "fb56d323639a315393b04cecd3469dc129e8c975638cfc7ced8067f647b868b6",
        "nanochat/tokenizer.py": "e6f12cb88fead3e6d0d45a7dd2af4192280712d92bfde83e2399cc4b3a0860fb",
    },
)
BASE = "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main"
BUNDLE_URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
BUNDLE = "eval_bundle.zip"
HELD_OUT = 6542  # number of the last shard, which is the validation text
VOCABULARY, CONTEXT = 32_768, 2048  # as in source/fixed.py
TOKENIZER_CHARACTERS, DOCUMENT_CHARACTERS = 2_000_000_000, 10_000  # as upstream trains its tokenizer
FAKE_TOKENS = 262_144
BY_HAND = "pass --data DIR with shard_*.parquet and eval_bundle.zip"
BY_HAND_REPO = f"pass --repo DIR, a clone of https://github.com/karpathy/nanochat; for the data {BY_HAND}"


@dataclass(frozen=True)
class Inputs:
    train: list[Path]
    held_out: Path
    bundle: Path
    tokenizer: Path | None


def given_inputs(folder: Path, count: int) -> Inputs:
    if not folder.is_dir():
        raise Wanted(f"no folder {folder}; {BY_HAND}")
    found = sorted(folder.rglob("shard_*.parquet"))
    bundle = next(iter(sorted(folder.rglob(BUNDLE))), None)
    if len(found) < 2 or bundle is None:
        wanted = "two shard_*.parquet" if len(found) < 2 else BUNDLE
        raise Wanted(f"{folder} does not hold {wanted}; {BY_HAND}")
    tokenizer = next(iter(sorted(folder.rglob("tokenizer.json"))), None)
    return Inputs(found[:-1][:count], found[-1], bundle, tokenizer)


def fetched_inputs(count: int) -> Inputs:
    cache = fetch.downloads_folder() / "nanochat_d12"
    print(f"nanochat_d12: {0.1 * (count + 1):.1f} GB in {count + 2} files, kept in {cache}", flush=True)
    paths = []
    for number in [*range(count), HELD_OUT]:
        path = cache / f"shard_{number:05d}.parquet"
        if not path.is_file():
            url = f"{BASE}/{path.name}"
            fetch.download(url, path, fetch.linked_sha256(url), None, path.name, BY_HAND)
        paths.append(path)
    if not (cache / BUNDLE).is_file():
        fetch.download(BUNDLE_URL, cache / BUNDLE, None, None, BUNDLE, BY_HAND)
    tokenizer = cache / "tokenizer.json"
    return Inputs(paths[:-1], paths[-1], cache / BUNDLE, tokenizer if tokenizer.is_file() else None)


def constants(source: bytes) -> tuple[str, tuple[str, ...]]:
    """Split pattern and special tokens, read from the fetched tokenizer.py without running it."""
    assigned = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    named = {getattr(node.targets[0], "id", ""): node.value for node in assigned}
    found = {name: ast.literal_eval(named[name]) for name in ("SPLIT_PATTERN", "SPECIAL_TOKENS")}
    return found["SPLIT_PATTERN"], tuple(found["SPECIAL_TOKENS"])


def training_text(paths: list[Path]) -> Iterator[str]:
    characters = 0
    for text in itertools.chain.from_iterable(documents.texts(path) for path in paths):
        yield text[:DOCUMENT_CHARACTERS]
        characters += min(len(text), DOCUMENT_CHARACTERS)
        if characters > TOKENIZER_CHARACTERS:
            return


def get_tokenizer(inputs: Inputs, source: bytes) -> bpe.Tokenizer:
    if inputs.tokenizer is not None:
        tokenizer = bpe.Tokenizer.load(inputs.tokenizer)
    else:
        print("nanochat_d12: training the tokenizer, about ten minutes", flush=True)
        tokenizer = bpe.train(training_text(inputs.train), VOCABULARY, *constants(source))
    if tokenizer.vocabulary != VOCABULARY:
        raise Wanted(f"a tokenizer of {tokenizer.vocabulary} tokens where {VOCABULARY} are needed; delete it")
    return tokenizer


def write_data(out: Path, inputs: Inputs, tokenizer: bpe.Tokenizer, val_tokens: int, core_items: int) -> None:
    encode = tokenizer.encoder().encode_ordinary
    random = np.random.default_rng(prepared.FAKE_SEED)
    for folder in ("train", "fake", "public", "sealed"):
        (out / folder).mkdir()
    tokenizer.save(out / "tokenizer.json")
    for path in inputs.train:
        tokens, _ = documents.token_stream(documents.texts(path), encode, tokenizer.start)
        shards.write(out / "train" / f"{path.stem}.bin", tokens)
        fake = random.integers(0, tokenizer.start, FAKE_TOKENS)
        fake[:: CONTEXT // 4] = tokenizer.start
        shards.write(out / "fake" / f"{path.stem}.bin", fake)
        print(f"nanochat_d12: {path.name}: {len(tokens):,} tokens", flush=True)
    held = documents.texts(inputs.held_out)
    for part, split in enumerate(("public", "sealed")):
        tokens, nbytes = documents.token_stream(held, encode, tokenizer.start, val_tokens)
        np.save(out / split / "tokens.npy", tokens, allow_pickle=False)
        meta = {"bytes": nbytes, "tokenizer": "tokenizer.json"}
        (out / split / "meta.json").write_text(json.dumps(meta) + "\n", encoding="utf-8")
        found = core_bundle.items(
            inputs.bundle, encode, tokenizer.size, tokenizer.start, CONTEXT, core_items, part
        )
        lines = "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in found)
        (out / split / "items.jsonl").write_text(lines, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--repo", type=Path, help="a clone of karpathy/nanochat")
    parser.add_argument("--data", type=Path, help="a folder with parquet shards and eval_bundle.zip")
    parser.add_argument("--shards", type=int, default=40, help="training shards of about 100 MB")
    parser.add_argument("--val-tokens", type=int, default=1 << 18, help="tokens of each held-out split")
    parser.add_argument("--core-items", type=int, default=100, help="items of each task in each split")
    arguments = parser.parse_args(argv)
    try:
        cache = fetch.downloads_folder() / "nanochat_d12"
        start = fetch.repository_files(REPOSITORY, arguments.repo, cache, BY_HAND_REPO)
        given = arguments.data is not None
        inputs = given_inputs(arguments.data, arguments.shards) if given else fetched_inputs(arguments.shards)
        tokenizer = get_tokenizer(inputs, start["nanochat/tokenizer.py"])
        if not given and inputs.tokenizer is None:
            tokenizer.save(cache / "tokenizer.json")
        with prepared.staging(arguments.out) as staged:
            kept = [f"nanochat/{name}.py" for name in RECIPE_FILES]
            workspace.write_start(staged, {path: start[path] for path in kept})
            workspace.check_units(HERE, staged)
            write_data(staged, inputs, tokenizer, arguments.val_tokens, arguments.core_items)
            source = {"repository": REPOSITORY.name, "commit": REPOSITORY.commit, "data": BASE}
            source["bundle_sha256"] = prepared.sha256_file(inputs.bundle)
            prepared.seal(staged, "nanochat_d12", VERSION, source)
    except (Wanted, documents.BadParquet, core_bundle.BadBundle) as wanted:
        print(f"nanochat_d12: {wanted}", file=sys.stderr)
        return 2
    print(f"nanochat_d12: {len(inputs.train)} training shards, start and items prepared")
    return 0


if __name__ == "__main__":
    sys.exit(main())
