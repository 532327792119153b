"""The text of a proposal: a hypothesis with its evidence, and notes that the proposer can parse again.

The hypothesis is one or two sentences: what changes, on which trial, why it should help, and which
earlier trials speak for it. The notes name the choice of parent and the forecast, and end with the
`delta:` line from which `agents.catalogue.memory` rebuilds the state of the program.
"""

from __future__ import annotations

from agents.catalogue.candidates import Candidate
from agents.catalogue.memory import Delta, Memory, Trial
from agents.catalogue.surrogate import Forecast

EVIDENCE = 3


def percent(gain: float) -> str:
    return f"{100 * gain:+.1f} %"


def outcome(memory: Memory, trial: Trial) -> str:
    """`t0007 (+1.2 %, discard)` or `t0009 (gate_missed)`; the gain is against its parent, + is better."""
    origin = memory.trials.get(trial.parent)
    if trial.valid and trial.gain is not None and origin is not None and origin.gain is not None:
        return f"{trial.id} ({percent(trial.gain - origin.gain)}, {trial.status.value})"
    return f"{trial.id} ({trial.cause or trial.status.value})"


def _lower(text: str) -> str:
    """A title inside a sentence; names such as ReLU keep their capitals."""
    first = text.split(" ", 1)[0]
    return text if any(c.isupper() for c in first[1:]) else text[0].lower() + text[1:]


def _values(candidate: Candidate, delta: Delta) -> str:
    moved = [
        f"{key.split(':')[1]} {new:g}" if old is None else f"{key.split(':')[1]} {old:g} -> {new:g}"
        for key, old, new in delta.numbers
        if new is not None
    ]
    return ", ".join(moved[:6])


def _same_direction(memory: Memory, delta: Delta) -> list[Trial]:
    """Earlier trials that moved one of these numbers the same way, best first."""
    ways = {key: new > old for key, old, new in delta.numbers if old is not None and new is not None}
    found: list[tuple[float, Trial]] = []
    for trial in memory.trials.values():
        origin = memory.trials.get(trial.parent)
        if (
            trial.delta is None
            or trial.gain is None
            or origin is None
            or origin.gain is None
            or not trial.valid
        ):
            continue
        for key, old, new in trial.delta.numbers:
            if old is not None and new is not None and key in ways and (new > old) == ways[key]:
                found.append((trial.gain - origin.gain, trial))
                break
    return [trial for _, trial in sorted(found, key=lambda pair: -pair[0])]


def evidence(memory: Memory, candidate: Candidate, delta: Delta) -> list[Trial]:
    names = [t.name for t in candidate.techniques]
    with_technique = [t for t in memory.trials.values() if t.delta and set(names) & set(t.delta.techniques)]
    if candidate.kind == "numbers" or not with_technique:
        return _same_direction(memory, delta)[:EVIDENCE]
    return with_technique[-EVIDENCE:]


def _room(candidate: Candidate) -> str:
    room = candidate.parent.trial.room
    if not room:
        return ""
    name = min(room, key=lambda key: room[key])
    return f"{candidate.parent.trial.id} keeps {100 * room[name]:.0f} % of the start's room for {name}"


def hypothesis(memory: Memory, candidate: Candidate, delta: Delta) -> str:
    parent = candidate.parent.trial.id
    seen = evidence(memory, candidate, delta)
    earlier = "; ".join(outcome(memory, trial) for trial in seen)
    values = _values(candidate, delta)
    if candidate.kind == "numbers":
        text = f"{values} on {parent}: {candidate.by}"
        text += f"; the same direction gave {earlier}." if earlier else "; this direction is new."
    elif candidate.kind in ("crossover", "undo"):
        other = candidate.other
        assert other is not None
        if candidate.kind == "crossover":
            text = (
                f"What {outcome(memory, other)} changed ({_named(other)}) goes onto {parent}, which lacks it."
            )
        else:
            text = f"{parent} without what {outcome(memory, other)} changed ({_named(other)}): later steps may have made it needless."
    else:
        parts = [f"{_lower(t.title)}, as {t.why}" for t in candidate.techniques]
        text = f"On {parent}: {'; together with '.join(parts)}{f' ({values})' if values else ''}."
        if earlier:
            text += f" Tried before: {earlier}; {_room(candidate) or 'the parent is another one now'}."
    return text[:2000]


def _named(trial: Trial) -> str:
    if trial.delta is None:
        return trial.operator or "an edit of another proposer"
    moved = [key.split(":")[1] for key, _, _ in trial.delta.numbers]
    return ", ".join([*trial.delta.techniques, *moved]) or trial.operator


def notes(candidate: Candidate, delta: Delta, forecast: Forecast | None, against: float, arm: str) -> str:
    """Parent and why, forecast, sources, and the machine-readable line."""
    lines = [f"parent {candidate.parent.trial.id}: {candidate.parent.why}; chosen by {arm}"]
    if forecast is not None:
        room = ", ".join(f"{name} {100 * value:.0f} %" for name, value in sorted(forecast.room.items()))
        lines.append(
            f"forecast against the parent: {percent(forecast.gain - against)}, give or take {100 * forecast.spread:.1f} %"
            + (f"; room left: {room}" if room else "")
        )
    lines += [f"source of {t.name}: {t.source}" for t in candidate.techniques]
    return "\n".join([*lines, delta.line()])[:8000]
