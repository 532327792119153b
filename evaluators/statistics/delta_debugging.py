"""Smallest part of an accumulated change that still does what the whole does: delta debugging. Pure driver.

Use: `minimise(parts, test)`; `parts` is how many hunks (or edits) the change has, `test(subset)` returns whether
the program with only these hunks keeps the confirmed gain (False too when it does not run), and costs a
measurement. Returns the kept indices and how the search went. `most_tests` bounds the cost; when it is
reached the smallest set that passed so far is the answer and `is_minimal` is False.

Algorithm: ddmin (Zeller and Hildebrandt 2002, "Simplifying and Isolating Failure-Inducing Input"), with
results remembered, so that no subset is measured twice. The answer is 1-minimal when `is_minimal`: no
single hunk can be left out; there may be a smaller set elsewhere.

Limits: hunks that need each other (a new name and its use) fail alone, which ddmin survives at the cost of
more tests; a noisy `test` should use the confirmation's replicates on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

Subset = tuple[int, ...]


@dataclass(frozen=True)
class Minimised:
    """`tests`: measurements spent. `tried`: every subset tested, with its result, in order."""

    kept: Subset
    is_minimal: bool
    tests: int
    tried: tuple[tuple[Subset, bool], ...]


class _OutOfTests(Exception):
    pass


def minimise(parts: int, test: Callable[[Subset], bool], most_tests: int = 200) -> Minimised:
    """Reduce range(parts). The whole is taken to pass: it is what was confirmed."""
    known: dict[Subset, bool] = {}
    best: Subset = tuple(range(parts))

    def passes(subset: Subset) -> bool:
        if subset not in known:
            if len(known) >= most_tests:
                raise _OutOfTests
            known[subset] = test(subset)
        return known[subset]

    try:
        if parts and passes(()):
            best = ()
        size = 2
        while len(best) > 1:
            smaller = _reduce(best, min(size, len(best)), passes)
            if smaller is not None:
                best, size = smaller
            elif size >= len(best):
                break
            else:
                size = min(2 * size, len(best))
    except _OutOfTests:
        passed = [subset for subset, good in known.items() if good]
        best = min([best, *passed], key=len)
        return Minimised(best, False, len(known), tuple(known.items()))
    return Minimised(best, True, len(known), tuple(known.items()))


def _reduce(current: Subset, size: int, passes: Callable[[Subset], bool]) -> tuple[Subset, int] | None:
    """One round of ddmin: a chunk that passes alone (then halve it), else a complement (then keep the chunks)."""
    chunks = _chunks(current, size)
    for chunk in chunks:
        if len(chunk) < len(current) and passes(chunk):
            return chunk, 2
    if len(chunks) > 2:
        for chunk in chunks:
            rest = tuple(part for part in current if part not in chunk)
            if passes(rest):
                return rest, max(size - 1, 2)
    return None


def _chunks(parts: Subset, count: int) -> list[Subset]:
    edges = [round(i * len(parts) / count) for i in range(count + 1)]
    return [parts[a:b] for a, b in pairwise(edges) if b > a]
