"""Prepares parameter_golf: the public repository's train_gpt.py, FineWeb token shards, validation tokens.

Use: `python recipes/parameter_golf/prepare.py --out DIR [--repo DIR] [--data DIR] [--shards 80] [--val-tokens N]`.
Limits: 16.1 GB with 80 shards; downloads resume and are kept in the cache; what is
given by hand is used as it is, after the same checks. `--data` holds fineweb_train_*.bin, fineweb_val_*.bin and
fineweb_1024_bpe.model anywhere below it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _common import fetch, pieces, prepared, shards, workspace
from _common.wheels import Wanted

HERE = Path(__file__).resolve().parent
VERSION = "1"
REPOSITORY = fetch.Repository(
    "openai/parameter-golf",
    "4908dc46f21ed3fdd08d2fdca285deb2194b9599",
    {"train_gpt.py": "c6cae5e767aa0464e8767620f3bbdb08048c99f4b7ae0f0e146dd9b17e68e673"},
)
BASE = "https://huggingface.co/datasets/willdepueoai/parameter-golf/resolve/main/datasets"
MODEL = "fineweb_1024_bpe.model"
VALIDATION = "fineweb_val_000000.bin"
VOCABULARY = 1024
FAKE_TOKENS = 131_072  # a shard of random tokens for warm-up; real ones have a hundred million
BY_HAND = "pass --data DIR with fineweb_train_*.bin, fineweb_val_*.bin and fineweb_1024_bpe.model"
BY_HAND_REPO = f"pass --repo DIR, a clone of https://github.com/openai/parameter-golf; for the data {BY_HAND}"


def given_files(folder: Path, count: int) -> list[Path]:
    """Validation shard, tokenizer model, training shards, from a folder that the user filled."""
    if not folder.is_dir():
        raise Wanted(f"no folder {folder}; {BY_HAND}")
    found = [next(iter(sorted(folder.rglob(name))), None) for name in ("fineweb_val_*.bin", MODEL)]
    train = sorted(folder.rglob("fineweb_train_*.bin"))[:count]
    missing = [name for name, path in zip(("fineweb_val_*.bin", MODEL), found, strict=True) if path is None]
    if missing or not train:
        wanted = ", ".join(missing + ([] if train else ["fineweb_train_*.bin"]))
        raise Wanted(f"{folder} holds no {wanted}; {BY_HAND}")
    return [path for path in found if path is not None] + train


def fetched_files(count: int) -> list[Path]:
    cache = fetch.downloads_folder() / "parameter_golf"
    print(f"parameter_golf: {0.13 + 0.2 * count:.1f} GB in {count + 2} files, kept in {cache}", flush=True)
    names = [f"datasets/fineweb10B_sp1024/{VALIDATION}", f"tokenizers/{MODEL}"]
    names += [f"datasets/fineweb10B_sp1024/fineweb_train_{number:06d}.bin" for number in range(count)]
    paths = []
    for name in names:
        path = cache / Path(name).name
        if not path.is_file():
            url = f"{BASE}/{name}"
            fetch.download(url, path, fetch.linked_sha256(url), None, path.name, BY_HAND)
        paths.append(path)
    return paths


def write_split(folder: Path, tokens: np.ndarray, counter: pieces.ByteCounter) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "tokens.npy", tokens.astype(np.uint16), allow_pickle=False)
    meta = {"bytes": counter(tokens.astype(np.int64)), "tokenizer": MODEL}
    (folder / "meta.json").write_text(json.dumps(meta) + "\n", encoding="utf-8")


def write_data(out: Path, files: list[Path], val_tokens: int) -> None:
    validation, model, *train = files
    counter = pieces.ByteCounter(pieces.pieces(model.read_bytes()))
    tokens = shards.read(validation, 2 * val_tokens)
    half = len(tokens) // 2
    write_split(out / "public", tokens[:half], counter)
    write_split(out / "sealed", tokens[half:], counter)
    random = np.random.default_rng(prepared.FAKE_SEED)
    (out / "fake").mkdir()
    for path in train:
        shards.count(path)
        prepared.place(path, out / "train" / path.name)
        shards.write(out / "fake" / path.name, random.integers(0, VOCABULARY, FAKE_TOKENS))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--repo", type=Path, help="a clone of openai/parameter-golf")
    parser.add_argument("--data", type=Path, help="a folder with shards and tokenizer model")
    parser.add_argument("--shards", type=int, default=80, help="training shards of 200 MB")
    parser.add_argument("--val-tokens", type=int, default=1 << 20, help="scored tokens of each split")
    arguments = parser.parse_args(argv)
    try:
        cache = fetch.downloads_folder() / "parameter_golf"
        start = fetch.repository_files(REPOSITORY, arguments.repo, cache, BY_HAND_REPO)
        given = arguments.data is not None
        files = given_files(arguments.data, arguments.shards) if given else fetched_files(arguments.shards)
        with prepared.staging(arguments.out) as staged:
            workspace.write_start(staged, start)
            workspace.check_units(HERE, staged)
            write_data(staged, files, arguments.val_tokens)
            source = {"repository": REPOSITORY.name, "commit": REPOSITORY.commit, "data": BASE}
            prepared.seal(staged, "parameter_golf", VERSION, source)
    except (Wanted, shards.BadShard, pieces.BadModel) as wanted:
        print(f"parameter_golf: {wanted}", file=sys.stderr)
        return 2
    print(f"parameter_golf: {len(files) - 2} training shards, start and validation prepared")
    return 0


if __name__ == "__main__":
    sys.exit(main())
