"""Prepares airbench96: the public repository's airbench96_faster.py and CIFAR-10.

Use: `python recipes/airbench96/prepare.py --out DIR [--repo DIR] [--data PATH]`. Limits: CIFAR-10 is one archive
of 170 MB; `--data` takes that archive, or a folder with its six .bin files. CIFAR-10 has no second test set,
so the sealed split is the public one with seeds of its own. Writing train.pt needs torch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _common import cifar, fetch, prepared, workspace
from _common.wheels import Wanted

HERE = Path(__file__).resolve().parent
VERSION = "1"
REPOSITORY = fetch.Repository(
    "KellerJordan/cifar10-airbench",
    "f1c599c4af24aca803e3e65a6a7e52a502e09d0e",
    {"airbench96_faster.py": "53b6aafd8a2775c47472bf2f31784f4733a38dc76a784bd5ed1450e1498109b3"},
)
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
SIZE = 170_052_171
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BY_HAND = "pass --data cifar-10-binary.tar.gz, or a folder with data_batch_1.bin to _5.bin and test_batch.bin"
BY_HAND_REPO = (
    f"pass --repo DIR, a clone of https://github.com/KellerJordan/cifar10-airbench; for the data {BY_HAND}"
)
Labelled = tuple[np.ndarray, np.ndarray]


def read(given: Path | None) -> tuple[Labelled, Labelled]:
    """Training and test images."""
    if given is not None and given.is_dir():
        found = {path.name: path for path in sorted(given.rglob("*_batch*.bin")) if path.is_file()}
        if missing := [name for name in cifar.TRAIN + cifar.TEST if name not in found]:
            raise Wanted(f"{given} holds no {', '.join(missing)}; {BY_HAND}")
        return cifar.read(found[name] for name in cifar.TRAIN), cifar.read(found[name] for name in cifar.TEST)
    if given is not None and not given.is_file():
        raise Wanted(f"no file or folder {given}; {BY_HAND}")
    archive = given
    if archive is None:
        archive = fetch.downloads_folder() / "airbench96" / "cifar-10-binary.tar.gz"
        if not archive.is_file():
            fetch.download(URL, archive, SHA256, SIZE, "CIFAR-10", BY_HAND)
    batches = cifar.from_archive(archive)
    parts = {name: cifar.parse(content, name) for name, content in batches.items()}
    train = [parts[name] for name in cifar.TRAIN]
    return (np.concatenate([i for i, _ in train]), np.concatenate([n for _, n in train])), parts[
        cifar.TEST[0]
    ]


def write_torch(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """The dictionary that the fetched loader reads."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "images": torch.from_numpy(images),
        "labels": torch.from_numpy(labels),
        "classes": list(CLASSES),
    }
    torch.save(tensors, path)


def write_data(out: Path, train: Labelled, test: Labelled) -> None:
    random = np.random.default_rng(prepared.FAKE_SEED)
    write_torch(out / "train" / "train.pt", *train)
    fake = random.integers(0, 256, train[0].shape, dtype=np.uint8), random.integers(0, 10, len(train[1]))
    write_torch(out / "fake" / "train.pt", *fake)
    for split in ("public", "sealed"):
        np.save(prepared.target(out, f"{split}/inputs.npy"), test[0], allow_pickle=False)
        np.save(prepared.target(out, f"{split}/labels.npy"), test[1], allow_pickle=False)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--repo", type=Path, help="a clone of KellerJordan/cifar10-airbench")
    parser.add_argument(
        "--data", type=Path, help="the binary archive of CIFAR-10, or a folder of its batches"
    )
    arguments = parser.parse_args(argv)
    try:
        cache = fetch.downloads_folder() / "airbench96"
        start = fetch.repository_files(REPOSITORY, arguments.repo, cache, BY_HAND_REPO)
        train, test = read(arguments.data)
        with prepared.staging(arguments.out) as staged:
            workspace.write_start(staged, start)
            workspace.check_units(HERE, staged)
            write_data(staged, train, test)
            source = {"repository": REPOSITORY.name, "commit": REPOSITORY.commit, "data": URL}
            prepared.seal(staged, "airbench96", VERSION, source)
    except (Wanted, cifar.BadBatch) as wanted:
        print(f"airbench96: {wanted}", file=sys.stderr)
        return 2
    print(f"airbench96: {len(train[1])} training and {len(test[1])} test images prepared")
    return 0


if __name__ == "__main__":
    sys.exit(main())
