"""Posts messages to the webhook URL: `{"text": ...}` as JSON, the form that chat services take."""

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
    """Post from a separate thread, in order, so that a URL that hangs delays nothing. `failed` is called with the reason."""
    _QUEUE.put((url, text, failed))
    if _STARTED.acquire(blocking=False):
        threading.Thread(target=_deliver, name="webhook", daemon=True).start()


def flush(seconds: float = WEBHOOK_SECONDS) -> None:
    """Wait until the messages given to `post_later` are sent, `seconds` at most."""
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
    """POST {"text": text} as JSON; returns the reason when it failed, else an empty string."""
    request = urllib.request.Request(
        url, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=WEBHOOK_SECONDS):
            return ""
    except (OSError, ValueError) as error:
        return f"webhook: a message did not arrive ({error})"
