"""`bakeoff new-environment NAME`: a copy of `recipes/_template` under a new name, ready to run.

Use: `new_environment("my_idea")` writes `./recipes/my_idea` (or into the first folder of BAKEOFF_RECIPES, or
where `at` says) and returns the folder; `next_commands(folder)` says how to run it. Limits: the template is
that of this checkout; nothing that exists is overwritten.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from flows.environments.loading import Environment, list_environments, own_folders, read_environment
from flows.machine.folders import shipped_recipes
from lineage.environment_spec import Name
from lineage.errors import UsageError

EXAMPLE = "my_idea"  # the name that the template's README uses for the copy


def new_environment(name: str, at: Path | None = None) -> Environment:
    """Copy the template, put the name in, and read it back; whole or not at all.

    Raises UsageError for an invalid or taken name, and for a folder that cannot be used.
    """
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise UsageError(
            f"{name!r} is no name for an environment: lower-case letters, digits and underscores, a letter first, "
            "at most 40; try for example my_idea"
        ) from None
    place = (own_folders()[0] if at is None else at).expanduser().absolute()
    target = place / name
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target}: already there and left as it is; take another name, or remove it first")
    taken = list_environments().get(name)
    if taken is not None:
        raise UsageError(f"{name!r} is already the environment in {taken}; take another name")
    template = shipped_recipes() / "_template"
    if not template.is_dir():
        raise UsageError(f"{template}: no template here; install Bakeoff again")
    staging = place / f".{name}.{os.getpid()}"
    try:
        place.mkdir(parents=True, exist_ok=True)
        shutil.copytree(template, staging, ignore=shutil.ignore_patterns("__pycache__"))
        _put_name(staging, name)
        staging.rename(target)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise UsageError(
            f"{target}: cannot be written ({error.strerror}); choose a place with --at DIR"
        ) from None
    return read_environment(target)


def next_commands(folder: Path) -> list[str]:
    """The three commands that run an environment, by name where the name is found and by path elsewhere."""
    name = folder.name
    found = list_environments().get(name)
    word = name if found is not None and found.resolve() == folder.resolve() else shlex.quote(str(folder))
    return [f"bakeoff prepare {word}", f"bakeoff calibrate {word}", f"bakeoff run {word} --trials 4"]


def _put_name(folder: Path, name: str) -> None:
    settings = folder / "environment.toml"
    text = settings.read_text("utf-8")
    settings.write_text(text.replace('name = "template"', f'name = "{name}"', 1), "utf-8")
    readme = folder / "README.md"
    lines = readme.read_text("utf-8").replace("# template", f"# {name}", 1).splitlines(keepends=True)
    kept = [line.replace(EXAMPLE, name) for line in lines if "bakeoff new-environment" not in line]
    readme.write_text("".join(kept), "utf-8")
