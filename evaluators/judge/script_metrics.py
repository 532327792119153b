"""Figures of a script's run, read from what it printed and from the files that it left.

Use: `read_metrics(metrics, output, files)` with the file of the whole output and the folder of the sealed `{out}` gives
name -> value; `NoMetric` names the pattern or file that gave none, or says which value is not finite. Both are text of
a candidate: a pattern sees one line at a time, at most 4,096 characters of it, and all of them together ten seconds;
a file is read up to 4 MiB. The number is the longest one that begins where the pattern's group does, so that `1e-05`
never counts as 1; `nan` and `inf` in its place are found too, so that an earlier, better line does not stand in for
them. Limits: what `take = "last"` means is the order of the lines, whatever program of the run wrote them.
"""

from __future__ import annotations

import csv
import json
import math
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lineage.records import Number
from lineage.script_task import ScriptMetric

LINE, FILE_BYTES, PATTERN_S = 4096, 4 << 20, 10.0
NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|(?i:nan|inf(?:inity)?))")
NOT_FINITE = r"(?i:[+-]?(?:nan|inf(?:inity)?))"


class NoMetric(Exception):
    """A metric that the run did not give: `cause` is `no_metric` or `nan`, `numbers` name the metric and its source."""

    def __init__(self, metric: ScriptMetric, detail: str, cause: str = "no_metric") -> None:
        super().__init__(f"{metric.name}: {detail}")
        self.cause = cause
        self.numbers: dict[str, Number] = {
            "metric": metric.name,
            "source": metric.source,
            "detail": f"{metric.name}: {detail}",
        }


def read_metrics(metrics: Sequence[ScriptMetric], output: Path, files: Path) -> dict[str, float]:
    """Every metric's value. Raises NoMetric for the first that is missing or not finite."""
    found = _printed([metric for metric in metrics if metric.pattern], output)
    return {
        metric.name: _taken(metric, found[metric.name] if metric.pattern else _in_file(metric, files))
        for metric in metrics
    }


def _taken(metric: ScriptMetric, values: Sequence[float]) -> float:
    if metric.take in ("min", "max"):
        bad = next((value for value in values if not math.isfinite(value)), None)
        if bad is not None:
            raise NoMetric(metric, f"{metric.source} gave {bad}", "nan")
        return min(values) if metric.take == "min" else max(values)
    value = values[-1] if metric.take == "last" else values[0]
    if not math.isfinite(value):
        raise NoMetric(metric, f"the {metric.take} value of {metric.source} is {value}", "nan")
    return value


# ---- printed ----


def _printed(metrics: Sequence[ScriptMetric], output: Path) -> dict[str, list[float]]:
    """All values of each pattern, in the order of the lines; of each only the first, last, least and greatest are kept."""
    found: dict[str, list[float]] = {metric.name: [] for metric in metrics}
    if not metrics:
        return found
    patterns = [(metric, widened(metric.pattern)) for metric in metrics]
    with _at_most(PATTERN_S, metrics[0]):
        for line in lines(output):
            for metric, pattern in patterns:
                for match in pattern.finditer(line):
                    _note(found[metric.name], _number(line, match.start(1)))
    for metric in metrics:
        if not found[metric.name]:
            raise NoMetric(metric, f"no line of the output matches {metric.source}")
    return found


def _note(values: list[float], value: float | None) -> None:
    if value is None:
        return
    values.append(value)
    if len(values) > 1024:  # first and last, least and greatest, and one that is not finite decide
        odd = [v for v in values if not math.isfinite(v)][:1]
        kept = [v for v in values if math.isfinite(v)] or values
        values[:] = [values[0], *odd, min(kept), max(kept), values[-1]]


def lines(output: Path) -> Iterator[str]:
    """Lines of the output, split where the cursor returns too, each cut at `LINE` characters."""
    with output.open("rb") as handle:
        rest = b""
        while chunk := handle.read(1 << 16):
            *whole, rest = re.split(rb"[\r\n]", rest + chunk)
            for line in whole:
                yield line[:LINE].decode("utf-8", "replace")
            rest = rest[:LINE]
        yield rest[:LINE].decode("utf-8", "replace")


