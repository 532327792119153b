"""`bakeoff prepare parameter_golf` without a network: one sentence, and on with files given by hand.

Limits: the shards are tiny ones in the real format, and the repository's file is a stand-in whose hash is put
into a copy of the environment; the other full-size environments are in test_prepare_full.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import environment_stand_ins as stand_ins
import numpy as np
import pytest
import quick
from _common import shards

NAME = "parameter_golf"
# unused, <s>, </s>, and pieces of text, as a sentencepiece model stores them: repeated field 1 of (1: text, 3: type)
PIECES = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("\u2581the", 1), ("\u2581a", 1), ("b", 1), ("<0x41>", 6)]


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def model_bytes() -> bytes:
    return b"".join(field(1, field(1, text.encode()) + bytes([3 << 3, kind])) for text, kind in PIECES)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Every connection is refused; the environment is a copy that pins the stand-in repository."""
    recipes = tmp_path / "recipes"
    for name in (NAME, "_common"):
        shutil.copytree(
            quick.ROOT / "recipes" / name, recipes / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    module = stand_ins.load_prepare(recipes / NAME)
    pinned = dict(module.REPOSITORY.files)
    (tmp_path / "repo").mkdir()
    stand_ins.repository(tmp_path / "repo", recipes / NAME, module, {})
    program = recipes / NAME / "prepare.py"
    text = program.read_text("utf-8")
    for path, digest in pinned.items():
        text = text.replace(digest, module.REPOSITORY.files[path])
    program.write_text(text, "utf-8")
    refused = "http://127.0.0.1:9"
    return {**quick.environ(tmp_path / "home", recipes), "https_proxy": refused, "http_proxy": refused}


def prepare(
    env: dict[str, str], cwd: Path, *arguments: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    return quick.bakeoff("prepare", NAME, *arguments, env=env, cwd=cwd, check=check)


def test_without_a_network_it_goes_on_with_what_is_given(env: dict[str, str], tmp_path: Path) -> None:
    done = prepare(env, tmp_path, check=False)
    assert done.returncode == 2
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("bakeoff: ")]
    for part in ("could not download train_gpt.py of openai/parameter-golf", "pass --repo DIR", "--data DIR"):
        assert part in said
    assert "Traceback" not in done.stderr

    done = prepare(env, tmp_path, "--repo", "repo", check=False)
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("bakeoff: ")]
    assert done.returncode == 2 and "could not download fineweb_val_000000.bin" in said
    assert "pass --data DIR with fineweb_train_*.bin" in said

    given = tmp_path / "given"
    given.mkdir()
    (given / "fineweb_1024_bpe.model").write_bytes(model_bytes())
    shards.write(given / "fineweb_val_000000.bin", np.array([1, 3, 4, 5, 1, 3, 5, 6]))
    shards.write(given / "fineweb_train_000000.bin", np.arange(7).repeat(50))
    prepare(env, tmp_path, "--repo", "repo", "--data", "given", "--val-tokens", "4")
    (data,) = (tmp_path / "home/bakeoff/data").glob(f"{NAME}-*")
    manifest = json.loads((data / "manifest.json").read_text())
    assert {"train/fineweb_train_000000.bin", "public/tokens.npy", "sealed/tokens.npy"} <= manifest[
        "files"
    ].keys()
    assert "is prepared in" in prepare(env, tmp_path).stdout, "a second call finds it whole"
