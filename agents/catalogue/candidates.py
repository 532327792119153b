"""All edits that could be proposed now, described but not yet made.

A `Candidate` names its parent, its operator and the program state it would lead to; making it
(`build`) gives the new files and the delta against the parent, or NotApplicable. Kinds:

    technique    one entry of the catalogue, with values for its constants
    combination  two entries at once, such as one that buys accuracy and one that spends it
    numbers      some constants of the surface, by a step nearby or by TPE
    crossover    what a trial off the leader's line changed, merged onto the leader
    undo         a change on the leader's own line, taken out again
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agents.catalogue import recipe_constants, tpe
from agents.catalogue.apply_technique import Applied, apply_technique, changed_numbers, draw
from agents.catalogue.memory import Delta, EditState, Memory, Trial
from agents.catalogue.technique import Catalogue, Range, Technique, Value
from agents.catalogue.three_way_merge import merge_files
from agents.catalogue.transform import NotApplicable
from agents.edits.config_keys import config_kind, owned, parts_of
from agents.edits.file_text import bytes_like, text_of
from agents.edits.search_replace import Files
from lineage.environment_spec import EnvironmentSpec, Role
from lineage.errors import EditRefused

PAIRS, STEPS, PORTS, UNDOS, VARIANTS = 12, 12, 6, 5, 4
# A combination of a technique with a trade is how bought accuracy is spent, so such pairs come first.


@dataclass(frozen=True)
class Parent:
    trial: Trial
    why: str
    files: Files
    state: EditState


@dataclass(frozen=True)
class Candidate:
    kind: str
    operator: str
    parent: Parent
    state: EditState
    techniques: tuple[Technique, ...] = ()
    values: tuple[dict[str, Value], ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    other: Trial | None = None
    by: str = ""


def owns(spec: EnvironmentSpec, role: Role, key: str) -> bool:
    """May the role change this number? `key` is `file:name`; a keyword's default `fit(lr)` is part of `fit`."""
    file, _, name = key.partition(":")
    unit = name.partition("(")[0]
    whole = unit.split(".")[0]
    for surface in spec.surfaces:
        listed = surface.units.get(file, [])
        if surface.name not in role.surfaces:
            continue
        if config_kind(file) and owned(listed, parts_of(name)):
            return True
        if {"*", name, unit, whole, f"{whole}.*"} & set(listed):
            return True
    return False


@dataclass(frozen=True)
class Setting:
    """What all candidates of one ask share."""

    spec: EnvironmentSpec
    role: Role
    catalogue: Catalogue
    memory: Memory
    files_of: Callable[[str], Files]
    start: Mapping[str, float]
    rng: random.Random
    seed: int

    def owns(self, key: str) -> bool:
        """May the role change this constant?"""
        return owns(self.spec, self.role, key)

    def numbers(self, files: Files) -> dict[str, recipe_constants.Number]:
        """The numbers to move: upper-case constants; without a catalogue every number that has a name."""
        return recipe_constants.numbers(files, every=self.catalogue.takes_every_number)

    def space(self, parent: Parent) -> dict[str, tuple[recipe_constants.Number, Range]]:
        """Constants of the surface in this source, with the range left by past failures."""
        bounds, out = self.memory.bounds, {}
        for key, number in self.numbers(parent.files).items():
            if self.owns(key):
                span = recipe_constants.range_of(number, self.catalogue.ranges)
                low, high = bounds.get(key, (span.low, span.high))
                low, high = max(low, span.low), min(high, span.high)
                if low < high:
                    span = span.model_copy(update={"low": low, "high": high})
                out[key] = (number, span)
        return out


def _added(parent: Parent, technique: Technique, values: Mapping[str, Value]) -> Delta:
    """The delta as far as it is known before the edit is made."""
    moved = [
        (key, parent.state.numbers.get(key), float(value))
        for key, value in values.items()
        if not isinstance(value, str)
    ]
    names = () if technique.repeatable and not technique.edits else (technique.name,)
    return Delta(names, tuple(moved))


