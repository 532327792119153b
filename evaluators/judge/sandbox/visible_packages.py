"""Which installed packages a candidate may see: the environment's list and what those need, no more.

Use: `visible(spec.packages)` gives the folders and files to mount and the import path. An allow-list,
because installed packages carry data sets whose labels are being predicted. Limits: optional
requirements ("extras") are left out; a package must be installed in the interpreter that candidates run in. Editable
installs are seen where they are named.
"""

# paths are strings of an argument list here
# ruff: noqa: PTH110, PTH112, PTH113, PTH114, PTH118, PTH119, PTH120, PTH207, PTH208
from __future__ import annotations

import ast
import functools
import glob
import os
import re
import sys
from dataclasses import dataclass
from importlib import metadata

from evaluators.judge.sandbox.interpreters import python_of
from lineage.errors import SpecInvalid

METADATA = (".dist-info", ".egg-info")


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


def interpreter(python: str = "") -> str:
    """The real interpreter binary, not the virtual environment's link to it."""
    return python_of(python).binary


def site_folders(python: str = "") -> tuple[str, ...]:
    """Every folder of installed packages that lies under a prefix the sandbox mounts."""
    known = python_of(python)
    found = set(known.own)
    for prefix in {known.base, "/usr", "/usr/local"}:
        for pattern in (f"lib*/{known.folder}", "lib*/python3", "lib*/python3.*"):
            for name in ("site-packages", "dist-packages"):
                found.update(glob.glob(os.path.join(prefix, pattern, name)))
    return tuple(sorted(path for path in found if path and os.path.isdir(path)))


@functools.lru_cache(maxsize=8)
def _installed(python: str) -> dict[str, metadata.Distribution]:
    """The distributions of a recipe's interpreter, by plain name; the first folder's wins."""
    found: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions(path=list(python_of(python).own)):
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(_plain(name), distribution)
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _distribution(name: str, python: str) -> metadata.Distribution | None:
    if python:
        return _installed(python).get(_plain(name))
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def _providing(package: str, python: str) -> metadata.Distribution | None:
    """The distribution that an import name comes from, as scikit-learn for sklearn."""
    if not python:
        names = metadata.packages_distributions().get(package, [])
        return _distribution(names[0], "") if names else None
    for distribution in _installed(python).values():
        tops = (distribution.read_text("top_level.txt") or "").split()
        files = {file.parts[0].removesuffix(".py") for file in distribution.files or []}
        if package in tops or package in files:
            return distribution
    return None


def import_names(python: str = "") -> frozenset[str]:
    """What can be imported of the packages that are installed in an interpreter."""
    if not python:
        return frozenset(metadata.packages_distributions())
    names = set[str]()
    for distribution in _installed(python).values():
        names |= set((distribution.read_text("top_level.txt") or "").split())
        bases = (os.path.basename(path) for path in _entries(distribution))
        names |= {base.split(".")[0] for base in bases if not base.endswith((*METADATA, ".libs"))}
    return frozenset(names)


def _find(package: str, python: str) -> metadata.Distribution:
    found = _distribution(package, python) or _providing(package, python)
    if found is None:
        where = python or sys.executable
        raise SpecInvalid(
            f"packages: {package!r} is not installed beside {where}; install it or drop it from the list"
        )
    return found


def _needs(distribution: metadata.Distribution, python: str) -> list[metadata.Distribution]:
    found = []
    for line in distribution.requires or []:
        name = re.match(r"[A-Za-z0-9._-]+", line)
        if name and not re.search(r"\bextra\s*==", line):
            needed = _distribution(name.group(), python)
            if needed is not None:
                found.append(needed)
    return found


def _entries(distribution: metadata.Distribution) -> set[str]:
    tops = set()
    for file in distribution.files or []:
        top = file.parts[0]
        if top.endswith(".pth") or (top.startswith("__editable___") and top.endswith("_finder.py")):
            tops |= _editable(distribution, str(distribution.locate_file(top)))
        elif top not in ("..", "__pycache__", "/"):
            tops.add(str(distribution.locate_file(top)))
    return tops


def _editable(distribution: metadata.Distribution, path: str) -> set[str]:
    """Packages and modules outside site-packages that an editable install points to; never the folder as a whole.

    A .pth file's lines are folders (those that start with `import` are code and are not run); a finder of setuptools
    has a table of packages.
    """
    try:
        with open(path, encoding="utf-8-sig") as handle:
            text = handle.read()
    except (OSError, UnicodeDecodeError):
        return set()
    if path.endswith(".py"):
        table = re.search(r"^MAPPING[^=]*=\s*(\{.*?\})\s*$", text, re.MULTILINE | re.DOTALL)
        found = ast.literal_eval(table.group(1)) if table else {}
        return {str(place) for place in found.values() if os.path.exists(place)}
    folders = [
        line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("#", "import"))
    ]
    named = (distribution.read_text("top_level.txt") or "").split()
    places = set()
    for folder in (os.path.join(os.path.dirname(path), line) for line in folders):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            place, stem = os.path.join(folder, name), name.removesuffix(".py")
            package = os.path.isfile(os.path.join(place, "__init__.py"))
            if stem in named if named else package or name.endswith(".py"):
                places.add(place)
    return places


# every mount costs start-up time; metadata stay, because Triton finds its backends through entry points
UNNEEDED = ("_distutils_hack", "isympy.py")


@functools.lru_cache(maxsize=16)
def visible(
    packages: tuple[str, ...], masked: tuple[str, ...] = (), python: str = "", build: bool = False
) -> Visible:
    """Mounts for these packages and everything they require, less those masked by name."""
    waiting = [_find(name, python) for name in packages]
    seen: dict[str, metadata.Distribution] = {}
    while waiting:
        distribution = waiting.pop()
        name = _plain(distribution.metadata["Name"])
        if name not in seen:
            seen[name] = distribution
            waiting += _needs(distribution, python)
    every = {path for distribution in seen.values() for path in _entries(distribution)}
    paths = {path for path in every if build or not path.endswith(UNNEEDED)}
    kept = {p for p in paths if os.path.basename(p).split(".")[0].split("-")[0] not in masked}
    site = tuple(sorted({os.path.dirname(path) for path in kept}))
    return Visible(tuple(sorted(p for p in kept if os.path.exists(p))), site, site_folders(python))


@functools.lru_cache(maxsize=16)
def without_packages(root: str, python: str = "") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What of the tree `root` may be read when its folders of installed packages may not: (trees, folders to list).

    For landlock, which grants whole trees and takes nothing back. Links are left out: a rule would grant what
    they point to, and what they point to inside the tree is granted by its own name.
    """
    hidden = [path for path in site_folders(python) if path.startswith(f"{root}/")]
    if root in site_folders(python) or os.path.islink(root) or not os.path.exists(root):
        return (), ()
    if not hidden:
        return (root,), ()
    parts = [without_packages(os.path.join(root, name), python) for name in sorted(os.listdir(root))]
    trees = tuple(path for part in parts for path in part[0])
    return trees, (root, *(path for part in parts for path in part[1]))
