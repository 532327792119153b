"""How much a source says, names included, whatever the syntax it is said in.

Use: `source_bytes(files)` is the size that caps and `total_bytes` count: contents and paths. `added_bytes(files,
start)` is what LZMA needs for a source when it already knows the start's: renaming, moving and deleting cost next to
nothing, and data cost what they carry as a literal, comment, docstring, identifier, annotation or file name alike.
`limit_bytes(spec, labels)` is the environment's bound on it: `budget.added_bytes`, or a quarter of what the labels of
the public split are worth (`labels_bytes`), never below 4,000 or above 16,000. The first 100 lines of `questions.py` would add 1,344.
Limits: where labels are worth less than 4,000 bytes a table of them fits under the bound, since honest code would not
fit under a smaller one; there inputs that are transformed for every home and the control run stand in the way.
"""

from __future__ import annotations

import functools
import lzma
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lineage.environment_spec import EnvironmentSpec
from lineage.errors import DataMissing
from lineage.records import Check, Number

ANSWERS = {"classification": "labels.npy", "language_model": "tokens.npy", "regression": "targets.npy"}
LABEL_SHARE, LEAST, MOST = 4, 4_000, 16_000
# one raw stream without check or header, the same bytes from every version; the window spans any lawful source
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 23}]


def source_bytes(files: Mapping[str, bytes]) -> int:
    """Bytes of contents and of relative paths."""
    return sum(len(data) + len(name.encode("utf-8", "surrogateescape")) for name, data in files.items())


def _text(files: Mapping[str, bytes]) -> bytes:
    names = sorted(files)
    return b"".join(b"%s\0%s\0" % (name.encode("utf-8", "surrogateescape"), files[name]) for name in names)


def _packed(data: bytes) -> int:
    return len(lzma.compress(data, lzma.FORMAT_RAW, filters=FILTERS))


def added_bytes(files: Mapping[str, bytes], start: Mapping[str, bytes]) -> int:
    """Compressed bytes of `files` given `start`."""
    known = _text(start)
    return max(0, _packed(known + _text(files)) - _packed(known))


def limit_bytes(spec: EnvironmentSpec, labels: int) -> int:
    """The bound; for a script, whose test data nobody here can weigh, the largest."""
    if spec.task.kind == "script":
        return spec.budget.added_bytes or MOST
    return spec.budget.added_bytes or min(MOST, max(LEAST, labels // LABEL_SHARE))


def labels_bytes(spec: EnvironmentSpec, data: Path) -> int:
    """What the answers to the public split are worth: the entropy of its labels, its compressed text, a byte a target.

    0 where they are known to judge.py alone.
    """
    name = ANSWERS.get(spec.task.kind)
    if name is None:  # judge.py alone knows; then the least bound holds
        return 0
    path = data / "public" / name
    try:
        return _worth(str(path), path.stat().st_mtime_ns)
    except (OSError, ValueError) as error:
        raise DataMissing(f"{path} cannot be read: {error}; run prepare.py again") from error


@functools.lru_cache(maxsize=8)
def _worth(path: str, changed: int) -> int:
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    if path.endswith("labels.npy"):
        counts = np.unique(values, return_counts=True)[1]
        shares = counts / counts.sum()
        return math.ceil(-float((shares * np.log2(shares)).sum()) * len(values) / 8)
    if path.endswith("targets.npy"):  # a byte each: as precise as a prediction is worth
        return int(values.size)
    return min(_packed(values[:2_000_000].tobytes()), len(values))


def added_information(
    spec: EnvironmentSpec, files: Mapping[str, bytes], start: Mapping[str, bytes], data: Path
) -> Check:
    """Is what the source adds to the start's within the environment's bound?"""
    labels = labels_bytes(spec, data)
    added, limit = added_bytes(files, start), limit_bytes(spec, labels)
    numbers: dict[str, Number] = {"added_bytes": added, "limit": limit, "labels_bytes": labels}
    if added > limit:
        numbers |= {"cause": "illegal:embedded_data", "over": added - limit}
    detail = (
        f"the source, names and comments included, says {added} compressed bytes that the start's does not (at most "
        f"{limit})" + (f"; the labels of the public split are worth {labels}" if labels else "")
    )
    return Check(name="added_information", passed=added <= limit, numbers=numbers, detail=detail)
