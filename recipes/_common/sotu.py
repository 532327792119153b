"""The annual messages to Congress, 1790 to 2026, split by year for language modelling.

Use: `splits(documents(wheel), held, public, sealed)` gives raw bytes for train, public and sealed; where a held-out
stretch begins in its speech is drawn from the home's secret (`fresh`). Limits: works of the US
government; the transcription is that of the American Presidency Project (UC Santa Barbara), which asks
to be cited. The wheel is read as a zip file; nothing in it is imported.
"""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from _common import fresh

FIRST_HELD_YEAR = 2000  # every held-out speech is later than every training speech
PUBLIC_BYTES, SEALED_BYTES = 6_000, 11_000  # of each; 14 speeches and 8 speeches
SEPARATOR = b"\0"  # between speeches, which hold no zero byte

Document = tuple[int, str, bytes]


def documents(wheel: Path) -> list[Document]:
    """(year, name, text) in the order of the years."""
    found = []
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            path = PurePosixPath(name)
            if path.parent.name == "speeches" and path.suffix == ".txt":
                found.append((int(path.stem[:4]), path.stem, archive.read(name)))
    return found


def splits(
    speeches: list[Document], secret: bytes, public: int = PUBLIC_BYTES, sealed: int = SEALED_BYTES
) -> dict[str, bytes]:
    """Training: before 2000. Then even years are public and odd years sealed, a stretch of each speech."""
    sizes = (public, sealed)
    held = []
    for year, name, text in speeches:
        if year >= FIRST_HELD_YEAR:
            size = sizes[year % 2]
            at = fresh.start(len(text) - size, fresh.generator(secret, "sotu", name))
            held.append((year, text[at : at + size]))
    return {
        "train": SEPARATOR.join(text for year, _, text in speeches if year < FIRST_HELD_YEAR),
        "public": SEPARATOR.join(text for year, text in held if year % 2 == 0),
        "sealed": SEPARATOR.join(text for year, text in held if year % 2 == 1),
    }
