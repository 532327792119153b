"""The three full-size environments, small enough for seconds: their own adapters around stand-ins for what they fetch.

Use: `make(folder, recipes, name)` copies `recipes/NAME` with smaller sizes and other pins, writes files to prepare it
from, and gives the arguments for `bakeoff prepare NAME --`. `device="cpu"` is for tests of this module on a machine
without a GPU. Limits: `torch.compile` stays in parameter_golf, where it is what the test is about; the others keep
its wrapper and leave out the compiler, which takes half a minute a process.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import environment_stand_ins as stand_ins
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import quick
from _common import bpe, cifar, pieces, shards

STAND_INS = Path(__file__).resolve().parent / "stand_ins"
NAMES = ("airbench96", "parameter_golf", "nanochat_d12")
IMAGES = 200  # in each of the six batches
BYTES, SPECIAL = 256, 9
CONTEXT = {"parameter_golf": 128, "nanochat_d12": 128}
SHARD = 60_000

# One GPU, one seed, caps that a slow start of CUDA does not reach.
BUDGET = {
    "train_cpu_s": "400", "train_wall_s": "150", "predict_cpu_s": "200", "predict_wall_s": "100",
    "start_cpu_s": "600", "smoke_wall_s": "240", "memory_mb": "32_000", "gpus": "1",
}  # fmt: skip
EVALUATION = {"runs": "1", "confirm_runs": "2", "max_confirm_runs": "2", "calibrate_runs": "3"}
FILES = {
    "airbench96": ("airbench96_faster.py",),
    "parameter_golf": ("train_gpt.py",),
    "nanochat_d12": tuple(
        f"nanochat/{n}.py"
        for n in ("__init__", "gpt", "optim", "common", "flash_attention", "fp8", "tokenizer")
    ),
}
# What each copy of a recipe has otherwise than the original: file, pattern, replacement.
CHANGES: dict[str, list[tuple[str, str, str]]] = {
    "airbench96": [
        ("environment.toml", r"at_least = 0\.96", "at_least = 0.0"),
        ("environment.toml", r"batch = 2000", "batch = 100"),
        ("source/optim.py", r"EPOCHS = 45\.0", "EPOCHS = 6.0"),
        ("source/optim.py", r"BATCH = 1024", "BATCH = 128"),
        ("source/augment.py", r"KEPT = 512", "KEPT = 64"),
        ("source/networks.py", r'"block1": 128, "block2": 384, "block3": 512', '"block1": 32, "block2": 32, "block3": 32'),
        ("source/networks.py", r"mode=COMPILE_MODE", 'backend="eager"'),
        ("source/train.py", r"/ 50_000", f"/ {5 * IMAGES}"),
    ],
    "parameter_golf": [
        ("environment.toml", r"context = 1024", "context = 128"),
        ("environment.toml", r'"sentencepiece"', '"numpy"'),
        ("source/fixed.py", r"CONTEXT = 1024", "CONTEXT = 128"),
        ("source/fixed.py", r"TRAIN_SECONDS = 570\.0", "TRAIN_SECONDS = 4.0"),
        ("source/fixed.py", r"RANKS = 8", "RANKS = 1"),
        ("source/fixed.py", r"MICRO_ROWS = 64", "MICRO_ROWS = 16"),
        ("source/batches.py", r"TOKENS_PER_STEP = 524_288", "TOKENS_PER_STEP = 4_096"),
        ("source/net.py", r"LAYERS = 9", "LAYERS = 2"),
        ("source/net.py", r"WIDTH = 512", "WIDTH = 64"),
        ("source/net.py", r"HEADS = 8", "HEADS = 4"),
        ("source/net.py", r"KV_HEADS = 4 ", "KV_HEADS = 2 "),
    ],
    "nanochat_d12": [
        ("environment.toml", r"context = 2048", "context = 128"),
        ("environment.toml", r"outputs = 32768", f"outputs = {BYTES + SPECIAL}"),
        ("environment.toml", r"at_most = 0\.86", "at_most = 20.0"),
        ("environment.toml", r'"filelock", "kernels"', '"numpy"'),
        ("prepare.py", r"VOCABULARY, CONTEXT = 32_768, 2048", f"VOCABULARY, CONTEXT = {BYTES + SPECIAL}, 128"),
        ("prepare.py", r"FAKE_TOKENS = 262_144", "FAKE_TOKENS = 32_768"),
        ("source/fixed.py", r"VOCAB = 32_768", f"VOCAB = {BYTES + SPECIAL}"),
        ("source/fixed.py", r"BOS = 32_759", f"BOS = {BYTES}"),
        ("source/fixed.py", r"CONTEXT = 2048", "CONTEXT = 128"),
        ("source/fixed.py", r"TRAIN_SECONDS = 5_280\.0", "TRAIN_SECONDS = 4.0"),
        ("source/fixed.py", r"RANKS = 8", "RANKS = 1"),
        ("source/fixed.py", r"MICRO_ROWS = 32", "MICRO_ROWS = 16"),
        ("source/fixed.py", r"DEPTH = 12", "DEPTH = 2"),
        ("source/batches.py", r"BUFFER = 1000", "BUFFER = 100"),
        ("source/schedule.py", r"TOKENS_PER_STEP = 524_288", "TOKENS_PER_STEP = 4_096"),
        ("source/schedule.py", r"TOKENS_PER_PARAMETER = 12\.0", "TOKENS_PER_PARAMETER = 0.5"),
        ("source/system.py", r"dynamic=False\)", 'backend="eager")'),
    ],
}  # fmt: skip
ON_CPU: dict[str, list[tuple[str, str, str]]] = {
    "airbench96": [
        ("source/train.py", r"if not torch\.cuda\.is_available\(\):", "if False:"),
        ("source/train.py", r"torch\.cuda\.synchronize\(\)", "pass"),
        ("source/predict.py", r'"cuda"', '"cpu"'),
    ],
    "parameter_golf": [],
    "nanochat_d12": [],
}


def make(folder: Path, recipes: Path, name: str, device: str = "cuda") -> list[str]:
    """Write environment `name` under `recipes`; the arguments of its `prepare.py`."""
    target = recipes / name
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(quick.ROOT / "recipes" / name, target, ignore=ignored)
    if not (recipes / "_common").is_dir():
        shutil.copytree(quick.ROOT / "recipes" / "_common", recipes / "_common", ignore=ignored)
    for file, pattern, text in CHANGES[name] + (ON_CPU[name] if device == "cpu" else []):
        _replace(target / file, pattern, text)
    budget = BUDGET | ({"gpus": "0", "memory_mb": "3_000"} if device == "cpu" else {})
    for key, value in (budget | EVALUATION).items():
        _replace(target / "environment.toml", rf"(?m)^{key} = [\d_]+", f"{key} = {value}")
    if device == "cpu":
        _replace(target / "environment.toml", r'hardware = "cuda"', 'hardware = "cpu"')
    repo, data = folder / f"{name}-repo", folder / f"{name}-data"
    data.mkdir()
    for file in FILES[name]:
        (repo / file).parent.mkdir(parents=True, exist_ok=True)
        text = (STAND_INS / file).read_text("utf-8")
        if device == "cpu":
            text = text.replace('DEVICE = "cuda"', 'DEVICE = "cpu"')
        (repo / file).write_text(text, "utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        _replace(target / "prepare.py", rf'("{re.escape(file)}": )"[0-9a-f]{{64}}"', rf'\1"{digest}"')
    writers: dict[str, Callable[[Path], list[str]]] = {
        "airbench96": _cifar,
        "parameter_golf": _fineweb,
        "nanochat_d12": _climbmix,
    }
    return ["--repo", str(repo), "--data", str(data), *writers[name](data)]


def _replace(path: Path, pattern: str, text: str) -> None:
    whole, found = re.subn(pattern, text, path.read_text("utf-8"))
    if found < 1:
        raise AssertionError(
            f"{path} has nothing like {pattern}: the recipe has changed, change this module too"
        )
    path.write_text(whole, "utf-8")


def _cifar(data: Path) -> list[str]:
    """Noise with the colour of its class: something that can be learnt."""
    random = np.random.default_rng(0)
    for name in (*cifar.TRAIN, *cifar.TEST):
        labels = np.arange(IMAGES, dtype=np.uint8) % 10
        images = random.integers(0, 120, (IMAGES, 3, 32, 32), dtype=np.uint8)
        images[:, 0] += (12 * labels)[:, None, None]
        rows = np.concatenate((labels[:, None], images.reshape(IMAGES, -1)), axis=1)
        (data / name).write_bytes(rows.tobytes())
    return []


def _fineweb(data: Path) -> list[str]:
    """A vocabulary of 1,024 words, and token streams whose next token is one of three."""
    words = [f"{pieces.MARK}w{number}".encode() for number in range(1024)]
    model = b"".join(b"\x0a" + bytes([len(w) + 2]) + b"\x0a" + bytes([len(w)]) + w for w in words)
    (data / "fineweb_1024_bpe.model").write_bytes(model)
    random = np.random.default_rng(0)
    for name in ("fineweb_val_000000.bin", "fineweb_train_000000.bin"):
        shards.write(data / name, random.integers(1, 4, SHARD).cumsum() % 1024)
    return ["--shards", "1", "--val-tokens", "4096"]


def _climbmix(data: Path) -> list[str]:
    text = stand_ins.library_text().decode("utf-8", "replace")
    documents = [text[at : at + 600] for at in range(0, 60_000, 600)]
    for number in range(2):
        table = pa.table({"text": documents[50 * number : 50 * (number + 1)]})
        pq.write_table(table, data / f"shard_{number:05d}.parquet")
    stand_ins.bundle(data / "eval_bundle.zip")
    names = tuple(f"<|{n}|>" for n in range(SPECIAL))
    pattern = r"[a-z]+| [a-z]+|\s+|."
    bpe.Tokenizer(pattern, tuple(bytes([n]) for n in range(BYTES)), names).save(data / "tokenizer.json")
    return ["--shards", "1", "--val-tokens", "2048", "--core-items", "2"]


# For `prepare` where tiktoken is not installed: with a token for every byte there is nothing to merge.
TIKTOKEN = '''"""A stand-in for tiktoken, for a vocabulary of single bytes."""


class Encoding:
    def __init__(self, name, *, pat_str, mergeable_ranks, special_tokens):
        self.ranks = mergeable_ranks

    def encode_ordinary(self, text):
        return [self.ranks[bytes([byte])] for byte in text.encode()]
'''
