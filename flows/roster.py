"""Which roles a campaign runs: the environment's roster, a choice from it, or a control arm's."""

from __future__ import annotations

from flows.environments import Environment
from flows.settings import Settings
from lineage.errors import UnknownName
from lineage.spec import Role

GENERIC_COUNT_CAP = 10


def roster(environment: Environment, settings: Settings) -> tuple[Role, ...]:
    """Roles of the arm. Raises UnknownName for a role that the environment does not have.

    `generic` and `single` give every agent the whole recipe: as many identical generalists as there
    would be specialists, or one (arXiv 2605.05724 section 4.3).
    """
    known = environment.roles
    for name in settings.roles:
        if name not in known:
            raise UnknownName("role", name, known, f"roles of {environment.spec.name} are its surfaces")
    chosen = [known[name] for name in settings.roles] if settings.roles else list(known.values())
    if settings.arm not in ("generic", "single"):
        return tuple(chosen)
    everything = tuple(surface.name for surface in environment.spec.surfaces)
    count = 1 if settings.arm == "single" else min(len(chosen), GENERIC_COUNT_CAP)
    brief = "You may change any part of the recipe that a surface lists."
    names = ["generalist"] if count == 1 else [f"generalist{index + 1}" for index in range(count)]
    return tuple(Role(name=name, surfaces=everything, brief=brief) for name in names)
