"""Loaders of the real formats, on tiny files of the exact format: whole, cut short, and with lying headers."""

from __future__ import annotations

import gzip
import io
import shutil
import struct
import subprocess
import tarfile
from pathlib import Path

import environment_stand_ins  # noqa: F401  (puts recipes/ on the path)
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from _common import cifar, documents, idx, pieces, shards

# ---- .bin shards


def test_a_shard_comes_back_as_it_was_written(tmp_path: Path) -> None:
    tokens = np.array([0, 1, 65_535, 7], dtype=np.uint16)
    shards.write(tmp_path / "a.bin", tokens)
    raw = (tmp_path / "a.bin").read_bytes()
    assert struct.unpack("<3i", raw[:12]) == (20240520, 1, 4) and len(raw) == 1024 + 8
    assert shards.read(tmp_path / "a.bin").tolist() == tokens.tolist()
    assert shards.read(tmp_path / "a.bin", 2).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda raw: raw[:-1], "the header says 4 tokens, 1032 bytes, and the file has 1031"),
        (lambda raw: raw + b"\0\0", "the file has 1034"),
        (lambda raw: raw[:500], "too few for the header"),
        (lambda raw: b"", "0 bytes are too few"),
        (lambda raw: struct.pack("<i", 20240801) + raw[4:], "magic 20240801"),
        (lambda raw: raw[:4] + struct.pack("<i", 2) + raw[8:], "version 2"),
        (lambda raw: raw[:8] + struct.pack("<i", 2_000_000_000) + raw[12:], "says 2000000000 tokens"),
        (lambda raw: raw[:8] + struct.pack("<i", -3) + raw[12:], "says -3 tokens"),
        (lambda raw: raw[:8] + struct.pack("<i", 0) + raw[12:], "says 0 tokens"),
    ],
)
def test_a_damaged_shard_is_refused(tmp_path: Path, change, says: str) -> None:
    path = tmp_path / "a.bin"
    shards.write(path, np.arange(4))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(shards.BadShard, match=says) as caught:
        shards.read(path)
    assert "a.bin" in str(caught.value)


def test_tokens_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    for tokens in (
        np.array([70_000]),
        np.array([-1]),
        np.array([], dtype=np.uint16),
        np.zeros((2, 2), np.uint16),
    ):
        with pytest.raises(shards.BadShard):
            shards.write(tmp_path / "a.bin", tokens)
    assert not (tmp_path / "a.bin").exists()


# ---- CIFAR-10


def record(label: int, value: int) -> bytes:
    return bytes([label]) + bytes([value]) * 1024 + bytes([value + 1]) * 1024 + bytes([value + 2]) * 1024


def test_cifar_planes_become_pixels(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(record(3, 10) + record(9, 20))
    images, labels = cifar.read([tmp_path / "data_batch_1.bin"])
    assert images.shape == (2, 32, 32, 3) and images.dtype == np.uint8 and labels.tolist() == [3, 9]
    assert images[1, 5, 6].tolist() == [20, 21, 22]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (record(1, 1)[:-1], "3072 bytes are not a whole number"),
        (b"", "0 bytes"),
        (record(10, 1), "label 10 in record 0"),
    ],
)
def test_damaged_cifar_batches_are_refused(content: bytes, says: str) -> None:
    with pytest.raises(cifar.BadBatch, match=says):
        cifar.parse(content, "data_batch_1.bin")


def archive(path: Path, names: tuple[str, ...]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = cifar.RECORD
            tar.addfile(member, io.BytesIO(record(number, number)))
    return path


def test_the_cifar_archive_is_read_in_memory(tmp_path: Path) -> None:
    found = cifar.from_archive(archive(tmp_path / "c.tar.gz", cifar.TRAIN + cifar.TEST))
    assert set(found) == {*cifar.TRAIN, *cifar.TEST}
    with pytest.raises(cifar.BadBatch, match=r"holds no test_batch\.bin"):
        cifar.from_archive(archive(tmp_path / "d.tar.gz", cifar.TRAIN))
    cut = tmp_path / "e.tar.gz"
    cut.write_bytes((tmp_path / "c.tar.gz").read_bytes()[:40])
    with pytest.raises(cifar.BadBatch, match="not a readable archive"):
        cifar.from_archive(cut)


# ---- IDX and Fashion-MNIST


def idx_bytes(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def fashion_files(folder: Path) -> Path:
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", 5), ("t10k", 4)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = random.integers(0, 10, count, dtype=np.uint8)
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return folder


def test_fashion_from_a_folder_and_from_a_package(tmp_path: Path) -> None:
    folder = fashion_files(tmp_path / "pkg/usr/share/fashion")
    train, train_labels, test, test_labels = idx.fashion(folder)
    assert train.shape == (5, 28, 28) and train_labels.shape == (5,)
    assert test.shape == (4, 28, 28) and test_labels.shape == (4,)
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb here")
    (tmp_path / "pkg/DEBIAN").mkdir()
    control = "Package: f\nVersion: 1\nArchitecture: all\nMaintainer: n <n@example.org>\nDescription: d\n"
    (tmp_path / "pkg/DEBIAN/control").write_text(control)
    subprocess.run(["dpkg-deb", "--build", "pkg", "f.deb"], cwd=tmp_path, check=True, capture_output=True)
    assert np.array_equal(idx.fashion(tmp_path / "f.deb")[0], train)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\0\0\x0d\x01" + b"\0" * 8, "not an IDX file"),
        (b"\0\0\x08\x03\0\0", "ends inside its header"),
        (idx_bytes(np.zeros((2, 3, 3), np.uint8))[:-1], r"says 18 values in \(2, 3, 3\) and the file has 17"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 4) + b"\0", "and the file has 1"),
        (gzip.compress(idx_bytes(np.zeros(4, np.uint8)), mtime=0)[:-6], "damaged gzip"),
        (b"", "not an IDX file"),
    ],
)
def test_damaged_idx_files_are_refused(content: bytes, says: str) -> None:
    with pytest.raises(idx.BadIdx, match=says):
        idx.parse(content, "train-images-idx3-ubyte")