def _number(text: str, at: int) -> float | None:
    match = NUMBER.match(text, at) if at >= 0 else None
    return float(match.group()) if match else None


def widened(pattern: str) -> re.Pattern[str]:
    """The pattern with a group that takes `nan` and `inf` as well.

    >>> widened("val loss ([0-9.]+)").search("val loss nan").group(1)
    'nan'
    """
    at = _group(pattern)
    return re.compile(pattern if at < 0 else f"{pattern[:at]}({NOT_FINITE}|{pattern[at + 1 :]}")


def _group(pattern: str) -> int:
    """Where the one plain group of a pattern begins; -1 for a named one, whose values are taken as they are."""
    at, inside = 0, False
    while at < len(pattern):
        sign = pattern[at]
        if sign == "\\":
            at += 1
        elif inside:
            inside = sign != "]"
        elif sign == "[":
            inside = True
            at += 1 if pattern[at + 1 : at + 2] == "]" else 0
        elif sign == "(" and pattern[at + 1 : at + 2] != "?":
            return at
        at += 1
    return -1


@contextmanager
def _at_most(seconds: float, metric: ScriptMetric) -> Iterator[None]:
    """Ends a match that does not come to an end; `re` looks for signals while it works. Main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: Any) -> None:
        raise NoMetric(
            metric, f"the patterns took more than {seconds:g} s over the output; make them simpler"
        )

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- written ----


def _in_file(metric: ScriptMetric, files: Path) -> list[float]:
    path = files / metric.file
    if not path.is_file():
        there = (
            ", ".join(sorted(p.relative_to(files).as_posix() for p in files.rglob("*") if p.is_file())[:8])
            or "nothing"
        )
        raise NoMetric(metric, f"the run left no {metric.file} in {{out}}; there is {there}")
    size = path.stat().st_size
    if size > FILE_BYTES:
        raise NoMetric(metric, f"{metric.file} has {size:,} bytes; at most {FILE_BYTES:,} are read")
    text = path.read_text("utf-8", "replace")
    try:
        values = list(_table(metric, text))
    except (ValueError, RecursionError, csv.Error) as error:
        raise NoMetric(metric, f"{metric.file} is not readable: {str(error)[:200]}") from None
    if not values:
        raise NoMetric(metric, f"{metric.file} has no {metric.key!r}")
    return [_plain(metric, value) for value in values]


def _table(metric: ScriptMetric, text: str) -> Iterator[Any]:
    """The values of `key` in the order of the file."""
    if metric.file.endswith(".json"):
        value = _at(json.loads(text), metric.key)
        if value is not None:
            yield from value if isinstance(value, list) else [value]
    elif metric.file.endswith(".jsonl"):
        for line in text.splitlines():
            if line.strip() and (value := _at(json.loads(line), metric.key)) is not None:
                yield value
    else:
        rows = csv.DictReader(text.splitlines(), delimiter="\t" if metric.file.endswith(".tsv") else ",")
        for row in rows:
            if (value := row.get(metric.key)) not in (None, ""):
                yield value


def _at(value: Any, key: str) -> Any:
    """The value at a path such as `val.loss` or `epochs.-1.loss`; None where there is none."""
    if isinstance(value, dict) and key in value:
        return value[key]
    for part in key.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif (
            isinstance(value, list)
            and re.fullmatch(r"-?\d{1,9}", part)
            and -len(value) <= int(part) < len(value)
        ):
            value = value[int(part)]
        else:
            return None
    return value


def _plain(metric: ScriptMetric, value: Any) -> float:
    if isinstance(value, str):
        match = NUMBER.fullmatch(value.strip())
        value = float(match.group()) if match else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NoMetric(metric, f"{metric.file}:{metric.key} is {str(value)[:60]!r}, not a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf
