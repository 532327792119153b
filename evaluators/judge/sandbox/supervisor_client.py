"""Starts a supervisor and talks with it: start it, hear its events, tell it to stop.

Use: `Session(request, handles)`, then `released()` and `finish(...)`, or `run(...)` for both. Limits:
blocking; a set `cancel` event ends the candidate within about 0.1 s. Killing the engine at any point
ends the supervisor's stdin, and with it the whole tree.
"""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evaluators.judge.sandbox import wire_format
from evaluators.judge.sandbox.available_layers import CLEAN_ENV, program
from lineage.errors import InfraFault
from lineage.safe_text import for_terminal

SLICE_S = 0.05
GRACE_S = 15.0

Progress = Callable[[int, float], object]


def clean(raw: bytes | str, limit: int) -> str:
    """The last `limit` characters of what a reader sees of candidate text."""
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    return for_terminal(text)[-limit:]


class Session:
    """One supervisor process. `final` is set once the run has ended and nothing of it is left."""

    def __init__(self, request: Mapping[str, Any], handles: Sequence[int] = ()) -> None:
        self.process = subprocess.Popen(
            program("evaluators.judge.sandbox.supervisor"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=CLEAN_ENV,
            pass_fds=(*handles, *_sockets(request)),
            start_new_session=True,  # a Ctrl-C in the terminal is the engine's to answer
        )
        self.final: dict[str, Any] | None = None
        self._buffer = b""
        self._asked = False
        self._send(wire_format.pack(dict(request)))

    def _send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(data)
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # it has ended; its last event says how

    def tell(self, word: str) -> None:
        """`stop`, `cancel` or `prune`; only the first counts."""
        if not self._asked:
            self._asked = True
            self._send(word.encode() + b"\n")

    def event(self, timeout_s: float) -> dict[str, Any] | None:
        """The next event, None if there is none in time. Raises InfraFault if the supervisor is gone."""
        assert self.process.stdout is not None
        handle = self.process.stdout.fileno()
        found, self._buffer = wire_format.unpack(self._buffer)
        while found is None:
            if not select.select([handle], [], [], timeout_s)[0]:
                return None
            data = os.read(handle, 1 << 16)
            if not data:
                raise InfraFault("supervisor", f"the supervisor ended without a report: {self._complaint()}")
            found, self._buffer = wire_format.unpack(self._buffer + data)
        event: dict[str, Any] = found
        if event["event"] == "final":
            self.final = _readable(event)
        return event

    def _complaint(self) -> str:
        self.close()
        assert self.process.stderr is not None
        return self.process.stderr.read().decode("utf-8", "replace").strip()[-800:] or "no message"

    def released(self, cancel: threading.Event | None = None) -> bool:
        """Wait until the data is released; False when the run ended before that."""
        while self.final is None:
            if cancel is not None and cancel.is_set():
                self.tell("cancel")
            event = self.event(SLICE_S)
            if event is not None and event["event"] == "released":
                return True
        return False

    def finish(
        self, cancel: threading.Event | None = None, on_progress: Progress | None = None
    ) -> dict[str, Any]:
        """Wait for the end. `on_progress(step, value)` that returns True prunes the run."""
        asked = 0.0
        try:
            while self.final is None:
                if cancel is not None and cancel.is_set():
                    self.tell("cancel")
                asked = asked or (time.monotonic() if self._asked else 0.0)
                if asked and time.monotonic() - asked > GRACE_S:
                    raise InfraFault("supervisor", f"no report within {GRACE_S:g} s of the request to end")
                event = self.event(SLICE_S)
                if event is None or event["event"] != "progress" or on_progress is None:
                    continue
                if on_progress(event["step"], event["value"]) is True:
                    self.tell("prune")
        finally:
            self.close()
        return self.final

    def close(self) -> None:
        """End of stdin ends everything; then reap."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.final is not None:
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()


def _sockets(request: Mapping[str, Any]) -> tuple[int, ...]:
    """Of the fork server that the run is to come from."""
    prepared = request.get("prepared")
    return (prepared["socket"],) if prepared else ()


def _readable(final: dict[str, Any]) -> dict[str, Any]:
    """Candidate text made fit to be read by people and models; still untrusted."""
    final["log_tail"] = clean(final.pop("log"), 4000)
    effects = final.get("effects", {})
    final["effects"] = {stage: tuple(clean(name, 200) for name in names) for stage, names in effects.items()}
    kind, message, place = (clean(part, 600) for part in final.pop("error") or ("", "", ""))
    final["exception"] = f"{kind}: {message}{f' ({place})' if place else ''}"[:800] if kind else ""
    return final


def run(
    request: Mapping[str, Any],
    cancel: threading.Event | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """One candidate run from start to end; the supervisor's final report."""
    return Session(request).finish(cancel, on_progress)