def test_a_folder_without_fashion_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(idx.BadIdx, match="holds no train-images-idx3-ubyte"):
        idx.fashion(tmp_path)


# ---- parquet


def test_parquet_documents_and_their_tokens(tmp_path: Path) -> None:
    path = tmp_path / "shard_00000.parquet"
    pq.write_table(pa.table({"text": ["one", "", "zwölf", None, "three"]}), path, row_group_size=2)
    assert list(documents.texts(path)) == ["one", "zwölf", "three"]
    tokens, nbytes = documents.token_stream(documents.texts(path), lambda text: [len(text)], 99)
    assert tokens.tolist() == [99, 3, 99, 5, 99, 5] and tokens.dtype == np.uint16 and nbytes == 3 + 6 + 5
    tokens, nbytes = documents.token_stream(documents.texts(path), lambda text: [len(text)], 99, limit=3)
    assert tokens.tolist() == [99, 3, 99, 5] and nbytes == 3 + 6


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["word " * 500] * 50}), path, compression="none")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(documents.BadParquet, match=r"a\.parquet: not a readable parquet"):
        list(documents.texts(path))
    pq.write_table(pa.table({"body": ["x"]}), path)
    with pytest.raises(documents.BadParquet, match="no column 'text', only body"):
        list(documents.texts(path))
    with pytest.raises(documents.BadParquet, match="no document"):
        documents.token_stream([], lambda text: [1], 0)


# ---- SentencePiece models and byte counts


def model_bytes(vocabulary: list[pieces.Piece]) -> bytes:
    """The protobuf that SentencePiece writes: field 1 per piece with text (1), score (2), type (3)."""
    out = b""
    for piece in vocabulary:
        text = piece.text.encode()
        inner = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", -1.0)
        inner += b"" if piece.kind == pieces.NORMAL else b"\x18" + bytes([piece.kind])
        out += b"\x0a" + bytes([len(inner)]) + inner
    return out + b"\x12\x03\x0a\x01x"  # a trainer spec, skipped


VOCABULARY = [
    pieces.Piece("<unk>", pieces.UNKNOWN),
    pieces.Piece("<s>", pieces.CONTROL),
    pieces.Piece("▁the"),
    pieces.Piece("▁"),
    pieces.Piece("é"),
    pieces.Piece("<0xC3>", pieces.BYTE),
    pieces.Piece("s"),
]


def test_a_model_is_read_without_its_library() -> None:
    assert pieces.pieces(model_bytes(VOCABULARY)) == VOCABULARY
    for damaged in (b"", model_bytes(VOCABULARY)[:9], b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"):
        with pytest.raises(pieces.BadModel):
            pieces.pieces(damaged)


def test_bytes_of_text_by_the_challenge_s_rule() -> None:
    count = pieces.ByteCounter(VOCABULARY)
    # <s> the|the|s : no space after a boundary, one before the second word
    assert count(np.array([1, 2, 2, 6])) == len("the") + len(" the") + len("s")
    # a fallback byte is one byte, not the length of its name (27 such tokens once made a record)
    assert count(np.array([6, 5])) == 1
    # the bare mark is one space, once (counted as three or twice, scores fell by a fifth)
    assert count(np.array([6, 3, 6])) == len(" s")
    assert count(np.array([6, 4])) == len("é".encode())
    assert count(np.array([2])) == 0, "the first token only gives context"
    with pytest.raises(pieces.BadModel, match="token 9 is outside"):
        count(np.array([2, 9]))
