"""`ask`, which a judge function gets: rows out to one predictor process, checked answers back in the caller's order.

    predicted = ask(x, shape=(1,))                   # x: array, or a tuple of arrays with equal numbers of rows
    actions = ask(observations, (), dtype="int64")   # one whole number a row
    texts = ask.text(prompts, max_bytes=200)         # a list of str for a list of str
    ask.refuse("an action is 0 or 1, got 7")         # the answer is unlawful: the candidate's fault

Rows go in an order that nobody can guess, `[task] batch` of them in a request. Every answer has exactly the size asked
for and finite numbers, or the run ends there with the candidate's cause. `ask` may be called as often as the judge
wants; all calls of one judge function reach the same process. Where the environment names audits, two processes are
asked (`Orders`) and `Transcript` keeps what is compared. Limits: once an answer was unlawful every further call raises.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from evaluators.judge.predictor_pipes import Broken, Wanted, batches, secret_order
from evaluators.judge.sandbox.entry import AXES

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
DTYPES = ("float32", "float64", "int64", "int32", "uint8")
SKETCH, SKETCH_SEED = 4, 20_261_129
KEPT = (
    1 << 24
)  # numbers of answers that are kept for the audits; later calls are compared by their quantities alone


class Predictor(Protocol):
    """Who answers: the channel to a predictor process, or a stand-in for it."""

    def ask_for(self, parts: Sequence[Array], wanted: Wanted) -> Array: ...

    def ask_for_texts(self, texts: Sequence[str], wanted: Wanted) -> list[str]: ...


class Orders:
    """In which requests the rows of each call go. Made again with `first`, those of a second process.

    With `audited` a request has at most a third of the rows, so that company can change; the second process gets
    the last full request of the first as its first one, unchanged (`leak_audits`).
    """

    def __init__(self, batch: int, audited: bool = False, first: Orders | None = None) -> None:
        self.batch, self.audited, self.first = batch, audited, first
        self.plans: list[list[Ints]] = []

    def plan(self, count: int) -> list[Ints]:
        size = min(self.batch, max(1, -(-count // 3))) if self.audited else self.batch
        again = self.again(len(self.plans), count)
        order = secret_order(count)
        if again is not None:
            order = order[~np.isin(order, again)]
        plan = [*([again] if again is not None else []), *batches(len(order), size, order)]
        self.plans.append(plan)
        return plan

    def again(self, call: int, count: int) -> Ints | None:
        """The request of the first process that comes first in this one; None where there is none."""
        if self.first is None or call >= len(self.first.plans):
            return None
        theirs = self.first.plans[call]
        if sum(len(numbers) for numbers in theirs) != count:
            return None
        size = max(len(numbers) for numbers in theirs)
        return next(numbers for numbers in reversed(theirs) if len(numbers) == size)


@dataclass(frozen=True)
class Call:
    """One call as it is compared: hash of what was asked, and the answers in the caller's order."""

    asked: str
    answers: Array | list[str]


