"""Do a predictor's answers depend on anything they must not see? A second sitting, compared with the first.

Use: `sitting = second_sitting(asked, first)`, let a FRESH predictor process answer it, then
`compare(spec.audits, asked, first, sitting)` gives one check per audit. What is asked looks like ordinary
traffic: as many rows, in batches of the usual size, in another secret order.

- order_invariance: the last request of the first sitting comes first in the second, unchanged. State
  carried from request to request (training on the test inputs, caches) shows.
- batch_invariance: rows come in other company. Statistics over the batch show.
- causality (token rows): behind a random cut the row continues with the tail of another real row, so
  the process never holds the true future. Answers before the cut must cost the true targets the same.
  Lengths and places are those of the scored requests, so that a leak that is gated on them shows
  (facts: a gated leak passed a 64-token probe and failed at full length).

Tolerance: ten times the difference between two askings of the very same request, at least 1e-4, at most
1e-2 (answers: relative to the row's range; tokens: bits). Honest float32 networks differ by about 1e-6;
known leaks by 0.07 to 1.8. For tokens the mean gain of the scored run over the audit is bounded too, at a
tenth of that, over all positions and over those just before the cut, so that a small leak shows. Limits: a random predictor fails;
what depends on unscored rows only is not seen.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evaluators.exchange import batches
from evaluators.questions import Array, Ints, Kept, Questions, Sitting
from lineage.records import Check, Number

FLOOR, CEILING, SAFETY, MEAN_SHARE = 1e-4, 1e-2, 10.0, 0.1
PLAIN_EVERY = 8  # of the token rows, one in eight keeps its own tail
DONOR_TRIES = 24


class Second(Sitting):
    """The audit's sitting. Row i of it asks about row `source[i]`; `cut[i]` is where its tail was exchanged."""

    cut: Ints
    replay: Ints
    again: Ints


def _random() -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(os.urandom(16), "little"))


def splice(rows: Array, first: Ints, rng: np.random.Generator) -> tuple[Array, Ints]:
    """Rows whose tails come from other rows, and the cuts.

    A donor is sought that has the same token before the cut, so that the seam looks like text.
    """
    count, length = rows.shape
    cut = rng.integers(np.minimum(first + 1, length - 1), length)
    spliced = rows.copy()
    for number in range(count):
        at = int(cut[number])
        donors = rng.integers(0, count, DONOR_TRIES)
        fits = (rows[donors, at - 1] == rows[number, at - 1]) & (rows[donors, at] != rows[number, at])
        differs = (rows[donors, at:] != rows[number, at:]).any(axis=1)
        better = donors[fits] if fits.any() else donors[differs]
        donor = int(better[0]) if len(better) else int(donors[0])
        spliced[number, at:] = rows[donor, at:]
    return spliced, cut


def second_sitting(asked: Questions, first: Sitting) -> Second:
    """The last request of `first`, twice and unchanged, then every row again in other company."""
    rng = _random()
    last = first.plan[-1]
    count = len(asked.rows)
    body, cut = asked.rows, np.full(count, -1, dtype=np.int64)
    if asked.first is not None:
        body, cut = splice(asked.rows, asked.first, rng)
        plain = rng.permutation(count)[::PLAIN_EVERY]
        body[plain], cut[plain] = asked.rows[plain], -1
    rows = np.concatenate([asked.rows[last], asked.rows[last], body])
    replay, again = np.arange(len(last)), np.arange(len(last), 2 * len(last))
    order = 2 * len(last) + rng.permutation(count)
    requests = list(batches(count, asked.batch, order))
    middle = len(requests) // 2
    sitting = Second(asked, [replay, *requests[:middle], again, *requests[middle:]], rows)
    sitting.source = np.concatenate([last, last, np.arange(count)])
    sitting.cut = np.concatenate([np.full(2 * len(last), -1), cut])
    sitting.replay, sitting.again = replay, again
    return sitting


def _difference(asked: Questions, here: Kept, there: Kept) -> Kept:
    """Per row: largest difference, in bits for tokens, else relative to the range of the row's answers."""
    if asked.first is not None:
        return np.asarray(np.abs(here[:, 0] - there[:, 0]).max(axis=1))
    spread = there.max(axis=1) - there.min(axis=1) + 1e-12
    return np.asarray(np.abs(here - there).max(axis=1) / spread)


def compare(names: Sequence[str], asked: Questions, first: Sitting, second: Second) -> tuple[Check, ...]:
    """One check per audit asked for. Both sittings must be complete."""
    truth = first.kept[second.source]
    noise = float(_difference(asked, second.kept[second.replay], second.kept[second.again]).max())
    tolerance = min(max(FLOOR, SAFETY * noise), CEILING)
    body = np.arange(len(second.replay) + len(second.again), len(second.rows))
    plain, cut = body[second.cut[body] < 0], body[second.cut[body] >= 0]
    checks = []
    for name in names:
        if name == "causality":
            checks.append(_causality(truth[cut], second.kept[cut], second.cut[cut], tolerance))
            continue
        numbers = second.replay if name == "order_invariance" else plain
        worst = float(_difference(asked, second.kept[numbers], truth[numbers]).max())
        facts: dict[str, Number] = {"worst": worst, "tolerance": tolerance, "rows": len(numbers)}
        facts |= {"repeat_noise": noise, "cause": "not_causal"}
        what = "when asked at another time" if name == "order_invariance" else "in other company"
        detail = f"the same rows answered {what} differ by {worst:.3g}, tolerance {tolerance:.3g}"
        checks.append(Check(name=name, passed=worst <= tolerance, numbers=facts, detail=detail))
    return tuple(checks)


def _causality(truth: Kept, spliced: Kept, cut: Ints, tolerance: float) -> Check:
    """Bits of the true targets before the cut: with the true future in view against without it."""
    before = _before(truth.shape[-1], cut)
    every = spliced[:, 0] - truth[:, 0]
    gain = every[before]
    seam = every[np.arange(len(cut)), cut - 1]  # where a peek at the next token alone would show
    worst = float(np.abs(gain).max(initial=0.0))
    mean = max(float(gain.mean()), float(seam.mean())) if gain.size else 0.0
    passed = gain.size > 0 and worst <= tolerance and mean <= MEAN_SHARE * tolerance
    numbers: dict[str, Number] = {
        "worst": worst,
        "mean_gain_bits": mean,
        "tolerance": tolerance,
        "rows": len(cut),
        "positions": int(gain.size),
        "cause": "not_causal",
    }
    detail = (
        f"with the future exchanged, earlier answers differ by up to {worst:.3g} bits (mean gain {mean:.3g})"
    )
    return Check(name="causality", passed=passed, numbers=numbers, detail=detail)


def _before(length: int, cut: Ints) -> npt.NDArray[np.bool_]:
    return np.asarray(np.arange(length)[None, :] < cut[:, None])
