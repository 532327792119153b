"""How many bytes of text each token of a SentencePiece model stands for.

Use: `ByteCounter(pieces(model_bytes))(tokens)`. The rule of parameter-golf: control, unknown and unused pieces
count nothing, byte pieces one, others the UTF-8 length without the word mark, plus one for the space that
the mark stands for unless the token before is a boundary. Limits: reads the protobuf by hand, fields
`pieces` (1) with `piece` (1) and `type` (3) only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
MARK = "▁"


class BadModel(ValueError):
    pass


@dataclass(frozen=True)
class Piece:
    text: str
    kind: int = NORMAL


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise BadModel("the tokenizer model ends inside a number")
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise BadModel(f"not a SentencePiece model: wire type {wire}")
        if at + size > len(data):
            raise BadModel("the tokenizer model ends inside a field")
        yield number, data[at : at + size]
        at += size


def pieces(model: bytes) -> list[Piece]:
    found = []
    for number, value in _fields(model):
        if number == 1 and isinstance(value, bytes):
            inner = dict(_fields(value))
            text, kind = inner.get(1, b""), inner.get(3, NORMAL)
            if not isinstance(text, bytes) or not isinstance(kind, int):
                raise BadModel("not a SentencePiece model: a piece without text")
            found.append(Piece(text.decode("utf-8"), kind))
    if not found:
        raise BadModel("not a SentencePiece model: no pieces")
    return found


class ByteCounter:
    """Counts the bytes of a token sequence whose first token only gives context."""

    def __init__(self, vocabulary: list[Piece]) -> None:
        silent = (UNKNOWN, CONTROL, UNUSED)
        self.base = np.zeros(len(vocabulary), np.int64)
        self.marked = np.zeros(len(vocabulary), bool)
        self.boundary = np.array([piece.kind in silent for piece in vocabulary])
        for token, piece in enumerate(vocabulary):
            if piece.kind == BYTE:
                self.base[token] = 1
            elif piece.kind not in silent:
                self.marked[token] = piece.text.startswith(MARK)
                self.base[token] = len(piece.text.removeprefix(MARK).encode("utf-8"))

    def __call__(self, tokens: np.ndarray) -> int:
        if tokens.size and int(tokens.max()) >= len(self.base):
            raise BadModel(f"token {int(tokens.max())} is outside the vocabulary of {len(self.base)}")
        before, these = tokens[:-1], tokens[1:]
        return int(self.base[these].sum() + (self.marked[these] & ~self.boundary[before]).sum())
