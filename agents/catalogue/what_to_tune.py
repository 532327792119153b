"""What the embedded proposer found to move in a recipe, by role: numbers in any form, and techniques; in lines for people.

Use: `tunable(spec, roles, techniques, files)`, and `lines(found)`. It is what the first proposal starts from. Limits:
what is found later, in code that an edit brings, is not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.catalogue.candidates import owns
from agents.catalogue.general_catalogue import general
from agents.catalogue.recipe_constants import numbers
from agents.catalogue.technique import load_catalogue
from lineage.environment_spec import EnvironmentSpec, Role

SHOWN = 8


@dataclass(frozen=True)
class Tunable:
    """Of one role: `file:name = value` of its numbers, and the names of its techniques. `general`: of any recipe."""

    role: str
    numbers: tuple[str, ...]
    techniques: tuple[str, ...]
    general: bool


def tunable(
    spec: EnvironmentSpec, roles: Sequence[Role], techniques: Path, files: Mapping[str, bytes]
) -> list[Tunable]:
    """Raises SpecInvalid for a broken catalogue."""
    catalogue = load_catalogue(techniques)
    if catalogue.is_empty:
        catalogue = general(spec, dict(files))
    known = numbers(files, every=catalogue.takes_every_number)
    return [
        Tunable(
            role.name,
            tuple(f"{key} = {number.value:g}" for key, number in known.items() if owns(spec, role, key)),
            tuple(technique.name for technique in catalogue.of(tuple(role.surfaces))),
            catalogue.general,
        )
        for role in roles
    ]


def lines(found: Sequence[Tunable]) -> list[str]:
    """One sentence a role, and one about a missing catalogue."""
    told = []
    for one in found:
        parts = [_list("number", one.numbers), _list("technique", one.techniques)]
        some = [part for part in parts if part]
        told.append(
            f"role {one.role}: the embedded proposer can move {'; '.join(some)}"
            if some
            else f"role {one.role}: the embedded proposer found nothing to move: no number with a name and no known code in "
            "its surfaces; give constants names, write techniques/*.toml, or use --proposer anthropic"
        )
    if any(one.general for one in found):
        told.append(
            "there is no techniques/ here, so the techniques are those that fit any training loop; entries of your own: "
            "recipes/README.md"
        )
    return told


def _list(word: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {word}{'s' if len(names) > 1 else ''} ({', '.join(names[:SHOWN])}{more})"
