"""How engine and supervisor write to each other: length-prefixed marshal of plain values.

Use: `pack(value)`; `unpack(buffer)` gives (value or None, what is left). Limits: both ends are this
engine under one interpreter, which is what marshal needs and why JSON, whose import costs more than
the supervisor's whole work, is not used; candidates never write here.
"""

from __future__ import annotations

import marshal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def pack(value: dict[str, Any]) -> bytes:
    data = marshal.dumps(value)
    return len(data).to_bytes(8, "little") + data


def unpack(buffer: bytes) -> tuple[Any, bytes]:
    """The first value in `buffer` and the rest; (None, buffer) while it is incomplete."""
    size = int.from_bytes(buffer[:8], "little")
    if len(buffer) < 8 + size or len(buffer) < 8:
        return None, buffer
    return marshal.loads(buffer[8 : 8 + size]), buffer[8 + size :]
