"""Judge functions: the environment's judge.py, or the engine's own for a kind of task, and what they return.

    def judge(ask, split: Path, seed: int) -> dict[str, float | array | (array, array)]

Use: `program = load(spec, path)` once, then `program.run(ask, split, seed)` per predictor process; both only in the
judge's process. A value is a number; an array of one number per test item, whose mean is the quantity; or a pair
(values, weights) of such arrays, whose weighted mean is. Items are in an order that does not depend on the candidate
or the seed. A returned number that is not finite is the candidate's `nan`; anything else that judge.py does wrong is
a JudgeFault that names its line. Limits: judge.py is one file of at most 1 MiB, executed from the bytes that were
hashed; it may import what is installed beside Bakeoff, and files beside it are not part of the environment's hash.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any

import numpy as np

from evaluators.judge import task_judges
from evaluators.judge.ask import Ask
from evaluators.judge.item_scores import Items, one_run
from evaluators.judge.predictor_pipes import Broken
from lineage.environment_spec import COSTS, EnvironmentSpec
from lineage.errors import DataMissing, JudgeFault
from lineage.ids import sha256

FILE = "judge.py"
MOST_BYTES = 1 << 20
SEEDS = 2**31 - 1
Judge = Callable[[Ask, Path, int], Any]


@dataclass(frozen=True)
class Returned:
    """Quantities of one predictor process, and the items of those that are means over items."""

    quantities: Mapping[str, float]
    items: Mapping[str, Items]


@dataclass(frozen=True)
class Program:
    """A judge function and the file that its faults are looked for in; `path` is empty for the engine's own."""

    judge: Judge
    path: str = ""

    def run(self, ask: Ask, split: Path, seed: int) -> Returned:
        """Raises Broken for the candidate's fault, JudgeFault for judge.py's, DataMissing."""
        try:
            given = self.judge(ask, split, seed)
        except (Broken, DataMissing):
            raise
        except BaseException as error:
            if ask.broken is not None:  # it made another exception of the candidate's fault
                raise ask.broken from None
            raise self._fault(error) from error
        if ask.broken is not None:  # it caught the exception and went on
            raise ask.broken
        if ask.calls == 0:
            raise JudgeFault(f"{FILE}: judge returned without asking the candidate anything; call ask(...)")
        return returned(given)

    def _fault(self, error: BaseException) -> JudgeFault:
        return JudgeFault(f"{where(self.path, error.__traceback__)}: {type(error).__name__}: {error}")


