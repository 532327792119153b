"""Handles Ctrl-C (SIGINT), SIGTERM and SIGHUP of a campaign: candidates end at once, open trials stay open."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flows.engine.engine import Engine
from flows.engine.live_events import Note


def _stop_signals() -> list[signal.Signals]:
    """INT, TERM, and HUP unless it is ignored, as under nohup."""
    hup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hup]


@contextmanager
def stop_on_signals(engine: Engine) -> Iterator[None]:
    """End the campaign cleanly at the first signal; the second does the default action, for a stop that hangs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: object) -> None:
        engine.cancel.set()
        engine.emit(Note("stopping: ending candidates, keeping the record"))
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    saved = {number: signal.signal(number, stop) for number in _stop_signals()}
    try:
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)
