"""Do a predictor's answers depend on anything they must not see? Every run is asked twice, by two alike processes.

Use: `sittings(asked, spec.audits)` plans both, FRESH predictor processes answer them, `compare(spec, first, second)`
gives one check per audit, `merged(first, second)` the answers that are scored: of every row the worse one. Neither
sitting is the audit of the other. Both hold every row, in an order of its own, and as many rows with a foreign end,
so a predictor that tells which of the two it is in, or what the measurement is for, gains nothing by it.

- order_invariance: a whole request of the first sitting comes first in the second, unchanged. State carried from
  request to request (training on the test inputs, caches) shows.
- batch_invariance: every row comes in other company. Statistics over the batch show.
- causality (token rows): behind a random cut some rows continue with the tail of another real row. Answers before
  the cut must be those that the other sitting gave to the true row. Cuts lie where answers count: lengths and places
  are those of scored rows, so that a leak that is gated on them shows.

What is scored by its largest value is compared by that value: `flips` counts decisions that differ. Bounds are the
environment's (`lineage.environment_spec.AuditBounds`), never taken from the run. Bits of a token are compared as they are. Numbers
of a class are compared in their distance to the row's largest, as a share of that distance and a tenth of the split's
median lead: a class that is out of the question hides nothing. The mean gain over all positions and over those just
before the cut is bounded apart, so that a small leak everywhere shows. Limits: a random predictor fails; what depends
on unscored rows only is not seen.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evaluators.judge.predictor_pipes import batches
from evaluators.judge.questions import Array, Ints, Kept, Questions, Sitting, ordinary
from lineage.environment_spec import AuditBounds, EnvironmentSpec
from lineage.records import Check, Number

FOREIGN_SHARE = (
    4  # of the rows that are not decided by a largest value, one in four of a sitting gets a foreign end
)
DONOR_TRIES = 24
LEAD_SHARE = (
    0.1  # of the split's median lead, added to every distance so that a near tie is no division by zero
)


class Second(Sitting):
    """The other sitting. Its first request is one of the first sitting's, unchanged: the rows `again`."""

    again: Ints


def _random() -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(os.urandom(16), "little"))


def splice(rows: Array, lowest: Ints, highest: Ints, rng: np.random.Generator) -> tuple[Array, Ints]:
    """Rows whose tails come from other rows, and the cuts, from `lowest` to `highest`.

    A donor is sought that has the same token before the cut, so that the seam looks like text, and another one
    behind it.
    """
    count, length = rows.shape
    top = np.minimum(highest, length - 1)
    cut = rng.integers(np.minimum(lowest, top), top + 1)
    spliced = rows.copy()
    for number in range(count):
        at = int(cut[number])
        donors = rng.integers(0, count, DONOR_TRIES)
        other = rows[donors, at] != rows[number, at]
        fits = (rows[donors, at - 1] == rows[number, at - 1]) & other
        differs = (rows[donors, at:] != rows[number, at:]).any(axis=1)
        better = donors[fits] if fits.any() else donors[other] if other.any() else donors[differs]
        donor = int(better[0]) if len(better) else int(donors[0])
        spliced[number, at:] = rows[donor, at:]
    return spliced, cut


def sittings(asked: Questions, audits: Sequence[str]) -> tuple[Sitting, ...]:
    """The plans of one run's predictor processes: two, or one where the environment asks for no audit."""
    if not audits:
        return (ordinary(asked),)
    rng = _random()
    foreign = [_NONE, _NONE]
    if "causality" in audits and asked.first is not None:
        foreign = _foreign(asked, rng)
    again = rng.permutation(len(asked.rows))[: _size(asked)]
    first, second = _sitting(Sitting, asked, foreign[0], rng), _sitting(Second, asked, foreign[1], rng)
    assert isinstance(second, Second)
    first.plan, second.plan, second.again = _plan(first, again, rng), _plan(second, again, rng), again
    second.plan = [again, *(numbers for numbers in second.plan if numbers is not again)]
    return first, second


