"""Preparation of the full-size environments: offline in one sentence, and on with what is given by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import environment_stand_ins as stand_ins
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from _common import bpe, cifar, core_bundle, shards
from environment_stand_ins import RECIPES, load_prepare
from test_loaders import VOCABULARY, model_bytes, record

WANTS = {
    "parameter_golf": ("train_gpt.py of openai/parameter-golf", "--repo DIR"),
    "nanochat_d12": ("nanochat/__init__.py of karpathy/nanochat", "--repo DIR"),
    "airbench96": ("airbench96_faster.py of KellerJordan/cifar10-airbench", "--repo DIR"),
}


def run(name: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program with every connection refused."""
    command = [sys.executable, str(RECIPES / name / "prepare.py"), "--out", str(home / "out"), *arguments]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(home), "https_proxy": "http://127.0.0.1:9"}
    return subprocess.run(command, capture_output=True, text=True, env=environ, timeout=120, check=False)


@pytest.mark.parametrize("name", sorted(WANTS))
def test_offline_is_one_sentence_that_names_what_was_wanted(name: str, tmp_path: Path) -> None:
    done = run(name, tmp_path)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    (line,) = done.stderr.splitlines()
    assert all(part in line for part in (f"{name}: could not download", *WANTS[name]))


def test_another_version_of_the_repository_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train_gpt.py").write_text("changed = 1\n")
    done = run("parameter_golf", tmp_path, "--repo", str(tmp_path))
    assert done.returncode == 2 and "is not openai/parameter-golf at 4908dc46f21e" in done.stderr
    done = run("parameter_golf", tmp_path, "--repo", str(tmp_path / "none"))
    assert done.returncode == 2 and "no folder" in done.stderr


def given(tmp_path: Path, name: str, extra: dict[str, str] | None = None) -> tuple[ModuleType, list[str]]:
    """A prepare module whose pins are those of a stand-in repository in tmp_path/repo."""
    module = load_prepare(RECIPES / name)
    stand_ins.repository(tmp_path / "repo", RECIPES / name, module, extra or {})
    (tmp_path / "data").mkdir()
    return module, [
        "--out",
        str(tmp_path / "made"),
        "--repo",
        str(tmp_path / "repo"),
        "--data",
        str(tmp_path / "data"),
    ]


def test_parameter_golf_goes_on_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, arguments = given(tmp_path, "parameter_golf")
    assert module.main(arguments) == 2
    assert (
        "holds no fineweb_val_*.bin, fineweb_1024_bpe.model, fineweb_train_*.bin" in capsys.readouterr().err
    )
    data = tmp_path / "data"
    (data / "fineweb_1024_bpe.model").write_bytes(model_bytes(VOCABULARY))
    shards.write(data / "fineweb_val_000000.bin", np.array([1, 2, 2, 6, 1, 2, 6, 6, 4, 4]))
    for number in range(3):
        shards.write(data / f"fineweb_train_{number:06d}.bin", np.arange(6).repeat(100))
    assert module.main([*arguments, "--shards", "2", "--val-tokens", "4"]) == 0
    made = tmp_path / "made"
    assert sorted(path.name for path in (made / "train").iterdir()) == [
        f"fineweb_train_{n:06d}.bin" for n in (0, 1)
    ]
    assert np.load(made / "public/tokens.npy").tolist() == [1, 2, 2, 6]
    assert json.loads((made / "public/meta.json").read_text())["bytes"] == len("the") + len(" the") + len("s")
    assert np.load(made / "sealed/tokens.npy").tolist() == [1, 2, 6, 6]
    assert shards.count(made / "fake/fineweb_train_000001.bin") == module.FAKE_TOKENS
    assert (made / "source/train_gpt.py").is_file()
    (data / "fineweb_train_000000.bin").write_bytes(b"short")
    assert module.main(arguments) == 2
    assert "too few for the header" in capsys.readouterr().err
    assert (made / "manifest.json").is_file(), "what was there before stays"


def test_a_surface_that_the_repository_does_not_have_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, arguments = given(tmp_path, "airbench96")
    path = tmp_path / "repo/airbench96_faster.py"
    path.write_text(path.read_text().replace("def ConvGroup", "def ConvGroups"))
    import hashlib

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    module.REPOSITORY = type(module.REPOSITORY)("n", "0" * 40, {"airbench96_faster.py": digest})
    for name in (*cifar.TRAIN, *cifar.TEST):
        (tmp_path / "data" / name).write_bytes(record(1, 2))
    assert module.main(arguments) == 2
    assert (
        "surface arch names ConvGroup, which airbench96_faster.py does not define" in capsys.readouterr().err
    )


