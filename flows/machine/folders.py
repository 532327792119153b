"""Folders of Bakeoff on this machine, outside any run directory; and its version.

`BAKEOFF_HOME` (default `$XDG_CACHE_HOME/bakeoff` or `~/.cache/bakeoff`) contains prepared data, scratch
space of running trials, Prefect homes of embedded servers, and the slot locks. All of it can be
deleted when nothing runs; lineage and results are in the run directory, never here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def shipped_recipes() -> Path:
    """The recipes that come with Bakeoff: of the checkout, or of the installed wheel."""
    checkout = REPO / "recipes"
    return checkout if checkout.is_dir() else Path(sys.prefix) / "share" / "bakeoff" / "recipes"


def home() -> Path:
    """The folder named by BAKEOFF_HOME; the code that writes into it creates it."""
    chosen = os.environ.get("BAKEOFF_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "bakeoff"


def data_root() -> Path:
    return home() / "data"


def run_key(root: str) -> str:
    """Short stable name of a run directory or store URI, for folders on this machine."""
    return sha256(root.encode()).hexdigest()[:12]


def scratch_dir(root: str, campaign: str) -> Path:
    return home() / "scratch" / run_key(root) / campaign


def prefect_home(root: str) -> Path:
    return home() / "prefect" / run_key(root)


@lru_cache(maxsize=1)
def bakeoff_version() -> str:
    """Package version plus the git revision of the checkout, with `+dirty` when it has changes."""
    try:
        base = version("bakeoff")
    except PackageNotFoundError:
        base = "0"
    try:
        done = subprocess.run(
            ["git", "-C", str(REPO), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return base
    return f"{base}+{done.stdout.strip()}" if done.returncode == 0 and done.stdout.strip() else base
