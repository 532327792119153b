"""The file that --lessons names: what `bakeoff learn` wrote, or what a person wrote in its place."""

from __future__ import annotations

from pathlib import Path

from lineage.errors import SpecInvalid

MOST_BYTES = 200_000


def read_lessons(path: str) -> bytes:
    """The text; empty where no file is named. Raises SpecInvalid."""
    if not path:
        return b""
    try:
        data = Path(path).read_bytes()
        data.decode("utf-8")
    except OSError as error:
        raise SpecInvalid(
            f"lessons {path!r}: cannot be read ({error.strerror}); make one with: bakeoff learn RUN --out FILE"
        ) from None
    except UnicodeDecodeError as error:
        raise SpecInvalid(f"lessons {path!r}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    if not data.strip() or len(data) > MOST_BYTES:
        raise SpecInvalid(f"lessons {path!r}: {len(data):,} bytes; 1 to {MOST_BYTES:,} are taken")
    return data
