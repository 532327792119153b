"""For the candidate's imports only the packages of the environment's list are installed.

Use: `limit({folder: [entries]})`, called by `entry.py` before candidate code. An interpreter that the candidate
starts (torchrun, compile workers) finds this file through PYTHONPATH and takes the list from `CANDIDATE_PACKAGES`.
A package outside the list is then not found, where landlock could only refuse to read it: optional imports catch
ImportError and nothing else. `importlib.metadata` offers the listed distributions alone. Not a wall: a
candidate can undo it; mounts or landlock refuse what it must not read. Limits: one started with -S does
not read this file; processes of `multiprocessing` are served by `entry.py`.
"""

# os.path: every run waits for this file
# ruff: noqa: PTH113, PTH118
from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder, all_suffixes
from importlib.util import spec_from_file_location

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from importlib.metadata import Distribution
    from types import ModuleType
    from typing import Any

METADATA = (".dist-info", ".egg-info")


class Listed:
    """Finds the listed entries of one folder: packages, modules, extension modules."""

    def __init__(self, folder: str, entries: Sequence[str]) -> None:
        self.modules = {
            entry.partition(".")[0]: os.path.join(folder, entry)
            for entry in sorted(entries, reverse=True)  # so that `numpy` wins over `numpy.libs`
        }

    def find_spec(self, name: str, target: ModuleType | None = None) -> ModuleSpec | None:
        path = self.modules.get(name.rpartition(".")[2], "")
        if not path or path.endswith(tuple(all_suffixes())):
            return spec_from_file_location(name, path) if path else None
        for suffix in all_suffixes():
            if os.path.isfile(init := os.path.join(path, f"__init__{suffix}")):
                return spec_from_file_location(name, init, submodule_search_locations=[path])
        spec = ModuleSpec(name, None, is_package=True)  # a namespace package
        spec.submodule_search_locations = [path]
        return spec

    def invalidate_caches(self) -> None:
        """Nothing is remembered."""


def _plain(name: str) -> str:
    import re

    return re.sub(r"[-_.]+", "-", name).lower()


def limit(seen: Mapping[str, Sequence[str]]) -> None:
    """Only `seen` ({folder of installed packages: its entries}) can be imported from those folders from now on.

    Folders without entries are the base interpreter's and the system's, which an interpreter finds by itself.
    """

    def hook(path: str) -> Listed:
        if path not in seen:
            raise ImportError(path)
        return Listed(path, seen[path])

    class Finder(PathFinder):
        """The usual finder over sys.path, less the distributions that are not on the list."""

        @classmethod
        def find_distributions(cls, context: Any = None) -> Iterator[Distribution]:  # type: ignore[override]
            from importlib.metadata import PathDistribution
            from pathlib import Path

            wanted = getattr(context, "name", None)
            for folder, entries in seen.items():
                for entry in entries:
                    name = entry.partition("-")[0]
                    if entry.endswith(METADATA) and (wanted is None or _plain(name) == _plain(wanted)):
                        yield PathDistribution(Path(folder, entry))

    sys.path_hooks.insert(0, hook)
    for path in seen:
        sys.path_importer_cache.pop(path, None)
        if seen[path] and path not in sys.path:
            sys.path.append(path)
    sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]


if __name__ == "sitecustomize":
    import json

    limit(json.loads(os.environ.get("CANDIDATE_PACKAGES", "{}")))