@dataclass
class Transcript:
    """What was answered, as it comes: a hash, a sketch of fixed projections, and with `keeps` the answers themselves."""

    keeps: bool = False
    calls: list[Call] = field(default_factory=list)
    _room: int = KEPT
    _hash: Any = field(default_factory=hashlib.sha256)
    _sums: list[float] = field(default_factory=lambda: [0.0] * SKETCH)
    _squares: float = 0.0
    _count: int = 0
    _signs: np.random.Generator = field(default_factory=lambda: np.random.default_rng(SKETCH_SEED))

    def add(self, parts: Sequence[Array], answers: Array | list[str]) -> None:
        if isinstance(answers, list):
            raw = [text.encode("utf-8") for text in answers]
            digests = [hashlib.sha256(one).digest() for one in raw]
            numbers = np.frombuffer(b"".join(digests), dtype="<u4").astype(np.float64)
            data = b"".join(len(one).to_bytes(8, "little") + one for one in raw)
        else:
            numbers, data = answers.reshape(-1).astype(np.float64), np.ascontiguousarray(answers).tobytes()
        self._hash.update(data)
        self._project(numbers)
        self._room -= len(numbers)
        if self.keeps and self._room >= 0:
            asked = hashlib.sha256()
            for part in parts:
                asked.update(f"{part.dtype}{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
            self.calls.append(Call(asked.hexdigest(), answers))

    def _project(self, flat: npt.NDArray[np.float64]) -> None:
        for index in range(SKETCH):
            signs = self._signs.integers(0, 2, flat.size, dtype=np.int8)
            self._sums[index] += float(np.sum(np.where(signs, flat, -flat)))
        self._squares += float(np.sum(flat**2))
        self._count += flat.size

    @property
    def sha256(self) -> str:
        return str(self._hash.hexdigest())

    @property
    def sketch(self) -> tuple[float, ...]:
        """As `judge_process.sketch`: equal answers up to rounding give equal sketches up to rounding."""
        scale = math.sqrt(self._squares) or 1.0
        return tuple(total / scale for total in self._sums)


class Ask:
    """The first argument of a judge function; see the module's text."""

    def __init__(self, predictor: Predictor, orders: Orders, transcript: Transcript) -> None:
        self._predictor, self._orders, self._transcript = predictor, orders, transcript
        self.broken: Broken | None = None
        self.calls = 0

    def __call__(
        self, rows: Array | tuple[Array, ...], shape: tuple[int, ...] | int = (1,), dtype: str = "float32"
    ) -> Array:
        """Answers of shape (rows, *shape) and this dtype, in the order of `rows`."""
        parts = [_sendable(part) for part in (rows if isinstance(rows, tuple) else (rows,))]
        wanted = Wanted((shape,) if isinstance(shape, int) else tuple(shape), dtype)
        if dtype not in DTYPES:
            raise ValueError(f"ask: dtype {dtype!r}; it is one of {', '.join(DTYPES)}")
        if len(wanted.shape) >= AXES or any(size < 1 for size in wanted.shape):
            raise ValueError(
                f"ask: shape {wanted.shape} of one row's answer; at most {AXES - 1} axes, none empty"
            )
        if len({len(part) for part in parts}) != 1 or len(parts[0]) == 0:
            raise ValueError(
                f"ask: the parts have {[len(part) for part in parts]} rows; need equal numbers, at least 1"
            )
        answers = np.empty((len(parts[0]), *wanted.shape), dtype=dtype)
        for numbers in self._plan(len(answers)):
            answers[numbers] = self._finite(self._exchange([part[numbers] for part in parts], wanted))
        self._transcript.add(parts, answers)
        return answers

    def text(self, texts: Sequence[str], max_bytes: int = 4096) -> list[str]:
        """As many texts, each of at most `max_bytes` bytes of UTF-8, in the order of `texts`."""
        given = list(texts)
        if not given or not all(isinstance(text, str) for text in given) or max_bytes < 1:
            raise ValueError("ask.text: need a list of at least one str, and max_bytes of at least 1")
        wanted, answers = Wanted((), "text", max_bytes), [""] * len(given)
        for numbers in self._plan(len(given)):
            self._raise_if_broken()
            try:
                found = self._predictor.ask_for_texts([given[number] for number in numbers], wanted)
            except Broken as error:
                self.broken = error
                raise
            for number, text in zip(numbers, found, strict=True):
                answers[number] = text
        asked = np.frombuffer("\0".join(given).encode("utf-8", "surrogatepass"), dtype=np.uint8)
        self._transcript.add([asked], answers)
        return answers

    def refuse(self, why: str) -> None:
        """The answers are unlawful by the judge's own rules: ends the run with cause illegal:answer_refused."""
        self.broken = self.broken or Broken("answer_refused", why[:300])
        raise self.broken

    def _plan(self, count: int) -> list[Ints]:
        self._raise_if_broken()
        self.calls += 1
        return self._orders.plan(count)

    def _raise_if_broken(self) -> None:
        if self.broken is not None:
            raise self.broken

    def _exchange(self, parts: list[Array], wanted: Wanted) -> Array:
        self._raise_if_broken()
        try:
            return self._predictor.ask_for(parts, wanted)
        except Broken as error:
            self.broken = error
            raise

    def _finite(self, answer: Array) -> Array:
        if np.issubdtype(answer.dtype, np.floating) and not np.isfinite(answer).all():
            bad = int(answer.size - np.count_nonzero(np.isfinite(answer)))
            text = f"{bad} of {answer.size} answered numbers are not finite"
            self.broken = Broken("nan", text, non_finite=bad)
            raise self.broken
        return answer


def _sendable(rows: Any) -> Array:
    """An array that the wire can carry. Raises ValueError."""
    given = np.asarray(rows)
    if given.dtype.kind not in "biuf" or given.dtype.itemsize > 8:
        raise ValueError(
            f"ask: an array of {given.dtype} cannot be sent; send numbers, or texts with ask.text"
        )
    if not 1 <= given.ndim <= AXES:
        raise ValueError(f"ask: an array of {given.ndim} axes; the first is the rows, at most {AXES} in all")
    return given.astype(given.dtype.newbyteorder("="), copy=False)
