"""The folders and files of one candidate run: copies that nobody else can change while it runs.

Use: `with workplace(bench.scratch) as folder:` then `snapshot`, `stage`. Limits: data are hard-linked
where the file system allows (the sandbox mounts them read-only) and copied where it does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from lineage.errors import DataMissing, InfraFault

SAME_TIME = 1_000_000_000  # seconds, for every file that a predictor sees


@contextlib.contextmanager
def workplace(scratch: Path) -> Iterator[Path]:
    """A private folder under `scratch`, gone afterwards."""
    scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=scratch.resolve()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_source(source: Path) -> dict[str, bytes]:
    """Every file of a source snapshot by relative path. Raises InfraFault on anything but plain files."""
    files: dict[str, bytes] = {}
    for base, folders, names in os.walk(source, followlinks=False):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(names):
            path = Path(base) / name
            if not stat.S_ISREG(path.lstat().st_mode):
                raise InfraFault("source", f"{path} in a source snapshot is not a regular file")
            files[path.relative_to(source).as_posix()] = path.read_bytes()
    if not files:
        raise InfraFault("source", f"the source snapshot {source} holds no file")
    return files


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    folder.mkdir(exist_ok=True)
    return folder


def stage(source: Path, target: Path, *, link: bool) -> Path:
    """Put the files of `source` under `target` as hard links (or copies), same layout."""
    target.mkdir(parents=True)
    for base, folders, names in os.walk(source, followlinks=False):
        place = target / os.path.relpath(base, source)
        for name in folders:
            (place / name).mkdir()
        for name in names:
            _place(Path(base) / name, place / name, link)
    return target


def indistinct_copy(source: Path, target: Path) -> Path:
    """A copy whose files all have one time, and inodes of their own: it does not tell its age or its origin."""
    stage(source, target, link=False)
    for base, folders, names in os.walk(target):
        for name in (*folders, *names):
            os.utime(Path(base) / name, (SAME_TIME, SAME_TIME))
    os.utime(target, (SAME_TIME, SAME_TIME))
    return target


def _place(source: Path, target: Path, link: bool) -> None:
    if not stat.S_ISREG(source.lstat().st_mode):
        raise DataMissing(f"{source} is not a regular file; run prepare.py again")
    if link:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def file_sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