_NONE: Ints = np.zeros(0, dtype=np.int64)


def _size(asked: Questions) -> int:
    """Rows of a request: the environment's batch, or a third of a small split, so that company can change."""
    return min(asked.batch, max(1, -(-len(asked.rows) // 3)))


def _foreign(asked: Questions, rng: np.random.Generator) -> list[Ints]:
    """Rows that get a foreign end, by sitting: other ones in either, and in both what a largest value decides."""
    decided = (
        np.zeros(len(asked.rows), dtype=np.bool_) if asked.decided is None else asked.decided.any(axis=1)
    )
    rest, always = rng.permutation(np.flatnonzero(~decided)), np.flatnonzero(decided)
    share = max(1, len(rest) // FOREIGN_SHARE)
    return [np.concatenate([always, part]) for part in (rest[:share], rest[share : 2 * share])]


def _sitting(kind: type[Sitting], asked: Questions, foreign: Ints, rng: np.random.Generator) -> Sitting:
    """Every row, and behind them those with a foreign end."""
    if not len(foreign):
        return kind(asked, [])
    ends, cuts = splice(asked.rows[foreign], *_cuts(asked, foreign), rng)
    count = len(asked.rows)
    made = kind(asked, [], np.concatenate([asked.rows, ends]), np.concatenate([np.arange(count), foreign]))
    made.cut[count:] = cuts
    return made


def _plan(sitting: Sitting, again: Ints, rng: np.random.Generator) -> list[Ints]:
    """All rows shuffled into requests; the rows `again` are one of them, the last of full size."""
    others = rng.permutation(np.setdiff1d(np.arange(len(sitting.rows)), again))
    plan = list(batches(len(others), _size(sitting.asked), others))
    full = sum(len(numbers) == _size(sitting.asked) for numbers in plan)
    return [*plan[:full], again, *plan[full:]]


def _cuts(asked: Questions, numbers: Ints) -> tuple[Ints, Ints]:
    """Lowest and highest cut of these rows: behind the first answer that counts, at or before the last decided one."""
    assert asked.first is not None
    length = asked.rows.shape[1]
    highest = np.full(len(numbers), length - 1)
    if asked.decided is not None:
        marks = asked.decided[numbers]
        last = length - 1 - marks[:, ::-1].argmax(axis=1)
        highest = np.where(marks.any(axis=1), last + 1, highest)
    return np.minimum(asked.first[numbers] + 1, length - 1), highest


# ---- comparing ----


def _distances(one: Kept, other: Kept) -> Kept:
    """Per row of class numbers: how far any class moved against the largest, as a share of what it lay behind."""
    rows = np.arange(len(one))
    top = one.argmax(axis=1)
    behind = one[rows, top][:, None] - one
    moved = np.abs(behind - (other[rows, top][:, None] - other))
    lead = np.partition(behind, 1, axis=1)[:, 1]
    least = LEAD_SHARE * float(np.median(lead)) + 1e-12
    return np.asarray((moved / (behind + least)).max(axis=1))


def _difference(asked: Questions, one: Kept, other: Kept) -> Kept:
    if asked.first is not None:
        return np.asarray(np.abs(one[:, 0] - other[:, 0]).max(axis=1))
    return _distances(one, other)


def _flips(
    asked: Questions, numbers: Ints, one: Kept, other: Kept, where: Array | None = None
) -> tuple[int, int]:
    """(decisions that differ, decisions compared) of these rows; `where` are the positions that count."""
    if asked.first is None:
        return int((one.argmax(axis=1) != other.argmax(axis=1)).sum()), len(one)
    if asked.decided is None:
        return 0, 0
    here = asked.decided[numbers] if where is None else asked.decided[numbers] & where
    return int(((one[:, 1] != other[:, 1]) & here).sum()), int(here.sum())


def _allowed(flips: tuple[int, int], bounds: AuditBounds) -> bool:
    return flips[0] <= max(1, int(bounds.flips * flips[1]))


def compare(spec: EnvironmentSpec, first: Sitting, second: Sitting) -> tuple[Check, ...]:
    """One check per audit of the environment. Both sittings must be complete."""
    assert isinstance(second, Second)
    asked, count = first.asked, len(first.asked.rows)
    every = np.arange(count)
    checks = []
    for name in spec.audits:
        if name == "causality":
            checks.append(_causality(spec.audit, first, second))
            continue
        numbers = second.again if name == "order_invariance" else every
        one, other = first.kept[numbers], second.kept[numbers]
        worst = float(_difference(asked, one, other).max(initial=0.0))
        flips = _flips(asked, numbers, one, other)
        facts: dict[str, Number] = {"worst": worst, "bound": spec.audit.worst, "rows": len(numbers)}
        facts |= {"flips": flips[0], "decisions": flips[1], "cause": "not_causal"}
        what = "when asked at another time" if name == "order_invariance" else "in other company"
        detail = f"the same rows answered {what} differ by {worst:.3g} (bound {spec.audit.worst:g})"
        detail += f", {flips[0]} of {flips[1]} decisions" if flips[1] else ""
        passed = worst <= spec.audit.worst and _allowed(flips, spec.audit)
        checks.append(Check(name=name, passed=passed, numbers=facts, detail=detail))
    return tuple(checks)


def _foreign_ends(one: Sitting, other: Sitting) -> tuple[Ints, Ints, Kept, Kept]:
    """Of the rows with a foreign end in `one`: sources, cuts, their answers, and the true rows' answers in `other`."""
    numbers = np.arange(len(one.asked.rows), len(one.rows))
    source = one.source[numbers]
    return source, one.cut[numbers], one.kept[numbers], other.kept[source]


def _causality(bounds: AuditBounds, first: Sitting, second: Sitting) -> Check:
    """Bits of the true targets before the cut: with the true future in view against without it."""
    pairs = [_foreign_ends(first, second), _foreign_ends(second, first)]
    source, cut, foreign, truth = (np.concatenate(part) for part in zip(*pairs, strict=True))
    before = _before(truth.shape[-1], cut)
    every = foreign[:, 0] - truth[:, 0]
    gain, seam = (
        every[before],
        every[np.arange(len(cut)), cut - 1],
    )  # a peek at the next token alone shows there
    worst = float(np.abs(gain).max(initial=0.0))
    mean = max(float(gain.mean()), float(seam.mean())) if gain.size else 0.0
    flips = _flips(first.asked, source, foreign, truth, before)
    passed = gain.size > 0 and worst <= bounds.worst and mean <= bounds.mean and _allowed(flips, bounds)
    numbers: dict[str, Number] = {
        "worst": worst,
        "mean_gain_bits": mean,
        "bound": bounds.worst,
        "mean_bound": bounds.mean,
        "rows": len(cut),
        "positions": int(gain.size),
        "flips": flips[0],
        "decisions": flips[1],
        "cause": "not_causal",
    }
    detail = (
        f"with the future exchanged, earlier answers differ by up to {worst:.3g} bits (mean gain {mean:.3g})"
    )
    detail += f", {flips[0]} of {flips[1]} decisions" if flips[1] else ""
    return Check(name="causality", passed=passed, numbers=numbers, detail=detail)


def _before(length: int, cut: Ints) -> npt.NDArray[np.bool_]:
    return np.asarray(np.arange(length)[None, :] < cut[:, None])


def merged(first: Sitting, second: Sitting) -> Kept:
    """Of every row the worse of all answers that were given to it: what is scored."""
    asked = first.asked
    count = len(asked.rows)
    kept = asked.worse(np.arange(count), first.kept[:count], second.kept[:count])
    for sitting in (first, second):
        source, cut, foreign, _ = _foreign_ends(sitting, sitting)
        if len(source):
            seen = np.where(_before(kept.shape[-1], cut)[:, None, :], foreign, kept[source])
            kept[source] = asked.worse(source, kept[source], seen)
    return kept
