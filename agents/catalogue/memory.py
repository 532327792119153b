"""The catalogue proposer's memory, read from lineage: effects of trials, room to the limits, failures.

`Memory.of(view, spec)` reads the rows once. Everything is taken from them: a trial of this proposer
writes in its notes one line `delta: {...}` with the techniques and numbers that it changed against its
parent, so the state of any trial is the sum of the deltas along its chain; trials of other proposers
count as one unknown effect that their descendants share. Units that all environments have in common:

    gain     natural logarithm of the score against the start (relative difference where a score can be
             negative), positive is better
    room     per limit (gate, artifact bytes, CPU seconds): distance to it in units of the distance
             at the start, negative when missed
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from lineage.environment_spec import EnvironmentSpec
from lineage.records import Row, Status

if TYPE_CHECKING:
    from lineage.queries import View

VALID = (Status.BASELINE, Status.KEEP, Status.DISCARD)
# Causes that mean "too much of something": the number that was raised or lowered goes back.
TOO_MUCH = ("oom", "oversize", "nan", "cpu_cap", "wall_cap")
# Causes that speak of the code and not of its size.
BROKEN = (
    "crash",
    "smoke",
    "import",
    "syntax",
    "segfault",
    "no_artifact",
    "no_metric",
    "not_causal",
    "bad_edit",
    "outside_surface",
)
_DELTA = re.compile(r"^delta: (\{.*\})$", re.MULTILINE)


@dataclass(frozen=True)
class Delta:
    """What a trial changed against its parent: techniques added (or "-name" taken out), numbers moved.

    A number without an old value is new, one without a new value is gone.
    """

    techniques: tuple[str, ...] = ()
    numbers: tuple[tuple[str, float | None, float | None], ...] = ()
    others: tuple[str, ...] = ()

    def line(self) -> str:
        """The line that goes into the notes."""
        moved = {key: [old, new] for key, old, new in self.numbers}
        body: dict[str, object] = {"t": list(self.techniques), "n": moved}
        if self.others:
            body["x"] = list(self.others)
        return "delta: " + json.dumps(body, separators=(",", ":"))


@lru_cache(maxsize=8192)
def parse_delta(notes: str) -> Delta | None:
    """The delta in a trial's notes; None when there is none or another proposer wrote the notes."""
    found = _DELTA.search(notes)
    if found is None:
        return None
    try:
        body = json.loads(found.group(1))
        numbers = tuple(
            (str(key), None if old is None else float(old), float(new))
            for key, (old, new) in body["n"].items()
        )
        return Delta(tuple(map(str, body["t"])), numbers, tuple(map(str, body.get("x", ()))))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


@dataclass(frozen=True)
class Trial:
    """One row, reduced to what choices depend on."""

    id: str
    parent: str
    role: str
    operator: str
    status: Status
    cause: str
    score: float | None
    gain: float | None
    room: Mapping[str, float]
    delta: Delta | None
    order: int
    verdict: str

    @property
    def over(self) -> bool:
        """Ended by too much of something: memory, bytes, seconds, or a rate that blew up."""
        return self.cause.partition(":")[0] in TOO_MUCH

    @property
    def valid(self) -> bool:
        return self.status in VALID

    @property
    def broken(self) -> bool:
        return self.cause.partition(":")[0] in BROKEN


@dataclass(frozen=True)
class EditState:
    """A program as the sum of its chain: techniques present, numbers, unknown edits."""

    techniques: frozenset[str] = frozenset()
    numbers: Mapping[str, float] = field(default_factory=dict)
    others: frozenset[str] = frozenset()

    def plus(self, delta: Delta | None, trial: str) -> EditState:
        if delta is None:
            return EditState(self.techniques, self.numbers, self.others | {trial})
        numbers = self.numbers
        if delta.numbers:
            numbers = {**numbers, **{key: new for key, _, new in delta.numbers if new is not None}}
            for key, _, new in delta.numbers:
                if new is None:
                    numbers.pop(key, None)
        return EditState(_with(self.techniques, delta.techniques), numbers, _with(self.others, delta.others))


def _with(present: frozenset[str], said: tuple[str, ...]) -> frozenset[str]:
    """The names that are there afterwards; `-name` takes one out."""
    out = present
    for name in said:
        out = out - {name[1:]} if name.startswith("-") else out | {name}
    return out


@lru_cache(maxsize=8192)
def _mapping(text: str) -> Mapping[str, object]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _rooms(row: Row, spec: EnvironmentSpec) -> dict[str, float]:
    """Limit -> distance to it as measured; negative when missed; only limits in the row."""
    if row.numbers_json == "{}":
        return {}
    said = {k: float(v) for k, v in _mapping(row.numbers_json).items() if isinstance(v, int | float)}
    missed = str(_mapping(row.numbers_json).get("gate", "")) if row.cause == "gate_missed" else ""
    out: dict[str, float] = {}
    for gate in spec.gates:
        if f"{gate.quantity}_to_spare" in said:
            out[gate.quantity] = said[f"{gate.quantity}_to_spare"]
        elif missed == gate.quantity and "short_by" in said:
            out[gate.quantity] = -abs(said["short_by"])
    if "bytes_to_spare" in said:
        out["artifact_bytes"] = said["bytes_to_spare"]
    elif "bytes_over" in said:
        out["artifact_bytes"] = -said["bytes_over"]
    for name in ("train_cpu", "predict_cpu"):
        if f"{name}_to_spare_s" in said:
            out[name] = said[f"{name}_to_spare_s"]
        elif f"{name}_over_s" in said:
            out[name] = -max(said[f"{name}_over_s"], 0.0)
    return out


