"""Who measured what on which machine: hashes of the judge's code, of the environment and its data.

Use: `evaluator_sha256()` and `environment_sha256(spec, data)` go into every measurement, so scores from
another judge or other data never compete silently; `check_data` compares prepared data with its manifest.
Limits: library versions are part of the machine's identity, not of the judge's.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from evaluators.judge.candidate_folders import file_sha256
from lineage.environment_spec import EnvironmentSpec
from lineage.errors import DataMissing
from lineage.ids import canonical_json, sha256, tree_hash, tree_manifest

HERE = Path(__file__).resolve().parent


@functools.lru_cache(maxsize=1)
def evaluator_sha256() -> str:
    """Hash of all source in this folder, read once per process.

    It decides a score. Labels, statistics and promotion act on measurements and are not in it.
    """
    files = {file.relative_to(HERE).as_posix(): file.read_bytes() for file in sorted(HERE.rglob("*.py"))}
    return tree_hash(files)


def manifest(data: Path) -> dict[str, Any]:
    """The prepared data's manifest. Raises DataMissing."""
    try:
        found: dict[str, Any] = json.loads((data / "manifest.json").read_bytes())
    except (OSError, ValueError) as error:
        raise DataMissing(f"no prepared data in {data}: {error}; run the environment's prepare.py") from error
    return found


def environment_sha256(spec: EnvironmentSpec, data: Path) -> str:
    """Hash of the environment's words and of the data files' hashes."""
    return sha256_of_words(spec.model_dump(mode="json"), data)


def sha256_of_words(words: Mapping[str, Any], data: Path) -> str:
    """The same of a specification as a record has it: an earlier version wrote fewer keys."""
    return sha256(canonical_json({"spec": words, "files": manifest(data)["files"]}))


@functools.lru_cache(maxsize=256)
def _hash_of(path: str, size: int, mtime_ns: int, inode: int) -> str:
    return file_sha256(Path(path))


def check_data(data: Path, prefixes: tuple[str, ...], *, needed: bool = True) -> None:
    """Raise DataMissing unless the files under these prefixes are what the manifest says.

    A file is hashed again only when its size, time or inode changed. `needed`: there must be one.
    """
    files = manifest(data)["files"]
    wanted = {name for name in files if name.startswith(prefixes)}
    present = {
        path.relative_to(data).as_posix()
        for prefix in prefixes
        for path in (data / prefix).rglob("*")
        if not path.is_dir()
    }
    if wanted != present or (needed and not wanted):
        odd = sorted(wanted ^ present)[:5]
        raise DataMissing(
            f"{data}: files under {prefixes} and manifest differ in {odd}; run prepare.py again"
        )
    for name in sorted(wanted):
        path = data / name
        facts = path.stat()
        found = _hash_of(str(path), facts.st_size, facts.st_mtime_ns, facts.st_ino)
        if found != files[name]["sha256"]:
            raise DataMissing(f"{path} does not match its hash in manifest.json; run prepare.py again")


def artifact_sha256(place: Path) -> str:
    """Identity of the files under `place`, by the rule for source trees; empty if one is not a plain file."""
    hashes = {}
    for path in sorted(place.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            return ""
        if path.is_file():
            hashes[path.relative_to(place).as_posix()] = file_sha256(path)
    return sha256(tree_manifest(hashes))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


@functools.lru_cache(maxsize=1)
def machine_identity() -> str:
    """One line: processor, cores usable, Python, torch, numpy. Time scores compare only within it."""
    model = platform.machine()
    try:
        with open("/proc/cpuinfo") as handle:
            model = next(line for line in handle if line.startswith("model name")).partition(":")[2].strip()
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = f"torch {_version('torch')}, numpy {_version('numpy')}"
    host = sha256(platform.node().encode())[:8]
    return f"{model}, {cores} cores, {platform.system()}, Python {sys.version.split()[0]}, {versions}, host {host}"
