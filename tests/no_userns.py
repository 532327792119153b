"""Runs a command as in a container that refuses user namespaces: Docker's and Kubernetes' default.

Use: `python tests/no_userns.py COMMAND...`. The kernel refuses as Docker's default seccomp profile does: unshare, setns
and clone with a flag for a new namespace fail with EPERM, clone3 with ENOSYS. So every bubblewrap fails, the
system's and the wheel's. Limits: file systems, /proc and control groups stay as they are.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluators.judge.sandbox import kernel

NAMESPACE_CALLS = ("unshare", "setns", "mount", "pivot_root")


def program() -> bytes:
    allowed = kernel._RET, 0, 0, kernel._ALLOW
    refused, unknown = (kernel._RET, 0, 0, kernel._EPERM), (kernel._RET, 0, 0, kernel._ENOSYS)
    column, _ = kernel._MACHINES[os.uname().machine]
    rows = [(kernel._LOAD, 0, 0, 0), (kernel._JEQ, 0, 1, kernel._CLONE3[column]), unknown]
    rows += [(kernel._JEQ, 0, 4, kernel._CLONE[column]), (kernel._LOAD, 0, 0, 16)]
    rows += [(kernel._JSET, 0, 1, kernel._NEW_NAMESPACES), refused, allowed]
    for name in NAMESPACE_CALLS:
        rows += [(kernel._JEQ, 0, 1, kernel.DENIED[name][column]), refused]
    return b"".join(struct.pack("HBBI", *row) for row in [*rows, allowed])


def main() -> None:
    code = program()
    buffer = ctypes.create_string_buffer(code, len(code))
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    head = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    if ctypes.CDLL(None, use_errno=True).prctl(kernel.PR_SET_SECCOMP, 2, head, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the filter was not taken")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
