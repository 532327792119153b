"""The supervisor's part in a run that is forked from a prepared process: make the sandbox, have the run forked into it.

Use: by `supervisor.py`: `outer()` gives bubblewrap's file descriptors; once `stands` is readable, `begin` asks the
fork server (`fork_server.py`) for the run; `status` then becomes readable when the run has ended. bubblewrap starts
`cat` in place of the run. What that writes back says that all mounts are made; it ends with the supervisor. The
candidate could end it, and its own sandbox with it; it has the candidate's locks and nothing else. Limits: one run.
"""

from __future__ import annotations

import marshal
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from evaluators.judge.sandbox.cgroup import Group

SOL_SOCKET, SCM_RIGHTS = 1, 1


class Joining:
    """`inside` are the run's own file descriptors by number; they are closed here once the server has them."""

    def __init__(self, prepared: dict[str, Any], inside: dict[int, int]) -> None:
        self.prepared, self.inside = prepared, inside
        self.status = -1
        self.begun = False
        self._held_in, self._held = os.pipe()
        self.stands, self._stands_out = os.pipe()
        self._info, self._info_out = os.pipe()

    @property
    def handles(self) -> tuple[int, int]:
        return self.stands, self.status

    def outer(self, log: int) -> dict[int, int]:
        """bubblewrap's file descriptors: the program in place of the run reads what is held open here."""
        os.write(self._held, b"\n")
        return {0: self._held_in, 1: self._stands_out, 2: log, 8: self._info_out}

    def begin(self, group: Group | None) -> str:
        """Ask for the fork. Returns why that cannot be; nothing when the server has been asked."""
        self.begun = True
        if not os.read(self.stands, 1):
            return "the sandbox did not start"
        pid = _child(os.read(self._info, 4096))
        self.status, status_out = os.pipe()
        namespaces = os.pidfd_open(pid)
        numbers = sorted(self.inside)
        handles = [status_out, namespaces, *(self.inside[number] for number in numbers)]
        folders = group.directories() if group is not None else []
        fault = _send(
            self.prepared["socket"],
            {**self.prepared["message"], "numbers": numbers, "cgroup": folders},
            handles,
        )
        for handle in set(handles):
            os.close(handle)
        return fault

    def ended(self) -> int | None:
        """Wait status of the run; None when nobody is left to tell it."""
        data = os.read(self.status, 4)
        return int.from_bytes(data, "little") if len(data) == 4 else None


def _child(info: bytes) -> int:
    """The pid of the sandbox's first process, from bubblewrap's JSON; `json` would cost more than the rest."""
    digits = info.partition(b'"child-pid"')[2].lstrip(b" :\n")
    return int(digits[: len(digits) - len(digits.lstrip(b"0123456789"))])


def _send(server: int, message: dict[str, Any], handles: list[int]) -> str:
    import _socket  # the C part alone: `socket` costs a tenth of the supervisor's start

    sender = _socket.socket(fileno=os.dup(server))
    rights = b"".join(handle.to_bytes(4, "little") for handle in handles)
    try:
        sender.sendmsg([marshal.dumps(message)], [(SOL_SOCKET, SCM_RIGHTS, rights)])
    except OSError as error:
        return f"fork server: {error}"
    finally:
        sender.close()
    return ""