def test_airbench96_goes_on_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, arguments = given(tmp_path, "airbench96")
    assert module.main(arguments) == 2
    assert "holds no data_batch_1.bin" in capsys.readouterr().err
    for number, name in enumerate((*cifar.TRAIN, *cifar.TEST)):
        (tmp_path / "data" / name).write_bytes(record(number, 10 * number) * 2)
    assert module.main(arguments) == 0
    made = tmp_path / "made"
    assert np.load(made / "public/labels.npy").tolist() == [5, 5]
    assert np.load(made / "public/inputs.npy").shape == (2, 32, 32, 3)
    torch = pytest.importorskip("torch")
    stored = torch.load(made / "train/train.pt", weights_only=True)
    assert stored["labels"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert tuple(stored["images"].shape) == (10, 32, 32, 3) and stored["images"].dtype == torch.uint8
    fake = torch.load(made / "fake/train.pt", weights_only=True)
    assert fake["images"].shape == stored["images"].shape and fake["labels"].dtype == stored["labels"].dtype


class Letters:
    """An encoder of one token a character, in the place of tiktoken."""

    def encode_ordinary(self, text: str) -> list[int]:
        return [ord(letter) % 256 for letter in text]


def tokenizer() -> bpe.Tokenizer:
    return bpe.Tokenizer("x", tuple(bytes([n]) for n in range(256)), tuple(f"<|{n}|>" for n in range(32_512)))


def test_nanochat_goes_on_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = 'SPLIT_PATTERN = r"x"\nSPECIAL_TOKENS = ["<|bos|>"]\n'
    module, arguments = given(tmp_path, "nanochat_d12", {"nanochat/tokenizer.py": constants})
    assert module.constants(constants.encode()) == ("x", ("<|bos|>",))
    assert module.main(arguments) == 2
    assert "does not hold two shard_*.parquet" in capsys.readouterr().err
    for number in range(3):
        table = pa.table({"text": [f"document {number} {n}" for n in range(8)]})
        pq.write_table(table, tmp_path / f"data/shard_{number:05d}.parquet")
    stand_ins.bundle(tmp_path / "data/eval_bundle.zip")
    tokenizer().save(tmp_path / "data/tokenizer.json")
    monkeypatch.setattr(bpe.Tokenizer, "encoder", lambda self: Letters())
    assert module.main([*arguments, "--val-tokens", "30", "--core-items", "2"]) == 0
    made = tmp_path / "made"
    assert sorted(path.name for path in (made / "train").iterdir()) == ["shard_00000.bin", "shard_00001.bin"]
    tokens = shards.read(made / "train/shard_00000.bin")
    assert (tokens == tokenizer().start).sum() == 8 and tokens[0] == tokenizer().start
    assert json.loads((made / "public/meta.json").read_text())["bytes"] == 2 * len("document 2 0") + len(
        "document 2 2"
    )
    found = [json.loads(line) for line in (made / "public/items.jsonl").read_text().splitlines()]
    assert [one["task"] for one in found] == ["pick"] * 2 + ["which"] * 2 + ["say"] * 2
    assert sorted(path.name for path in (made / "source/nanochat").iterdir())[-1] == "optim.py"
    assert not (made / "source/nanochat/tokenizer.py").exists()
    (tmp_path / "data/eval_bundle.zip").write_bytes(b"PK")
    assert module.main(arguments) == 2 and "not an eval bundle" in capsys.readouterr().err


def test_core_items_part_where_the_options_part(tmp_path: Path) -> None:
    encode = Letters().encode_ordinary
    path = stand_ins.bundle(tmp_path / "b.zip")
    found = list(core_bundle.items(path, encode, len, 999, 64, 3, 0))
    other = list(core_bundle.items(path, encode, len, 999, 64, 3, 1))
    assert len(found) == len(other) == 9 and not [one for one in found if one in other]
    pick, which, say = found[0], found[3], found[6]
    head = "".join(chr(token) for token in pick["contexts"][0][1:])
    assert (
        pick["contexts"][0][0] == 999 and head.count(" is ") == 2 and "\n\n" in head and head.endswith(" is ")
    )
    assert ["".join(map(chr, choice)) for choice in pick["choices"]] == ["odd", "even"]
    assert pick["chance"] == 0.5 and say["chance"] == 0.0
    assert len(which["contexts"]) == 2 and len(which["choices"]) == 1
    said = "".join(map(chr, which["choices"][0]))
    assert said.startswith(" is ") and said[4:].isdigit()
    context = "".join(map(chr, say["contexts"][0][1:]))
    assert context.startswith("count ") and not context.endswith(" ")
    assert int("".join(map(chr, say["choices"][0]))) == int(context.split()[1]) + 1
    assert say["gold_bytes"] == len(say["choices"][0])


def test_a_tokenizer_survives_its_file(tmp_path: Path) -> None:
    tokenizer().save(tmp_path / "t.json")
    assert bpe.Tokenizer.load(tmp_path / "t.json") == tokenizer()
    assert tokenizer().vocabulary == 32_768 and tokenizer().size([65, 66, 256]) == 2
    (tmp_path / "t.json").write_text('{"pattern": "x"}')
    with pytest.raises(bpe.Wanted, match="is no tokenizer"):
        bpe.Tokenizer.load(tmp_path / "t.json")
