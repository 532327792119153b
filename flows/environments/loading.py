"""Finds environments (`recipes/NAME/environment.toml`) and reads them. Reads, never imports.

Folders searched: those in `BAKEOFF_RECIPES` (separated like PATH), `recipes/` under the current directory,
then those that come with Bakeoff; `bakeoff new-environment` writes into the first of them.
Names starting with an underscore are templates and are not listed.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agents.edits.editable_files import problems
from agents.roles import build_roster
from evaluators.judge.data_in_source import pays_for_bytes
from evaluators.judge.sandbox.interpreters import python_of
from flows.environments.knowledge import knowledge_sha256, read_knowledge
from flows.environments.repository_data import facts_of_data, is_data
from flows.environments.source_commit import ORIGIN, source_commit
from flows.environments.source_files import Taken, take, take_tracked
from flows.environments.spec_checks import check_names
from flows.environments.variants import Varied, varied, with_constants
from flows.machine.folders import data_root, shipped_recipes
from lineage.environment_spec import EnvironmentSpec, Role
from lineage.errors import SpecInvalid, UnknownName
from lineage.ids import sha256

MAX_SOURCE_FILES = 512  # a repository has its texts and tests beside its program
JUDGE_FILE = "judge.py"


@dataclass(frozen=True)
class Environment:
    """An environment on disk: its spec, its folder and the briefs of its roles (file stem to text).

    Of a variant: which, the constants that it sets in the recipe, and what prepare.py needs for its data.
    """

    spec: EnvironmentSpec
    folder: Path
    briefs: dict[str, str]
    variant: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    arguments: str = ""
    found_data: Path | None = None  # of a recorded campaign: the folder whose hash is in the record

    @property
    def called(self) -> str:
        """The environment's name as commands take it."""
        return f"{self.folder.name} --variant {self.variant}" if self.variant else self.spec.name

    def roster(self, arm: str, only: Sequence[str] = ()) -> tuple[Role, ...]:
        """The roles of an arm, or those of them that are named. Raises UnknownName for another name."""
        roles = build_roster(self.spec, self.briefs, arm).roles
        known = {role.name: role for role in roles}
        for name in only:
            if name not in known:
                raise UnknownName("role", name, known, f"roles of {self.spec.name} in the arm {arm}")
        return tuple(known[name] for name in only) if only else roles

    @property
    def origin(self) -> str:
        """Which environment this is on this machine: by its folder, or by its name where it came with Bakeoff."""
        shipped = self.folder.resolve().parent == shipped_recipes().resolve()
        return sha256(f"{'with bakeoff' if shipped else self.folder.resolve()}|{self.folder.name}".encode())[
            :12
        ]

    @property
    def data(self) -> Path:
        """The prepared data: found by what makes them, so that two environments of one name share none.

        Data that an earlier Bakeoff prepared for an environment of its own are still read.
        """
        if self.found_data is not None:
            return self.found_data
        name = self.spec.data or self.spec.name
        inputs = made_of(self.folder)
        if self.spec.task.kind == "script" and not (self.folder / "prepare.py").is_file():
            inputs += facts_of_data(self.spec.task, self.folder / "source")
        made_by = sha256(f"{self.origin}|{inputs}".encode())[:12]
        found, earlier = data_root() / f"{name}-{made_by}", data_root() / name
        shipped = self.folder.resolve().parent == shipped_recipes().resolve()
        return earlier if shipped and not found.exists() and earlier.exists() else found

    @property
    def judge_file(self) -> Path | None:
        """The environment's own judge, where its task is of that kind."""
        return self.folder / JUDGE_FILE if self.spec.task.kind == "judge" else None

    @property
    def techniques(self) -> Path:
        return self.folder / "techniques"

    def knowledge(self) -> dict[str, bytes]:
        """The files of its folder `knowledge/`."""
        return read_knowledge(self.folder)

    def _taken(self) -> dict[Path, Taken]:
        keep = {"train.py", "predict.py", *(path for s in self.spec.surfaces for path in s.units)}
        roots, task = (self.folder / "source", self.data / "source"), self.spec.task

        def data(path: str) -> bool:
            return task.kind == "script" and is_data(task, path)

        try:
            adopted = (self.folder / ORIGIN).is_file()
            return {
                root: take_tracked(root, data) if adopted else take(root, keep, data)
                for root in roots
                if root.is_dir()
            }
        except OSError as error:
            raise SpecInvalid(
                f"{error.filename}: cannot be read ({error.strerror}); make it readable or move it out of the source"
            ) from None

    def left_out(self) -> list[str]:
        """What lies beside the source and is not taken, one line per reason."""
        return [line for root, taken in self._taken().items() for line in taken.notes(root)]

    def check_source(self, files: Mapping[str, bytes]) -> None:
        """Raise SpecInvalid for what the surfaces name and edits could not change, with file and reason."""
        found = problems(self.spec, files)
        if found:
            more = f" (and {len(found) - 8} more)" if len(found) > 8 else ""
            raise SpecInvalid(f"{self.folder}: " + "; ".join(found[:8]) + more)

    def source(self) -> dict[str, bytes]:
        """The recipe's start: the files under `source/` by relative path (`flows.environments.source_files`).

        A full-size environment whose start is fetched keeps it beside its data, under `source/`.
        """
        files = {name: data for taken in self._taken().values() for name, data in taken.files.items()}
        if self.fixed and "fixed.py" in files:
            text = with_constants(
                files["fixed.py"].decode("utf-8"), self.fixed, self.folder / "source/fixed.py"
            )
            files["fixed.py"] = text.encode("utf-8")
        if not files:
            raise SpecInvalid(
                f"{self.folder / 'source'}: no recipe files; a recipe needs train.py and predict.py"
            )
        if len(files) > MAX_SOURCE_FILES:
            raise SpecInvalid(
                f"{self.folder / 'source'}: {len(files)} files; at most {MAX_SOURCE_FILES} are taken"
            )
        return files