@dataclass
class Memory:
    """Trials by id, in lineage order, with their states; what is asked once per candidate is counted once."""

    sign: int
    trials: dict[str, Trial] = field(default_factory=dict)
    states: dict[str, EditState] = field(default_factory=dict)
    start: Trial | None = None
    leader: Trial | None = None
    incumbent: Trial | None = None
    relative: bool = True
    scales: dict[str, float] = field(default_factory=dict)
    noise: float = 0.03

    @classmethod
    def of(cls, view: View, spec: EnvironmentSpec) -> Memory:
        memory = cls(sign=spec.sign)
        rows = [row for row in view.trials() if row.status not in (None, Status.HARNESS_ABORT)]
        base = next((row for row in rows if row.status is Status.BASELINE and row.score is not None), None)
        scores = [row.score for row in rows if row.score is not None]
        memory.relative = bool(scores) and min(scores) > 0
        rooms = _rooms(base, spec) if base else {}
        memory.scales = {name: max(abs(room), 1e-12) for name, room in rooms.items()}
        if base is not None and base.noise_sd is not None and base.score:
            memory.noise = min(0.2, max(1e-4, base.noise_sd / abs(base.score)))
        for order, row in enumerate(rows):
            memory._add(row, order, base, spec, view.ranking.fresh.get(row.trial or "", row.score))
        memory.start = memory.trials.get(base.trial or "") if base else None
        leader, incumbent = view.row_of_leader(), view.row_of_incumbent()
        memory.leader = memory.trials.get(leader.trial or "") if leader else memory.start
        memory.incumbent = memory.trials.get(incumbent.trial or "") if incumbent else memory.start
        return memory

    def gain_of(self, score: float, base: float) -> float:
        if self.relative:
            return self.sign * math.log(score / base)
        return self.sign * (score - base) / max(abs(base), 1e-9)

    def score_after(self, score: float, more_gain: float) -> float:
        """The score that lies `more_gain` beyond another one."""
        if self.relative:
            return score * math.exp(self.sign * more_gain)
        base = abs(self.start.score) if self.start and self.start.score else 1.0
        return score + self.sign * more_gain * max(base, 1e-9)

    def _add(
        self, row: Row, order: int, base: Row | None, spec: EnvironmentSpec, score: float | None
    ) -> None:
        """`score`: the mean of the trial's fresh replicates where it has been tested, else as measured."""
        if row.trial is None or row.status is None:
            return
        scored = score is not None and base is not None and base.score is not None
        gain = self.gain_of(score or 0.0, base.score or 0.0) if scored and base else None
        room = {
            name: value / self.scales.setdefault(name, max(abs(value), 1e-12))
            for name, value in _rooms(row, spec).items()
        }
        trial = Trial(
            id=row.trial,
            parent=row.parent or "",
            role=row.role or "",
            operator=row.operator or "",
            status=row.status,
            cause=row.cause or "",
            score=score,
            gain=gain,
            room=room,
            delta=parse_delta(row.notes) if row.notes else None,
            order=order,
            verdict=row.verdict or "",
        )
        self.trials[trial.id] = trial
        before = self.states.get(trial.parent)
        if trial.status is Status.BASELINE or before is None:
            self.states[trial.id] = EditState()
        else:
            self.states[trial.id] = before.plus(trial.delta, trial.id)

    # ---- questions -------------------------------------------------------------------------------

    def chain(self, trial: str) -> list[Trial]:
        """From the root to this trial."""
        path: list[Trial] = []
        seen: set[str] = set()
        while trial in self.trials and trial not in seen:
            seen.add(trial)
            path.append(self.trials[trial])
            trial = self.trials[trial].parent
        return path[::-1]

    @cached_property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """Bounds on numbers from failures of "too much": key -> (low, high). A later valid value removes a bound."""
        low: dict[str, float] = {}
        high: dict[str, float] = {}
        for trial in self.trials.values():
            moved = trial.delta.numbers if trial.delta else ()
            if trial.over:
                for key, old, new in moved:
                    if old is None or new is None or old == new:
                        continue
                    middle = math.sqrt(old * new) if old > 0 and new > 0 else (old + new) / 2
                    if new > old:
                        high[key] = min(high.get(key, math.inf), middle)
                    else:
                        low[key] = max(low.get(key, -math.inf), middle)
            elif trial.valid:
                for key, _, new in moved:
                    if key in high and new is not None:
                        high[key] = max(high[key], new)
                    if key in low and new is not None:
                        low[key] = min(low[key], new)
        return {key: (low.get(key, -math.inf), high.get(key, math.inf)) for key in {*low, *high}}

    @cached_property
    def operators(self) -> frozenset[str]:
        """Every operator that was used, in any trial."""
        return frozenset(trial.operator for trial in self.trials.values())

    @cached_property
    def tried(self) -> frozenset[frozenset[str]]:
        """The sets of techniques that were added by one trial."""
        return frozenset(frozenset(t.delta.techniques) for t in self.trials.values() if t.delta)

    def failed_combinations(self) -> set[frozenset[str]]:
        """Sets of two or more techniques that broke when they came together."""
        out = set()
        for trial in self.trials.values():
            names = frozenset(trial.delta.techniques) if trial.delta else frozenset()
            if len(names) > 1 and (trial.broken or trial.over):
                out.add(names)
        return out

    def breakage(self) -> dict[str, tuple[int, int]]:
        """Technique -> (times it broke, times it was tried); under "" the sums over all techniques."""
        broke, tried = Counter[str](), Counter[str]()
        for trial in self.trials.values():
            for name in trial.delta.techniques if trial.delta else ():
                if not name.startswith("-"):
                    tried.update((name, ""))
                    broke.update((name, "") if trial.broken else ())
        return {name: (broke[name], count) for name, count in tried.items()}
