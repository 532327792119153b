"""`bakeoff apply`: write a trial's recipe into a person's own folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lineage.errors import UsageError
from lineage.records import Row
from lineage.store.blobs import get_tree
from lineage.store.objects import Store


def program_of(store: Store, row: Row) -> dict[str, bytes]:
    """The trial's files. Raises UsageError for a trial that has none."""
    if row.source_sha256 is None:
        raise UsageError(
            f"{row.trial} never became a program ({row.status}, {row.cause}); choose another trial"
        )
    return get_tree(store, row.source_sha256)


def write_files(
    start: Mapping[str, bytes], wanted: Mapping[str, bytes], whose: str, folder: Path, force: bool = False
) -> list[Path]:
    """Write the files of `wanted` that the folder has not; returns their paths.

    Raises UsageError, before writing anything, for a file that is neither the start's nor the wanted
    version, unless `force`: somebody has edited it since.
    """
    changed: list[tuple[Path, bytes]] = []
    for name, data in sorted(wanted.items()):
        path = folder / name
        if not path.parent.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"{path}: a link leads out of {folder}; nothing was written; remove the link, or give another folder"
            )
        present = path.read_bytes() if path.is_file() else None
        if present == data:
            continue
        if present is not None and present != start.get(name) and not force:
            raise UsageError(
                f"{path}: differs from the campaign's start and from {whose}; "
                "merge `bakeoff diff --whole` by hand, or overwrite it with --force"
            )
        changed.append((path, data))
    for path, data in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(f".{path.name}.{os.getpid()}")
        staging.write_bytes(data)
        staging.replace(path)
    return [path for path, _ in changed]
