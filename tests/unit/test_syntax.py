"""Parsing in several threads at once, as the lanes of a campaign do."""

from __future__ import annotations

import ast
import gc
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lineage.python_ast import parse

SOURCE = Path(ast.__file__).read_text("utf-8")


class Cycle:
    """Garbage with a finalizer, so that a collection in mid parse lets another thread in."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        sum(range(300))


@pytest.fixture
def restless() -> Iterator[None]:
    """Collections and thread switches far more often than usual."""
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(5, 2, 2)
    sys.setswitchinterval(1e-6)
    yield
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)


def crashes(work: Callable[[str], ast.Module]) -> int:
    def thread(_: int) -> int:
        failed = 0
        for _ in range(25):
            _garbage = [Cycle() for _ in range(20)]
            try:
                work(SOURCE)
            except SystemError:
                failed += 1
        return failed

    with ThreadPoolExecutor(6) as pool:
        return sum(pool.map(thread, range(6)))


def test_threads_that_parse_together_do_not_fail_each_other(restless: None) -> None:
    """`ast.parse` alone fails here on CPython 3.11 about once in 60 calls."""
    assert crashes(parse) == 0


def test_a_syntax_error_names_the_file_and_frees_the_lock() -> None:
    for _ in range(2):
        with pytest.raises(SyntaxError) as error:
            parse("def (", "train.py")
        assert error.value.filename == "train.py"
