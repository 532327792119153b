"""The roster of a campaign: which roles take part, from their briefs and the arm.

A brief is Markdown with a TOML head between two `+++` lines (`surfaces`, `max_changed_lines`); flows
reads the files and passes the texts in. The arms differ as in the paper's controls and by nothing else:

    specialists   one role per brief, lineage shown
    no_lineage    the same roles and briefs, lineage hidden (see agents.llm.prompt)
    generic       as many copies of one generalist as there are briefs, lineage shown
    single        that generalist once; its prompt is the same byte for byte
    random        the specialists' roster, played by a proposer that draws uniformly

The generalist's brief is `generalist.md` of the environment, or the one shipped in agents/llm/prompts.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from pydantic import ValidationError

from lineage.environment_spec import EnvironmentSpec, Role
from lineage.errors import SpecInvalid, UnknownName
from lineage.ids import canonical_json, sha256

ARMS = ("specialists", "generic", "single", "no_lineage", "random")
GENERALIST = "generalist"
BRIEF_LIMIT = 6_000
_HEAD = re.compile(r"\A\+\+\+[ \t]*\n(?P<toml>.*?)^\+\+\+[ \t]*\n(?P<brief>.*)\Z", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Roster:
    """`sha256` covers names, surfaces, radius and briefs: what a campaign records of its roles."""

    arm: str
    roles: tuple[Role, ...]
    sha256: str

    def role(self, name: str) -> Role:
        for role in self.roles:
            if role.name == name:
                return role
        raise UnknownName("role", name, [r.name for r in self.roles], hint=f"arm {self.arm}")


def is_generalist(role: str) -> bool:
    """True for `generalist` and its numbered copies, which are one and the same role."""
    return re.fullmatch(rf"{GENERALIST}(_?\d+)?", role) is not None


def load_role(spec: EnvironmentSpec, name: str, text: str) -> Role:
    """A role from its brief; raises SpecInvalid or UnknownName, which name the file and the key."""
    where = f"roles/{name}.md of {spec.name}"
    match = _HEAD.match(text.replace("\r\n", "\n"))
    if match is None:
        raise SpecInvalid(
            f"{where}: no head; begin with a +++ line, `surfaces = [...]`, and another +++ line"
        )
    try:
        head = tomllib.loads(match["toml"])
    except tomllib.TOMLDecodeError as e:
        raise SpecInvalid(f"{where}: the head is not TOML: {e}") from e
    brief = match["brief"].strip()
    if not 1 <= len(brief) <= BRIEF_LIMIT:
        raise SpecInvalid(f"{where}: the brief has {len(brief)} characters; 1 to {BRIEF_LIMIT} are allowed")
    known = [s.name for s in spec.surfaces]
    surfaces = head.get("surfaces", known if is_generalist(name) else None)
    if not isinstance(surfaces, list) or not surfaces:
        raise SpecInvalid(f"{where}: `surfaces` must list at least one of {known}")
    for surface in surfaces:
        if surface not in known:
            raise UnknownName("surface", str(surface), known, hint=f"in {where}")
    try:
        return Role.model_validate({**head, "name": name, "surfaces": tuple(surfaces), "brief": brief})
    except ValidationError as e:
        first = e.errors()[0]
        raise SpecInvalid(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from e


def generalist(spec: EnvironmentSpec, texts: Mapping[str, str], max_changed_lines: int = 200) -> Role:
    """The one generalist of the control arms: every surface, one brief."""
    if GENERALIST in texts:
        return load_role(spec, GENERALIST, texts[GENERALIST])
    brief = files("agents.llm").joinpath("prompts", "generalist.md").read_text("utf-8").strip()
    surfaces = tuple(s.name for s in spec.surfaces)
    return Role(name=GENERALIST, surfaces=surfaces, brief=brief, max_changed_lines=max_changed_lines)


def build_roster(spec: EnvironmentSpec, texts: Mapping[str, str], arm: str = "specialists") -> Roster:
    """The roles of one arm. `texts`: file stem -> content of `roles/*.md`."""
    specialists = [load_role(spec, name, texts[name]) for name in sorted(texts) if name != GENERALIST]
    radius = max([r.max_changed_lines for r in specialists], default=200)
    roles = arm_roles(specialists, generalist(spec, texts, radius), arm)
    if not roles:
        raise SpecInvalid(f"{spec.name} has no role briefs; write roles/NAME.md beside environment.toml")
    return Roster(arm, roles, roster_sha256(roles))


def arm_roles(specialists: Sequence[Role], one: Role, arm: str) -> tuple[Role, ...]:
    """The roster of an arm: the specialists, or copies of the one generalist that differ in name only."""
    if arm not in ARMS:
        raise UnknownName("arm", arm, ARMS)
    if arm == "single":
        return (one.model_copy(update={"name": GENERALIST}),)
    if arm == "generic":
        copies = range(1, len(specialists) + 1)
        return tuple(one.model_copy(update={"name": f"{GENERALIST}_{n}"}) for n in copies)
    return tuple(specialists)


def roster_sha256(roles: Sequence[Role]) -> str:
    """Hash over names, surfaces, radius and briefs."""
    return sha256(canonical_json([role.model_dump(mode="json") for role in roles]))
