"""The folder `knowledge/` of an environment: notes, papers and links in Markdown that specialists may read.

    read_knowledge(folder)      # {"optimizers/muon.md": b"..."}; {} where there is none
    knowledge_sha256(folder)    # what the environment's spec records; "" where there is none

A campaign stores the files when it is created and reads them from its store, so nothing that is written later reaches it. They are no
lineage: every arm has them.
"""

from __future__ import annotations

import re
from pathlib import Path

from lineage.errors import SpecInvalid
from lineage.ids import tree_hash

FOLDER = "knowledge"
MOST_FILES, MOST_BYTES = 200, 4_000_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}")


def read_knowledge(folder: Path) -> dict[str, bytes]:
    """Every Markdown file by its path below `knowledge/`. Raises SpecInvalid for what is no such file, and for too much."""
    root, files, room = folder / FOLDER, dict[str, bytes](), MOST_BYTES
    for path in sorted(root.rglob("*")) if root.is_dir() else ():
        inside = path.relative_to(root)
        if any(part.startswith(".") for part in inside.parts) or path.is_dir():
            continue
        data = _text(path, room)
        if not all(_NAME.fullmatch(part) for part in inside.parts):
            raise SpecInvalid(f"{path}: name it with letters, digits, '.', '_' and '-'")
        files[inside.as_posix()] = data
        room -= len(data)
        if len(files) > MOST_FILES:
            raise SpecInvalid(
                f"{root}: more than {MOST_FILES} files; leave out what the specialists do not need"
            )
    return files


def _text(path: Path, room: int) -> bytes:
    if path.suffix != ".md":
        raise SpecInvalid(
            f"{path}: only Markdown files (.md) are read; convert it or move it out of {FOLDER}/"
        )
    try:
        if not path.is_file() or path.stat().st_size > room:
            raise SpecInvalid(
                f"{path}: no regular file, or {FOLDER}/ has more than {MOST_BYTES:,} bytes with it; shorten or move it"
            )
        data = path.read_bytes()
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecInvalid(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise SpecInvalid(f"{path}: cannot be read ({error.strerror}); make it readable or move it") from None
    return data


def knowledge_sha256(folder: Path) -> str:
    files = read_knowledge(folder)
    return tree_hash(files) if files else ""
