"""Several runs at once, with results that do not depend on which of them ends first.

Use: `kept, beyond = side_by_side(count, at_once, work, ends)` calls `work(index, stop)` for every index in threads.
`kept` are the results in order of index, up to the first that `ends` says is the last; runs with a later index are
then stopped, or not started, and `beyond` has what those gave that were under way. `work` must end soon after its `stop`
is set. `in_order` does the same for coroutines, whose results come one by one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from lineage.errors import InfraFault, Interrupted

T = TypeVar("T")


class Stop(threading.Event):
    """An event that also counts as set while another one is. Ask it with `is_set`: `wait` does not see the other one."""

    def __init__(self, other: threading.Event | None = None) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or (self._other is not None and self._other.is_set())


def side_by_side(
    count: int,
    at_once: int,
    work: Callable[[int, threading.Event], T],
    ends: Callable[[T], bool],
    cancel: threading.Event | None = None,
) -> tuple[list[T], list[T]]:
    """Results in order, and those beyond the last one that counts.

    Raises a run's InfraFault, else the first exception in order of index; every run has ended by then. A run that was
    stopped because of an earlier one may raise Interrupted, which counts for nothing.
    """
    runs = _Runs(count, work, ends, cancel)
    threads = [
        threading.Thread(target=runs.some, name=f"run-{number}", daemon=True)
        for number in range(min(at_once, count))
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:  # Ctrl-C in the main thread
        runs.end_after(-1)
        for thread in threads:
            thread.join()
        raise
    return runs.outcome()


class _Runs(Generic[T]):
    """Which runs are begun, which ended how, and which are the last to count. Used by several threads."""

    def __init__(
        self,
        count: int,
        work: Callable[[int, threading.Event], T],
        ends: Callable[[T], bool],
        cancel: threading.Event | None,
    ) -> None:
        self._work, self._ends = work, ends
        self._stops = [Stop(cancel) for _ in range(count)]
        self._lock = threading.Lock()
        self._next, self._limit = 0, count
        self._results: dict[int, T] = {}
        self._faults: dict[int, BaseException] = {}

    def some(self) -> None:
        """Take one run after the other until none is left."""
        while (index := self._take()) is not None:
            try:
                result = self._work(index, self._stops[index])
            except BaseException as fault:
                with self._lock:
                    self._faults[index] = fault
                self.end_after(index)
            else:
                with self._lock:
                    self._results[index] = result
                if self._ends(result):
                    self.end_after(index)

    def _take(self) -> int | None:
        with self._lock:
            if self._next >= self._limit:
                return None
            self._next += 1
            return self._next - 1

    def end_after(self, index: int) -> None:
        with self._lock:
            self._limit = min(self._limit, index + 1)
            for stop in self._stops[self._limit :]:
                stop.set()

    def outcome(self) -> tuple[list[T], list[T]]:
        """What `side_by_side` gives, once all threads have ended."""
        for fault in self._faults.values():
            if isinstance(fault, InfraFault):
                raise fault
        for index, fault in sorted(self._faults.items()):
            if index < self._limit or not isinstance(fault, Interrupted):
                raise fault
        kept = [self._results[index] for index in range(self._limit)]
        return kept, [result for index, result in sorted(self._results.items()) if index >= self._limit]


async def in_order(at_once: int, jobs: Sequence[Callable[[], Awaitable[T]]]) -> AsyncGenerator[T, None]:
    """Start the jobs in order, `at_once` at a time, and give their results in that order.

    Close the iterator (`contextlib.aclosing`): jobs not begun by then are left out, those under way are waited for.
    """
    gate, closed = asyncio.Semaphore(at_once), asyncio.Event()

    async def run(job: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            if closed.is_set():
                raise Interrupted("an earlier one was the last")
            return await job()

    tasks = [asyncio.ensure_future(run(job)) for job in jobs]
    try:
        for task in tasks:
            yield await task
    finally:
        closed.set()
        await asyncio.gather(*tasks, return_exceptions=True)
