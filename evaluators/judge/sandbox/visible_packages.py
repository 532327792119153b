"""Which installed packages a candidate may see: the environment's list and what those need, no more.

Use: `visible(spec.packages)` gives the folders and files to mount and the import path. An allow-list,
because installed packages carry data sets whose labels are being predicted. Limits: optional
requirements ("extras") are left out; a package must be installed where the engine runs.
"""

# paths are strings of an argument list here
# ruff: noqa: PTH110, PTH112, PTH114, PTH118, PTH119, PTH120, PTH207, PTH208
from __future__ import annotations

import functools
import glob
import os
import re
import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata

from lineage.errors import SpecInvalid


@dataclass(frozen=True)
class Visible:
    """`paths`: top-level entries to mount; `site`: folders for sys.path; `hidden`: folders to blank first."""

    paths: tuple[str, ...]
    site: tuple[str, ...]
    hidden: tuple[str, ...]

    @property
    def entries(self) -> dict[str, list[str]]:
        """The names to be found in each folder of installed packages."""
        found: dict[str, list[str]] = {folder: [] for folder in (*self.site, *self.hidden)}
        for path in self.paths:
            found[os.path.dirname(path)].append(os.path.basename(path))
        return found


def interpreter() -> str:
    """The real interpreter binary, not the virtual environment's link to it."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    candidates = (os.path.join(sys.base_prefix, "bin", name), os.path.realpath(sys.executable))
    return next(path for path in candidates if os.path.exists(path))


def site_folders() -> tuple[str, ...]:
    """Every folder of installed packages that lies under a prefix the sandbox mounts."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    for prefix in {sys.base_prefix, "/usr", "/usr/local"}:
        for pattern in (f"lib*/{version}", "lib*/python3", "lib*/python3.*"):
            for name in ("site-packages", "dist-packages"):
                found.update(glob.glob(os.path.join(prefix, pattern, name)))
    return tuple(sorted(path for path in found if path and os.path.isdir(path)))


def _distribution(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def _find(package: str) -> metadata.Distribution:
    found = _distribution(package)
    if found is None:  # the import name is not the distribution's name, as for sklearn
        names = metadata.packages_distributions().get(package, [])
        found = _distribution(names[0]) if names else None
    if found is None:
        raise SpecInvalid(
            f"packages: {package!r} is not installed beside {sys.executable}; install it or drop it from the list"
        )
    return found


def _needs(distribution: metadata.Distribution) -> list[metadata.Distribution]:
    found = []
    for line in distribution.requires or []:
        name = re.match(r"[A-Za-z0-9._-]+", line)
        if name and not re.search(r"\bextra\s*==", line):
            needed = _distribution(name.group())
            if needed is not None:
                found.append(needed)
    return found


def _entries(distribution: metadata.Distribution) -> set[str]:
    tops = set()
    for file in distribution.files or []:
        top = file.parts[0]
        if top not in ("..", "__pycache__", "/") and not top.endswith(".pth"):
            tops.add(str(distribution.locate_file(top)))
    return tops


# every mount costs start-up time; metadata stay, because Triton finds its backends through entry points
UNNEEDED = ("_distutils_hack", "isympy.py")


@functools.lru_cache(maxsize=16)
def visible(packages: tuple[str, ...], masked: tuple[str, ...] = ()) -> Visible:
    """Mounts for these packages and everything they require, less those masked by name."""
    waiting = [_find(name) for name in packages]
    seen: dict[str, metadata.Distribution] = {}
    while waiting:
        distribution = waiting.pop()
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        if name not in seen:
            seen[name] = distribution
            waiting += _needs(distribution)
    every = {path for distribution in seen.values() for path in _entries(distribution)}
    paths = {path for path in every if not path.endswith(UNNEEDED)}
    kept = {p for p in paths if os.path.basename(p).split(".")[0].split("-")[0] not in masked}
    site = tuple(sorted({os.path.dirname(path) for path in kept}))
    return Visible(tuple(sorted(p for p in kept if os.path.exists(p))), site, site_folders())


@functools.lru_cache(maxsize=16)
def without_packages(root: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What of the tree `root` may be read when its folders of installed packages may not: (trees, folders to list).

    For landlock, which grants whole trees and takes nothing back. Links are left out: a rule would grant what
    they point to, and what they point to inside the tree is granted by its own name.
    """
    hidden = [path for path in site_folders() if path.startswith(f"{root}/")]
    if root in site_folders() or os.path.islink(root) or not os.path.exists(root):
        return (), ()
    if not hidden:
        return (root,), ()
    parts = [without_packages(os.path.join(root, name)) for name in sorted(os.listdir(root))]
    trees = tuple(path for part in parts for path in part[0])
    return trees, (root, *(path for part in parts for path in part[1]))
