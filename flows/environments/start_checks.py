"""What a trial would be refused for, checked of the start before any seed: surfaces, and one edit in each.

Use: `check_start(environment, files)` by `calibrate` and `run`, after `Environment.check_source`; raises SpecInvalid
with one sentence. The edit of a surface is a comment above the first definition that it has in a file: it must
pass the check of surfaces up to the finding that nothing has changed. Limits: what shows only when the program runs
is the smoke test's.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from agents.edits.file_text import bytes_like, text_of
from agents.edits.role_surface import check_surface, units
from agents.edits.search_replace import Files, lines_of
from flows.environments.loading import Environment
from lineage.environment_spec import EnvironmentSpec, Role, Surface
from lineage.errors import EditRefused, SpecInvalid


def check_start(environment: Environment, files: Mapping[str, bytes]) -> None:
    """Raises SpecInvalid for surfaces that do not fit it."""
    problem = next(_problems(environment, files), None)
    if problem is not None:
        raise SpecInvalid(f"{environment.folder / 'environment.toml'}: {problem}")


def _problems(environment: Environment, files: Mapping[str, bytes]) -> Iterator[str]:
    spec = environment.spec
    for surface in spec.surfaces:
        for path, listed in surface.units.items():
            if path.endswith(".py") and path in files:
                yield from _unknown_units(surface, path, listed, files[path])
    for role in environment.roster("specialists"):
        yield from _edits(spec, role, dict(files))


def _unknown_units(surface: Surface, path: str, listed: list[str], data: bytes) -> Iterator[str]:
    there = [unit.key for unit in units(path, text_of(path, data))]
    whole = {key.split(".")[0] for key in there}
    for name in listed:
        known = name == "*" or name in there or name.removesuffix(".*") in whole
        if not known and not any(fnmatchcase(name, pattern) for pattern in surface.allow_new):
            names = [key for key in there if not key.startswith("<")]
            yield f"key surfaces.{surface.name}.units: {path} has no {name!r}{_near(name, names)}"


def _edits(spec: EnvironmentSpec, role: Role, files: Files) -> Iterator[str]:
    for name in role.surfaces:
        surface, alone = spec.surface(name), role.model_copy(update={"surfaces": (name,)})
        for path, listed in surface.units.items():
            if path not in files or not path.endswith(".py"):
                continue
            try:
                edited = _with_comment(path, text_of(path, files[path]), listed)
                after = {**files, path: bytes_like(path, edited, files[path])}
                check_surface(spec, alone, files, after)
            except EditRefused as refused:
                if refused.cause != "duplicate":
                    yield f"surfaces.{name}: an edit of {path} by the role {role.name} is refused: {refused}"


def _with_comment(path: str, text: str, listed: list[str]) -> str:
    """The text with a comment above the first definition that is listed; above nothing, at the end, where none is."""
    done, parts = False, []
    for unit in units(path, text):
        plain = not unit.key.startswith("<") and not unit.key.endswith((".<head>", ".<code>"))
        if not done and plain and (unit.key in listed or unit.key.split(".")[0] in listed or "*" in listed):
            first = next(line for line in lines_of(unit.text) if line.strip())
            parts.append(f"{first[: len(first) - len(first.lstrip())]}# edited\n")
            done = True
        parts.append(unit.text)
    return "".join(parts) if done else text + "# edited\n"


def _near(name: str, known: object) -> str:
    names = sorted(known)  # type: ignore[call-overload]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names[:12])}"