def _values(setting: Setting, parent: Parent, technique: Technique) -> list[dict[str, Value]]:
    """Settings of the technique's constants to choose from: its own at first, then draws from the ranges."""
    memory, many = setting.memory, VARIANTS if technique.repeatable else 1
    first = f"technique:{technique.name}" not in memory.operators
    if frozenset([technique.name]) in memory.tried and technique.constants:
        first, many = False, max(many, 2)
    found: list[dict[str, Value]] = []
    for at in range(many):
        try:
            values = draw(
                technique,
                parent.files,
                setting.rng,
                first and not at,
                setting.catalogue.ranges,
                memory.bounds,
            )
        except NotApplicable:
            break
        if values not in found:
            found.append(values)
    return found


def techniques(setting: Setting, parent: Parent) -> list[Candidate]:
    out = []
    for technique in setting.catalogue.of(setting.role.surfaces):
        if technique.name in parent.state.techniques and not technique.repeatable:
            continue
        if technique.size > setting.role.max_changed_lines:
            continue
        for values in _values(setting, parent, technique):
            state = parent.state.plus(_added(parent, technique, values), "")
            out.append(
                Candidate("technique", f"technique:{technique.name}", parent, state, (technique,), (values,))
            )
    return out


def combinations(setting: Setting, singles: list[Candidate]) -> list[Candidate]:
    """Pairs of single candidates of one parent, those of a buyer and a spender first."""
    failed, out = setting.memory.failed_combinations(), list[Candidate]()
    pairs = list(itertools.combinations(singles, 2))
    setting.rng.shuffle(pairs)
    pairs.sort(key=lambda p: {p[0].techniques[0].aim, p[1].techniques[0].aim} != {"room", "trade"})
    for a, b in pairs[: 3 * PAIRS]:
        names = frozenset([a.techniques[0].name, b.techniques[0].name])
        if len(names) < 2 or names in failed or a.values[0].keys() & b.values[0].keys() or len(out) == PAIRS:
            continue
        first, second = sorted((a, b), key=lambda c: c.techniques[0].name)
        state = first.state.plus(_added(first.parent, second.techniques[0], second.values[0]), "")
        operator = "combine:" + "+".join(sorted(names))
        out.append(
            Candidate(
                "combination",
                operator,
                a.parent,
                state,
                (first.techniques[0], second.techniques[0]),
                (first.values[0], second.values[0]),
            )
        )
    return out


def _numbers(parent: Parent, setting: Setting, picked: Mapping[str, float], by: str) -> Candidate:
    present = setting.numbers(parent.files)
    moved = tuple((key, present[key].value, value) for key, value in sorted(picked.items()))
    operator = "numbers:" + ",".join(key.split(":")[1] for key, _, _ in moved)
    return Candidate(
        "numbers", operator, parent, parent.state.plus(Delta((), moved), ""), numbers=dict(picked), by=by
    )


def steps(setting: Setting, parent: Parent, count: int = STEPS) -> list[Candidate]:
    """Constants moved a little, one to three at a time."""
    space, out = setting.space(parent), []
    for _ in range(count if space else 0):
        keys = setting.rng.sample(sorted(space), min(len(space), setting.rng.choice((1, 1, 2, 3))))
        picked = {key: recipe_constants.step(*space[key], setting.rng) for key in keys}
        picked = {key: value for key, value in picked.items() if value != space[key][0].value}
        if picked:
            out.append(_numbers(parent, setting, picked, "a step nearby"))
    return out


def by_tpe(setting: Setting, parent: Parent, every: bool = False) -> list[Candidate]:
    """One to four constants where TPE would put them; all of them if `every`."""
    space = setting.space(parent)
    if not space:
        return []
    size = len(space) if every else min(len(space), setting.rng.choice((1, 2, 3, 4)))
    keys = setting.rng.sample(sorted(space), size)
    asked = tpe.ask(setting.memory, {key: space[key] for key in keys}, setting.start, setting.seed)
    picked = {key: value for key, value in asked[0].items() if value != space[key][0].value}
    known = len(setting.memory.trials) - 1
    return [_numbers(parent, setting, picked, f"TPE over {known} trials")] if picked else []


def _inside(setting: Setting, trial: Trial) -> bool:
    """Whether the trial's change lies in the role's surface, judged by the surfaces of the trial's own role."""
    if trial.role == setting.role.name:
        return True
    known = [
        setting.catalogue.get(name.lstrip("-")) for name in (trial.delta.techniques if trial.delta else ())
    ]
    moved = [key for key, _, _ in (trial.delta.numbers if trial.delta else ())]
    if trial.delta is None or not (known or moved):
        return False
    return all(t is not None and t.surface in setting.role.surfaces for t in known) and all(
        map(setting.owns, moved)
    )