# parts of an environment's folder that its data do not depend on
_NO_INPUT = (
    "source",
    "roles",
    "knowledge",
    "techniques",
    "variants",
    "__pycache__",
    "environment.toml",
    "judge.py",
    "README.md",
)
_LARGE = 64 << 20  # a larger file counts by its size and time


def made_of(folder: Path) -> str:
    """Hash of what prepares an environment's data: prepare.py, the files beside it, and what such programs share."""
    digest = []
    for root in (folder, folder.parent / "_common"):
        for path in _inputs(root) if root.is_dir() else ():
            facts = path.stat()
            large = facts.st_size > _LARGE
            content = f"{facts.st_size} {facts.st_mtime_ns}" if large else sha256(path.read_bytes())
            digest.append(f"{path.relative_to(root).as_posix()} {content}")
    return sha256("\n".join(digest).encode())


def _inputs(root: Path) -> list[Path]:
    """Files that a prepare.py in this folder may read; no caches, hidden files, or interpreters of the recipe's own."""
    found = []
    for base, folders, names in os.walk(root):
        top = Path(base) == root
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name != "__pycache__"
            and not (top and name in _NO_INPUT)
            and not (Path(base) / name / "pyvenv.cfg").exists()
        ]
        found += [
            Path(base) / name
            for name in names
            if not name.startswith(".") and not (top and name in _NO_INPUT)
        ]
    return sorted(path for path in found if path.is_file())


def own_folders() -> list[Path]:
    """The folder for a person's own environments: outside those that come with Bakeoff, unless one works inside it."""
    named = [Path(p) for p in os.environ.get("BAKEOFF_RECIPES", "").split(os.pathsep) if p]
    return [*named, Path.cwd() / "recipes"]


def recipe_folders() -> list[Path]:
    return [*own_folders(), shipped_recipes()]


def list_environments() -> dict[str, Path]:
    """Name to folder, for every folder that holds an environment.toml; the first of a name wins."""
    found: dict[str, Path] = {}
    for root in recipe_folders():
        if root.is_dir():
            for toml in sorted(root.glob("*/environment.toml")):
                if not toml.parent.name.startswith("_"):
                    found.setdefault(toml.parent.name, toml.parent)
    return found


