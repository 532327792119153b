"""The judge's end of the pipes to a predictor: arrays out, exactly the right number of bytes back.

Use: `Channel.ask(array, shape)` per request, in lockstep, or `Channel.ask_for(parts, wanted)` where the request says
what it must be answered with: `Wanted` of an array, or of texts. `Broken` names the rule when the predictor
does not answer as it must. Limits: the deadline is the supervisor's, who ends the predictor and with it
the pipe; nothing received is interpreted as anything but little-endian numbers of the wanted type, or UTF-8.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.judge.sandbox.entry import AXES

PIPE_BYTES = 1 << 20
F_SETPIPE_SZ = 1031
JUDGE_FAULT = "JudgeFault: "  # before the last words of a judge's process about a fault of judge.py

Floats = npt.NDArray[np.float32]


class Broken(Exception):
    """The predictor broke the protocol; `rule` is the word after `illegal:`, or `nan`, or empty if it ended."""

    def __init__(self, rule: str, message: str, **numbers: int | float | str) -> None:
        super().__init__(message)
        self.rule = rule
        self.numbers = dict(numbers)


@dataclass(frozen=True)
class Wanted:
    """What one row must be answered with: an array of this shape and dtype; or, with dtype "text", at most so many bytes."""

    shape: tuple[int, ...]
    dtype: str
    most_bytes: int = 0

    @property
    def is_text(self) -> bool:
        return self.dtype == "text"


def encoded(rows: npt.NDArray[np.generic]) -> bytes:
    """One array as `sandbox.entry` reads it."""
    data = np.ascontiguousarray(rows)
    axes = (*data.shape, *(0,) * AXES)[:AXES]
    numbers = (data.nbytes, data.ndim, *axes)
    head = data.dtype.name.encode().ljust(8, b"\0") + b"".join(n.to_bytes(8, "little") for n in numbers)
    return bytes(head + data.tobytes())


def encoded_request(parts: Sequence[npt.NDArray[Any]], wanted: Wanted) -> bytes:
    """One request that says what it must be answered with."""
    shape = (wanted.most_bytes,) if wanted.is_text else wanted.shape
    numbers = (len(parts), len(shape), *(*shape, *(0,) * AXES)[:AXES])
    head = wanted.dtype.encode().ljust(8, b"\0") + b"".join(n.to_bytes(8, "little") for n in numbers)
    return head + b"".join(encoded(part) for part in parts)


def text_parts(texts: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Texts as two arrays: the byte lengths of all, then their bytes."""
    raw = [text.encode("utf-8") for text in texts]
    return [np.array([len(one) for one in raw], dtype=np.int64), np.frombuffer(b"".join(raw), dtype=np.uint8)]


class Channel:
    """Two pipes. `theirs` are the ends for the sandbox: requests at fd 5, answers at fd 6."""

    def __init__(self) -> None:
        requests_in, self.requests = os.pipe()
        self.answers, answers_out = os.pipe()
        self.theirs = {5: requests_in, 6: answers_out}
        for handle in (self.requests, self.answers):
            with contextlib.suppress(OSError):  # above the user's pipe budget the default size must do
                fcntl.fcntl(handle, F_SETPIPE_SZ, PIPE_BYTES)
        self.asked = 0

    def give_away(self) -> None:
        for handle in self.theirs.values():
            os.close(handle)
        self.theirs = {}

    def close(self) -> None:
        self.give_away()
        os.close(self.requests)
        os.close(self.answers)

    def ask(self, rows: npt.NDArray[np.generic], shape: tuple[int, ...]) -> Floats:
        """Send one array, receive one of `shape`. Raises Broken."""
        self._request(encoded(rows))
        return self._receive(shape, "float32")

    def ask_for(self, parts: Sequence[npt.NDArray[Any]], wanted: Wanted) -> npt.NDArray[Any]:
        """Send one request, receive an array of (rows, *shape). Raises Broken."""
        self._request(encoded_request(parts, wanted))
        return self._receive((len(parts[0]), *wanted.shape), wanted.dtype)

    def ask_for_texts(self, texts: Sequence[str], wanted: Wanted) -> list[str]:
        """Send texts, receive as many, none above its most bytes. Raises Broken."""
        self._request(encoded_request(text_parts(texts), wanted))
        lengths = self._receive((len(texts),), "int64").tolist()
        longest = max(lengths, key=lambda length: length if length >= 0 else wanted.most_bytes + 1)
        if not 0 <= longest <= wanted.most_bytes:
            raise Broken(
                "answer_size",
                f"a text of {longest} bytes, at most {wanted.most_bytes}",
                bytes=longest,
                cap=wanted.most_bytes,
            )
        found = []
        for length in lengths:
            data = self._receive((length,), "uint8").tobytes()
            try:
                found.append(data.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise Broken("answer_text", f"a text that is not UTF-8: {error.reason}") from None
        return found

    def _request(self, data: bytes) -> None:
        if select.select([self.answers], [], [], 0)[0]:
            self._unsolicited()
        try:
            self._send(memoryview(data))
        except BrokenPipeError:
            raise Broken("", "the predictor stopped reading requests", request=self.asked) from None
        self.asked += 1

    def _send(self, data: memoryview) -> None:
        sent = 0
        while sent < len(data):
            sent += os.write(self.requests, data[sent:])

    def _receive(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        answer = np.empty(shape, dtype=np.dtype(dtype).newbyteorder("<"))
        view = answer.reshape(-1).view(np.uint8).data
        have = 0
        while have < len(view):
            count = os.readv(self.answers, [view[have:]])
            if count == 0:
                rule = "short_answer" if have else ""
                raise Broken(rule, "the predictor ended mid-answer", got=have, need=len(view))
            have += count
        return answer

    def _unsolicited(self) -> None:
        try:
            extra = len(os.read(self.answers, 1 << 16))
        except OSError:
            extra = 0
        if extra:
            raise Broken("extra_bytes", "bytes that were not asked for", request=self.asked, extra=extra)
        raise Broken("", "the predictor ended before it was asked", request=self.asked)

    def leftovers(self) -> int:
        """Bytes still in the pipe after the predictor has ended."""
        extra = 0
        while chunk := os.read(self.answers, 1 << 20):
            extra += len(chunk)
            if extra > PIPE_BYTES:
                break
        return extra


def batches(count: int, size: int, order: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Row numbers of each request, in the secret order."""
    for start in range(0, count, size):
        yield order[start : start + size]


def secret_order(count: int) -> npt.NDArray[np.int64]:
    """A permutation nobody can guess: seeded from the kernel's random source, never stored."""
    rng = np.random.default_rng(int.from_bytes(os.urandom(16), "little"))
    return rng.permutation(count)
