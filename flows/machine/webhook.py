"""A message to the URL that a person gave: `{"text": ...}` as JSON, what chat services take."""

from __future__ import annotations

import json
import queue
import threading
import time
import urllib.request
from collections.abc import Callable

WEBHOOK_SECONDS = 20
_QUEUE: queue.Queue[tuple[str, str, Callable[[str], None]]] = queue.Queue()
_STARTED = threading.Lock()


def post_later(url: str, text: str, failed: Callable[[str], None]) -> None:
    """Post from a thread of its own, in order: a URL that hangs stops nobody. `failed` gets the sentence of a failure."""
    _QUEUE.put((url, text, failed))
    if _STARTED.acquire(blocking=False):
        threading.Thread(target=_deliver, name="webhook", daemon=True).start()


def flush(seconds: float = WEBHOOK_SECONDS) -> None:
    """Wait until what was handed to `post_later` has been sent, or for so long."""
    until = time.monotonic() + seconds
    while _QUEUE.unfinished_tasks and time.monotonic() < until:
        time.sleep(0.05)


def _deliver() -> None:
    while True:
        url, text, failed = _QUEUE.get()
        try:
            told = post(url, text)
            if told:
                failed(told)
        finally:
            _QUEUE.task_done()


def post(url: str, text: str) -> str:
    """POST {"text": text} as JSON; a sentence when it did not arrive, empty when it did."""
    request = urllib.request.Request(
        url, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=WEBHOOK_SECONDS):
            return ""
    except (OSError, ValueError) as error:
        return f"webhook: a message did not arrive ({error})"