def crossovers(setting: Setting, parent: Parent) -> list[Candidate]:
    """Changes that improved their own parent but are not on this line."""
    memory, line = setting.memory, {t.id for t in setting.memory.chain(parent.trial.id)}
    found = []
    for trial in memory.trials.values():
        origin = memory.trials.get(trial.parent)
        if trial.id in line or origin is None or origin.id == parent.trial.id or not trial.valid:
            continue
        if trial.gain is None or origin.gain is None or not _inside(setting, trial):
            continue
        better = trial.gain - origin.gain
        freed = min(trial.room.values(), default=0.0) - min(origin.room.values(), default=0.0)
        if better > 0.5 * memory.noise or (better > -0.05 and freed > 0.3):
            found.append((better + 0.1 * freed, trial))
    found.sort(key=lambda pair: -pair[0])
    return [
        Candidate("crossover", f"crossover:{t.id}", parent, parent.state.plus(t.delta, t.id), other=t)
        for _, t in found[:PORTS]
    ]


def _negated(delta: Delta | None, trial: str) -> Delta:
    if delta is None:
        return Delta(others=(f"-{trial}",))
    back = tuple(name[1:] if name.startswith("-") else f"-{name}" for name in delta.techniques)
    others = tuple(name[1:] if name.startswith("-") else f"-{name}" for name in delta.others)
    return Delta(back, tuple((key, new, old) for key, old, new in delta.numbers), others)


def undos(setting: Setting, parent: Parent) -> list[Candidate]:
    """Steps of the parent's own line that this role could take back, the smallest gains first."""
    memory, found = setting.memory, []
    for trial in memory.chain(parent.trial.id)[1:]:
        origin = memory.trials[trial.parent]
        if _inside(setting, trial) and trial.gain is not None and origin.gain is not None:
            found.append((trial.gain - origin.gain, trial))
    found.sort(key=lambda pair: pair[0])
    return [
        Candidate("undo", f"undo:{t.id}", parent, parent.state.plus(_negated(t.delta, t.id), ""), other=t)
        for _, t in found[:UNDOS]
    ]


# ---- making --------------------------------------------------------------------------------------


def build(setting: Setting, candidate: Candidate) -> tuple[Files, Delta]:
    """The new files and the delta, or NotApplicable."""
    parent = candidate.parent
    if candidate.kind in ("crossover", "undo"):
        return _merged(setting, candidate)
    files, names = dict(parent.files), list[str]()
    for technique, values in zip(candidate.techniques, candidate.values, strict=True):
        applied: Applied = apply_technique(technique, files, values)
        files = applied.files
        names += [technique.name] if technique.edits or not technique.repeatable else []
    for key, value in candidate.numbers.items():
        file, _, name = key.partition(":")
        try:
            text = recipe_constants.set_number(file, text_of(file, files[file]), name, value)
            files[file] = bytes_like(file, text, files[file])
        except EditRefused as error:
            raise NotApplicable(str(error)) from error
    moved = changed_numbers(setting.numbers(parent.files), setting.numbers(files))
    return files, Delta(tuple(names), tuple((key, old, new) for key, (old, new) in sorted(moved.items())))


def _merged(setting: Setting, candidate: Candidate) -> tuple[Files, Delta]:
    other = candidate.other
    assert other is not None
    origin, after = setting.files_of(other.parent), setting.files_of(other.id)
    if candidate.kind == "undo":
        origin, after = after, origin
    merged = merge_files(origin, candidate.parent.files, after)
    if merged is None:
        raise NotApplicable(f"{other.id} and {candidate.parent.trial.id} change the same lines")
    plain = (
        _negated(other.delta, other.id)
        if candidate.kind == "undo"
        else other.delta or Delta(others=(other.id,))
    )
    before, now = setting.numbers(candidate.parent.files), setting.numbers(merged)
    moved = [(key, old, new) for key, (old, new) in changed_numbers(before, now).items()]
    gone = [(key, number.value, None) for key, number in before.items() if key not in now]
    return merged, Delta(plain.techniques, tuple(sorted([*moved, *gone])), plain.others)
