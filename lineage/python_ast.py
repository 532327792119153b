"""Python source to its syntax tree, one thread at a time.

Use: `parse(source)` in place of `ast.parse`. CPython counts the depth of the tree under construction for all
threads together (github.com/python/cpython/issues/106905, in 3.11 still): when the garbage collector lets
another thread in and that one parses too, both may end in a SystemError, which is no fault of the source.
"""

from __future__ import annotations

import ast
import threading

_ONE_AT_A_TIME = threading.Lock()


def parse(source: str | bytes, filename: str = "<unknown>") -> ast.Module:
    """Raises what `ast.parse` does: SyntaxError, ValueError, RecursionError, MemoryError."""
    with _ONE_AT_A_TIME:
        return ast.parse(source, filename)
