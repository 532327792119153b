"""A judge function run on stand-in answers, before any candidate: what it asks, and what it returns.

Use: `rehearsal(spec, data, judge_file)` in the judge's process. Both splits are judged on random numbers (fixed generator)
and short random words, so a judge.py that fails, or gives other names on the sealed split, is found at once. What comes
back is free of labels: names, and of the first request shapes, types and ranges, from which `stand_in_request` makes a
request of random content for smoke tests. Limits: a judge that needs sensible answers must say so with `ask.refuse`,
which ends a rehearsal well but leaves the names unknown until the first run; so does a quantity that is not finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.judge.ask import Array, Ask, Orders, Transcript
from evaluators.judge.judge_program import FILE, Returned, load
from evaluators.judge.predictor_pipes import Broken, Wanted, encoded_request, text_parts
from lineage.environment_spec import EnvironmentSpec
from lineage.errors import JudgeFault
from lineage.records import Record

ROWS = 8  # of a smoke test's request


class Part(Record):
    """One array of a request: its type, the shape of a row, and the range of its numbers."""

    dtype: str
    row: tuple[int, ...]
    low: float
    high: float


class Rehearsal(Record):
    """`quantities`: names that the judge returned; None where it refused the stand-in. `items`: those with test items.

    `letters` and `length` are of the texts of the first request where that is one of texts.
    """

    quantities: tuple[str, ...] | None
    items: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    most_bytes: int = 0
    rows: int = 1
    parts: tuple[Part, ...] = ()
    letters: str = ""
    length: int = 0


class StandIn:
    """Answers every request with random content, and keeps the first request."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.first: tuple[Sequence[Any], Wanted] | None = None

    def ask_for(self, parts: Sequence[Array], wanted: Wanted) -> Array:
        self.first = self.first or (parts, wanted)
        shape = (len(parts[0]), *wanted.shape)
        if wanted.dtype.startswith("float"):
            return self.rng.standard_normal(shape).astype(wanted.dtype)
        return self.rng.integers(0, 2, shape).astype(wanted.dtype)

    def ask_for_texts(self, texts: Sequence[str], wanted: Wanted) -> list[str]:
        self.first = self.first or (texts, wanted)
        most = min(wanted.most_bytes, 12)
        return [words(self.rng, "abcde ", most).strip() or "a" for _ in texts]


def words(rng: np.random.Generator, letters: str, length: int) -> str:
    return "".join(letters[at] for at in rng.integers(0, len(letters), length))


def rehearsal(spec: EnvironmentSpec, data: Path, judge_file: Path | None) -> Rehearsal:
    """Raises JudgeFault, DataMissing."""
    program, stand_in = load(spec, judge_file), StandIn()
    found: list[Returned | None] = []
    for split in ("public", "sealed"):
        ask = Ask(stand_in, Orders(spec.task.batch), Transcript())
        try:
            found.append(program.run(ask, data / split, 1))
        except Broken:  # refused, or a quantity that is undefined for random answers
            found.append(None)
    public, sealed = found
    if public is not None and sealed is not None and public.quantities.keys() != sealed.quantities.keys():
        odd = sorted(public.quantities.keys() ^ sealed.quantities.keys())
        raise JudgeFault(f"{FILE}: judge returns {odd[0]!r} on one of the splits public and sealed only")
    assert stand_in.first is not None
    return _described(*stand_in.first, public)


def _described(asked: Sequence[Any], wanted: Wanted, public: Returned | None) -> Rehearsal:
    names = None if public is None else tuple(sorted(public.quantities))
    items = () if public is None else tuple(sorted(public.items))
    known = Rehearsal(
        quantities=names, items=items, shape=wanted.shape, dtype=wanted.dtype, most_bytes=wanted.most_bytes
    )
    if wanted.is_text:
        rows, letters = len(asked), "".join(sorted(set("".join(asked)))) or "a"
        length = max(1, round(sum(map(len, asked)) / rows))
        return known.model_copy(update={"rows": min(ROWS, rows), "letters": letters, "length": length})
    parts = tuple(
        Part(dtype=part.dtype.name, row=part.shape[1:], low=_edge(part.min()), high=_edge(part.max()))
        for part in asked
    )
    return known.model_copy(update={"rows": min(ROWS, len(asked[0])), "parts": parts})


def _edge(value: Any) -> float:
    return float(value) if np.isfinite(value) else 0.0


def stand_in_request(found: Rehearsal) -> bytes:
    """A request of random content as `sandbox.entry` reads it."""
    rng, wanted = np.random.default_rng(0), Wanted(found.shape, found.dtype, found.most_bytes)
    if wanted.is_text:
        texts = [words(rng, found.letters, found.length) for _ in range(found.rows)]
        return encoded_request(text_parts(texts), wanted)
    parts = []
    for part in found.parts:
        shape, dtype = (found.rows, *part.row), np.dtype(part.dtype)
        if dtype.kind == "f":
            parts.append(rng.uniform(part.low, part.high, shape).astype(dtype))
        else:
            drawn = rng.integers(
                int(part.low), min(int(part.high), 2**63 - 1), shape, endpoint=True, dtype=np.int64
            )
            parts.append(drawn.astype(dtype))
    return encoded_request(parts, wanted)