def load_environment(name: str, variant: str = "") -> Environment:
    """The environment of that name, or of that path, or a variant of it.

    Raises UnknownName for a name that is not there, SpecInvalid for an inconsistent file.
    """
    direct = Path(name)
    if direct.is_dir() and (direct / "environment.toml").is_file():
        return read_environment(direct.resolve(), variant)
    known = list_environments()
    if name not in known:
        raise UnknownName("environment", name, known, "list them with: bakeoff environments")
    return read_environment(known[name], variant)


def read_environment(folder: Path, variant: str = "") -> Environment:
    path = folder / "environment.toml"
    raw = _read_toml(path)
    given = varied(raw, folder, variant) if variant else Varied(raw, {}, "")
    path = folder / "variants" / f"{variant}.toml" if variant else path
    try:
        spec = EnvironmentSpec.model_validate(given.raw)
    except ValidationError as error:
        raise SpecInvalid(_first_problem(path, error)) from None
    check_names(spec, path)
    spec = _with_judge(spec, folder).model_copy(update={"knowledge_sha256": knowledge_sha256(folder)})
    spec = _with_runtime(spec, folder)
    environment = Environment(spec, folder, _briefs(folder), variant, given.fixed, given.arguments)
    environment.roster("specialists")  # a broken brief raises here, not during the campaign
    return environment


def _with_runtime(spec: EnvironmentSpec, folder: Path) -> EnvironmentSpec:
    """With the interpreter's absolute path and version where one is named. Raises SpecInvalid."""
    named = spec.runtime.python
    if not named:
        return spec.model_copy(update={"runtime": spec.runtime.model_copy(update={"version": ""})})
    if pays_for_bytes(spec):
        raise SpecInvalid(
            f"{folder / 'environment.toml'}: [runtime] python: an environment with a gate on bytes uses Bakeoff's own "
            "interpreter, whose packages it strips of their texts; drop the gate or the interpreter"
        )
    origin = source_commit(folder)
    places = [folder, *([Path(origin.repository) / origin.prefix, Path(origin.repository)] if origin else [])]
    found = next((path for place in places if (path := place / Path(named).expanduser()).exists()), None)
    if found is None:
        looked = " and ".join(dict.fromkeys(str(place) for place in places))
        raise SpecInvalid(f"{folder / 'environment.toml'}: [runtime] python: no {named} in {looked}")
    absolute = str(found.absolute())  # a virtual environment's link stays a link
    known = python_of(absolute)
    runtime = spec.runtime.model_copy(update={"python": absolute, "version": known.version})
    return spec.model_copy(update={"runtime": runtime})


def _with_judge(spec: EnvironmentSpec, folder: Path) -> EnvironmentSpec:
    """With the hash of judge.py where the task has one. Raises SpecInvalid."""
    if spec.task.kind != "judge":
        return spec.model_copy(update={"judge_sha256": ""})
    try:
        return spec.model_copy(update={"judge_sha256": sha256((folder / JUDGE_FILE).read_bytes())})
    except OSError as error:
        raise SpecInvalid(
            f'{folder / JUDGE_FILE}: cannot be read ({error.strerror}); [task] kind = "judge" needs this file with '
            "`def judge(ask, split, seed)`, see recipes/README.md"
        ) from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise SpecInvalid(
            f"{path}: cannot be read ({error.strerror}); every environment needs this file"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecInvalid(f"{path}: not valid TOML: {error}; mend that line and run again") from None


def _first_problem(path: Path, error: ValidationError) -> str:
    problems = error.errors()
    # a misspelt key shows up twice, as an unknown one and as a missing one; the unknown one explains it
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(part) for part in first["loc"]) or "(top level)"
    shown = repr(first.get("input"))[:80]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{path}: key {key}: {first['msg']} (got {shown}){more}; see recipes/README.md for every key"


def _briefs(folder: Path) -> dict[str, str]:
    return {path.stem: _brief(path) for path in sorted((folder / "roles").glob("*.md"))}


def _brief(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecInvalid(f"{path}: not UTF-8 at byte {error.start}; save the brief as UTF-8") from None