def load(spec: EnvironmentSpec, path: Path | None) -> Program:
    """Raises JudgeFault for a judge.py that cannot be used, DataMissing for one that is not the one of the spec."""
    if spec.task.kind != "judge":
        return Program(task_judges.judge_of(spec.task))
    text = read(spec, path)
    try:
        code = compile(text, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise JudgeFault(f"{FILE} line {line}: {type(error).__name__}: {error.args[0]}") from None
    return Program(_function(code, str(path), text), str(path))


def check(spec: EnvironmentSpec, path: Path | None) -> None:
    """Raise DataMissing unless judge.py, where there is one, is that of the spec."""
    if spec.task.kind == "judge":
        read(spec, path)


def read(spec: EnvironmentSpec, path: Path | None) -> bytes:
    """The bytes of judge.py, if they are those that the spec names."""
    if path is None:
        raise DataMissing(
            f"{spec.name}: its {FILE} is not known here; keep the environment's folder where it was"
        )
    try:
        with path.open("rb") as handle:
            text = handle.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataMissing(
            f'{path}: cannot be read ({error.strerror}); a task of kind "judge" needs this file, see recipes/README.md'
        ) from None
    if len(text) > MOST_BYTES:
        raise DataMissing(f"{path}: over {MOST_BYTES} bytes; put data into the prepared splits")
    found = sha256(text)
    if found != spec.judge_sha256:
        raise DataMissing(
            f"{path}: was changed: it hashes to {found[:12]}, this campaign or calibration has {spec.judge_sha256[:12]}; "
            "scores of two judges do not compare: restore the file, or start a new campaign"
        )
    return text


def _function(code: CodeType, path: str, text: bytes) -> Judge:
    names: dict[str, Any] = {"__name__": "judge", "__file__": path}
    linecache.cache[path] = (len(text), None, text.decode("utf-8", "replace").splitlines(True), path)
    try:
        exec(code, names)
    except BaseException as error:
        raise JudgeFault(f"{where(path, error.__traceback__)}: {type(error).__name__}: {error}") from error
    found = names.get("judge")
    if not callable(found):
        raise JudgeFault(f"{FILE}: defines no function `judge(ask, split, seed)`")
    function: Judge = found
    return function


def where(path: str, trace: TracebackType | None) -> str:
    """The innermost line of judge.py in a traceback, with its text."""
    line = 0
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == path else line
        trace = trace.tb_next
    if not line:
        return FILE if path else "the task's judge"
    return f"{FILE} line {line} (`{linecache.getline(path, line).strip()[:100]}`)"


def returned(given: Any) -> Returned:
    """Check what a judge function returned. Raises JudgeFault, and Broken("nan") for a number that is not finite."""
    if not isinstance(given, Mapping) or not given:
        raise JudgeFault(f"{FILE}: judge returned {type(given).__name__}, need a dict of names to numbers")
    quantities: dict[str, float] = {}
    items: dict[str, Items] = {}
    for name, value in given.items():
        if not isinstance(name, str) or not name.isidentifier() or name in COSTS or len(name) > 60:
            reason = "a name of the engine's own" if name in COSTS else "no plain name"
            raise JudgeFault(f"{FILE}: judge returned the quantity {name!r}, which is {reason}; rename it")
        held = _items(name, value)
        if held is not None:
            items[name], quantities[name] = held, float(held.means[0])
        else:
            quantities[name] = _number(name, value)
        if not np.isfinite(quantities[name]):
            raise Broken("nan", f"the judge's {name} is {quantities[name]} for these answers", quantity=name)
    return Returned(quantities, items)


def _items(name: str, value: Any) -> Items | None:
    """Items of a quantity that is given as an array, or as a pair of values and weights; None for a number."""
    pair = value if isinstance(value, tuple) else (value,)
    if not isinstance(pair[0], np.ndarray) or pair[0].ndim == 0:
        return None
    arrays = [np.asarray(one) for one in pair]
    shapes = {one.shape for one in arrays}
    if len(arrays) > 2 or len(shapes) != 1 or arrays[0].ndim != 1 or arrays[0].size == 0:
        raise JudgeFault(
            f"{FILE}: the items of {name} have shapes {[one.shape for one in arrays]}; need one axis, or (values, weights) "
            "of equal length"
        )
    if any(one.dtype.kind not in "biuf" for one in arrays):
        raise JudgeFault(
            f"{FILE}: the items of {name} are {[str(one.dtype) for one in arrays]}, need numbers"
        )
    if not np.isfinite(arrays[0].astype(np.float64)).all():
        raise Broken("nan", f"the judge's items of {name} are not finite for these answers", quantity=name)
    if len(arrays) == 2 and not (
        np.isfinite(arrays[1]).all() and (arrays[1] >= 0).all() and arrays[1].sum() > 0
    ):
        raise JudgeFault(f"{FILE}: the weights of {name} must be finite, none negative, and not all zero")
    return one_run(arrays[0], arrays[1] if len(arrays) == 2 else None)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise JudgeFault(
            f"{FILE}: judge returned {type(value).__name__} for {name}, need a number or an array of numbers"
        ) from None


def wanted(spec: EnvironmentSpec) -> tuple[str, ...]:
    """Names that the environment relies on: the metric, then those of the gates."""
    return tuple(dict.fromkeys([spec.score.metric, *(gate.quantity for gate in spec.gates)]))


def unknown(spec: EnvironmentSpec, name: str, found: Iterable[str]) -> str:
    """The sentence about a name that the judge does not give."""
    place = "[score] metric" if name == spec.score.metric else "a gate's quantity"
    return (
        f"{spec.name}: {place} is {name!r}, but the judge gives {', '.join(sorted(found)) or 'nothing'} and the costs "
        f"({', '.join(COSTS[:4])}, ...); correct the name in environment.toml, or return it from {FILE}"
    )


def seed_of(spec: EnvironmentSpec, split: str, files: Mapping[str, Mapping[str, Any]], seed: int) -> int:
    """The seed that the judge function gets for the run of `seed`, the same in every process that answers it.

    Training knows its own seed, so that one would give away what is drawn with it; hashes of the judge's own files
    are known to no candidate.
    """
    hidden = "".join(
        files[name]["sha256"] for name in sorted(files) if name.startswith(("public/", "sealed/"))
    )
    return int(sha256(f"{spec.judge_sha256}|{hidden}|{split}|{seed}".encode())[:15], 16) % SEEDS
