"""From a git repository to an environment: what is source, data, protected and editable, and the files that say so.

Use: `plan(repository, wishes)` decides everything and raises UsageError with one sentence where it cannot; `rendered(plan)`
is the text of environment.toml, `write(plan, folder)` the folder, whole or not at all. The repository is only read.
Limits: files that are not text, or over `SOURCE_FILE` bytes, become data; what programs import is found from their import
statements.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from evaluators.judge.sandbox.interpreters import python_of
from evaluators.judge.sandbox.visible_packages import import_names
from flows.environments.git_repository import Repository
from flows.environments.script_checks import imported_files, imported_names
from flows.environments.source_commit import ORIGIN
from lineage.environment_spec import EnvironmentSpec
from lineage.errors import UsageError
from lineage.script_task import command_faults, matches, script_of, words

SOURCE_FILE = 100_000  # bytes; the largest file of nanoGPT is 17 kB
SEED_FLAGS = ("--seed", "--random-seed", "--random_seed", "--manual_seed")
OUT_FLAGS = (
    "--out",
    "--out_dir",
    "--out-dir",
    "--output_dir",
    "--output-dir",
    "--save_dir",
    "--save-dir",
    "--output",
)
LOWER = re.compile(r"loss|error|perplexity|ppl|bpb|rmse|mae|wer|seconds|time", re.IGNORECASE)
HIGHER = re.compile(r"acc|auc|f1|reward|score|map|bleu|r2", re.IGNORECASE)
PLAIN = (
    "math",
    "random",
    "time",
    "functools",
    "itertools",
    "collections",
    "contextlib",
    "copy",
    "dataclasses",
)


@dataclass(frozen=True)
class Wishes:
    """What a person says; empty where nothing was said."""

    train: str = ""
    evaluate: str = ""
    smoke: str = ""
    metric: str = ""
    direction: str = ""
    edit: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    eval_data: tuple[str, ...] = ()
    name: str = ""
    by_folder: bool = False
    python: str = ""
    cap_s: float = 3600.0


@dataclass(frozen=True)
class Caps:
    """Limits of one run; at first wide, then from what the start needed."""

    cpu_s: float
    wall_s: float
    memory_mb: int
    artifact_bytes: int


@dataclass(frozen=True)
class Plan:
    repository: Repository
    wishes: Wishes
    name: str
    source: tuple[str, ...]
    data: tuple[str, ...]
    editable: tuple[str, ...]
    protected: tuple[str, ...]
    data_patterns: tuple[str, ...]
    packages: tuple[str, ...]
    missing: tuple[str, ...]
    imports: tuple[str, ...]
    sees_recipe: bool
    caps: Caps
    notes: tuple[str, ...] = field(default=())

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Surface and role name to its files: one for all, or one per folder."""
        if not self.wishes.by_folder:
            return {"recipe": self.editable}
        found: dict[str, list[str]] = {}
        for path in self.editable:
            folder = path.partition("/")[0] if "/" in path else "root"
            found.setdefault(identifier(folder), []).append(path)
        return {name: tuple(paths) for name, paths in found.items()}


def own_python(repository: Repository, named: str) -> str:
    """The interpreter as environment.toml has it: what was named, else the repository's virtual environment, else "".

    `bakeoff` is Bakeoff's own. Raises SpecInvalid for one that cannot be used.
    """
    if named == "bakeoff":
        return ""
    usual = [path for path in (".venv/bin/python", "venv/bin/python") if (repository.folder / path).exists()]
    chosen = named or next(iter(usual), "")
    if chosen:
        place = repository.folder / Path(chosen).expanduser()
        python_of(str(place.absolute()))
        return chosen if (repository.folder / chosen).exists() else str(place.absolute())
    return ""


def identifier(text: str) -> str:
    """A name as environments and roles have it.

    >>> identifier("My-Repo.git"), identifier("3d")
    ('my_repo', 'r3d')
    """
    name = re.sub(r"[^a-z0-9]+", "_", text.lower().removesuffix(".git")).strip("_")[:40]
    return name if name and name[0].isalpha() else f"r{name}"[:40]


def guessed_train(repository: Repository) -> str:
    """A command for a `train.py`, with the flags for seed and output that it seems to have; empty without one."""
    if "train.py" not in repository.files:
        return ""
    text = repository.files["train.py"].decode("utf-8", "replace")
    seed = next((flag for flag in SEED_FLAGS if f'"{flag}"' in text or f"'{flag}'" in text), "")
    out = next((flag for flag in OUT_FLAGS if f'"{flag}"' in text or f"'{flag}'" in text), "")
    return "python train.py" + (f" {seed}={{seed}}" if seed else "") + (f" {out}={{out}}" if out else "")


def guessed_direction(metric: str) -> str:
    """`min` or `max` where the metric's words say so.

    >>> guessed_direction("val loss ([0-9.]+)"), guessed_direction("acc=([0-9.]+)"), guessed_direction("x ([0-9.]+)")
    ('min', 'max', '')
    """
    if LOWER.search(metric):
        return "min"
    return "max" if HIGHER.search(metric) else ""


def missing_flags(wishes: Wishes) -> list[str]:
    """Options without which nothing can be adopted."""
    wanted = {"--train": wishes.train, "--metric": wishes.metric, "--direction": wishes.direction}
    return [flag for flag, value in wanted.items() if not value]


def plan(repository: Repository, wishes: Wishes) -> Plan:
    """Raises UsageError for the first thing that cannot be."""
    _check_commands(repository, wishes)
    evaluator = script_of(wishes.evaluate) if wishes.evaluate else ""
    data = _data_files(repository, wishes)
    source = tuple(path for path in sorted(repository.files) if path not in data)
    programs = [script_of(text) for text in (wishes.train, wishes.smoke) if text and script_of(text)]
    files = {path: repository.files[path] for path in source}
    editable = _editable(source, wishes, files, [*programs], evaluator)
    imported = imported_files(evaluator, files) if evaluator else set()
    sees_recipe = bool(imported & set(editable))
    protected = _protected(wishes, evaluator, imported - set(editable))
    python = str(repository.folder / wishes.python) if wishes.python else ""
    packages, absent, imports = _packages(
        files, [*programs, *([evaluator] if evaluator else [])], editable, python
    )
    made = Plan(
        repository=repository,
        wishes=wishes,
        name=wishes.name or identifier(repository.folder.name),
        source=source,
        data=data,
        editable=editable,
        protected=protected,
        data_patterns=tuple(_escaped(path) for path in data if not matches(path, ["data/**"])),
        packages=packages,
        missing=absent,
        imports=imports,
        sees_recipe=sees_recipe,
        caps=Caps(wishes.cap_s, wishes.cap_s, _half_of_memory(), 2 << 30),
    )
    return replace(made, notes=_notes(made, evaluator, sorted(imported & set(editable))))


def _check_commands(repository: Repository, wishes: Wishes) -> None:
    faults = command_faults(wishes.train, wishes.evaluate, wishes.smoke)
    if faults:
        option, _, rest = faults[0].partition(":")
        raise UsageError(f"--{option}:{rest}")
    for option, text in (("train", wishes.train), ("evaluate", wishes.evaluate), ("smoke", wishes.smoke)):
        program = script_of(text) if text else ""
        if program and program not in repository.files:
            known = ", ".join(path for path in sorted(repository.files) if path.endswith(".py"))[:200]
            raise UsageError(
                f"--{option}: {program} is not in the commit {repository.commit[:12]}; Python files there: {known}"
            )
    if wishes.eval_data and not wishes.evaluate:
        raise UsageError("--eval-data is for the program of --evaluate, which is not given")


def _data_files(repository: Repository, wishes: Wishes) -> tuple[str, ...]:
    found = {path for path in repository.files if _is_data(path, repository.files[path])}
    found |= set(repository.untracked)
    for pattern in wishes.eval_data:
        hits = {path for path in (*repository.files, *repository.untracked) if matches(path, [pattern])}
        if not hits:
            raise UsageError(f"--eval-data {pattern!r}: no file of the repository matches it")
        found |= hits
    return tuple(sorted(found))


def _is_data(path: str, content: bytes) -> bool:
    if path.endswith(".py"):
        return False
    return matches(path, ["data/**"]) or len(content) > SOURCE_FILE or not _is_text(content)


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode("utf-8")
    except UnicodeDecodeError:
        return False


def _editable(
    source: Sequence[str], wishes: Wishes, files: dict[str, bytes], programs: Sequence[str], evaluator: str
) -> tuple[str, ...]:
    if wishes.edit:
        for pattern in wishes.edit:
            if not any(matches(path, [pattern]) for path in source):
                raise UsageError(f"--edit {pattern!r}: no source file of the repository matches it")
        found = {path for path in source if matches(path, wishes.edit)}
    else:
        found = {word for word in words(wishes.train) if word in files} | set(programs)
        for program in programs:
            found |= imported_files(program, files)
        found = {path for path in found if path in files}
    left = tuple(sorted(found - {evaluator} - {path for path in found if matches(path, wishes.protect)}))
    if not left:
        raise UsageError("--edit: nothing is left to edit; name files with --edit that are not protected")
    return left


def _protected(wishes: Wishes, evaluator: str, imported: set[str]) -> tuple[str, ...]:
    own = [evaluator, *sorted(imported)] if evaluator else []
    return tuple(
        dict.fromkeys([*wishes.protect, *(path for path in own if not matches(path, wishes.protect))])
    )


def _packages(
    files: dict[str, bytes], programs: Sequence[str], editable: Sequence[str], python: str
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Installed packages that the programs import, those that are not installed, and what an edit may import."""
    paths = {*programs, *(path for path in editable if path.endswith(".py"))}
    for program in programs:
        paths |= imported_files(program, files)
    local = {path.partition("/")[0].removesuffix(".py") for path in files}
    local |= {path.rpartition("/")[2].removesuffix(".py") for path in files}
    names = {name.partition(".")[0] for path in paths for name in imported_names(files.get(path, b""))}
    outside = sorted(name for name in names if name not in sys.stdlib_module_names and name not in local)
    installed = import_names(python)
    here = tuple(name for name in outside if name in installed)
    absent = tuple(name for name in outside if name not in installed)
    imports = sorted({*here, *PLAIN, *(name for name in names if name in sys.stdlib_module_names)})
    return here, absent, tuple(imports)


def _notes(made: Plan, evaluator: str, shared: Sequence[str]) -> tuple[str, ...]:
    repository, wishes, notes = made.repository, made.wishes, list[str]()
    if repository.uncommitted:
        notes.append(f"{repository.uncommitted} changes that are not committed are not taken")
    if repository.left_out:
        notes.append(f"left out, not plain files: {', '.join(repository.left_out[:5])}")
    if made.missing:
        notes.append(
            f"imported and not installed beside {wishes.python or 'Bakeoff'}: {', '.join(made.missing)}"
        )
    if "{seed}" not in wishes.train:
        notes.append(
            "--train has no {seed}: every run of a program will be the same, unless it is random by itself"
        )
    if "{out}" not in wishes.train and (wishes.evaluate or not _is_pattern(wishes.metric)):
        notes.append("--train has no {out}: nothing that it writes outlives the run")
    if shared:
        notes.append(
            f"{evaluator} imports {', '.join(shared)}, which may be edited: the score counts as reported; leave that out "
            "of --edit to have it evaluated"
        )
    elif wishes.evaluate and not wishes.eval_data:
        notes.append(
            f"{evaluator or '--evaluate'} has no data of its own: training sees all that it sees; name its files with --eval-data"
        )
    return tuple(notes)


def _is_pattern(metric: str) -> bool:
    return re.fullmatch(r"[^():]+\.(json|jsonl|csv|tsv):[^:]+", metric) is None


def _escaped(path: str) -> str:
    return path.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")


def _half_of_memory() -> int:
    return max(1024, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (2 << 20))


def fitted(made: Plan, cpu_s: float, wall_s: float, peak_mb: float, artifact: float) -> Plan:
    """The plan with limits of three times what the start's largest run needed, and at least a little."""
    caps = Caps(
        cpu_s=float(f"{max(20.0, 3 * cpu_s):.2g}"),
        wall_s=float(f"{max(60.0, 4 * wall_s):.2g}"),
        memory_mb=max(1024, round(3 * peak_mb)),
        artifact_bytes=max(1_000_000, round(2 * artifact)),
    )
    return replace(made, caps=caps)


# ---- writing ----


def metric_name(metric: str) -> str:
    """The quantity's name: the words before the number, or the key.

    >>> metric_name("val loss ([0-9.]+)"), metric_name("metrics.json:val.acc"), metric_name("([0-9.]+)")
    ('val_loss', 'val_acc', 'score')
    """
    if not _is_pattern(metric):
        text = metric.rpartition(":")[2]
    else:
        text = re.sub(r"\\.", " ", re.split(r"(?<!\\)\(", metric, maxsplit=1)[0])
    found = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[-40:].strip("_")
    return found if found and found[0].isalpha() else "score"


def _quoted(text: str) -> str:
    return f"'{text}'" if "'" not in text and "\n" not in text and text.isprintable() else json.dumps(text)


def _listed(values: Sequence[str]) -> str:
    return "[" + ", ".join(_quoted(value) for value in values) + "]"


def rendered(made: Plan) -> str:
    """environment.toml."""
    wishes, caps, size = made.wishes, made.caps, sum(len(made.repository.files[path]) for path in made.source)
    name = metric_name(wishes.metric)
    task = ['kind = "script"', f"train = {_quoted(wishes.train)}"]
    task += [f"evaluate = {_quoted(wishes.evaluate)}"] if wishes.evaluate else []
    task += ['evaluator_sees = "recipe"'] if made.sees_recipe else []
    task += [f"smoke = {_quoted(wishes.smoke)}"] if wishes.smoke else []
    task += [f"protected = {_listed(made.protected)}"] if made.protected else []
    patterns = [path for path in made.data_patterns if not matches(path, wishes.eval_data)]
    task += [f"data = {_listed(['data/**', *patterns])}"] if patterns else []
    task += [f"evaluation_data = {_listed(wishes.eval_data)}"] if wishes.eval_data else []
    if _is_pattern(wishes.metric):
        metric = [f"pattern = {_quoted(wishes.metric)}"]
    else:
        file, _, key = wishes.metric.rpartition(":")
        metric = [f"file = {_quoted(file)}", f"key = {_quoted(key)}"]
    return f"""\
# made by `bakeoff adopt` from {made.repository.folder} at {made.repository.commit}; recipes/README.md has every key
schema_version = 1
name = {_quoted(made.name)}
title = {_quoted(made.repository.folder.name)}
description = {_quoted(f"{made.repository.folder.name} as it is: {wishes.train}")}
packages = {_listed(made.packages)}
{_runtime(wishes)}
[score]
metric = {_quoted(name)}
direction = {_quoted(wishes.direction)}
unit = ''

[task]
{chr(10).join(task)}

[[task.metrics]]
name = {_quoted(name)}
{chr(10).join(metric)}
take = 'last'

# limits of one run: three times what the start needed
[budget]
train_cpu_s = {caps.cpu_s:g}
train_wall_s = {caps.wall_s:g}
predict_cpu_s = {caps.cpu_s:g}
predict_wall_s = {caps.wall_s:g}
smoke_wall_s = 60
memory_mb = {caps.memory_mb}
artifact_bytes = {caps.artifact_bytes}
source_bytes = {max(200_000, 2 * size)}

[evaluation]
runs = 2
confirm_runs = 3
max_confirm_runs = 5
calibrate_runs = 3

{chr(10).join(_surfaces(made))}"""


def _runtime(wishes: Wishes) -> str:
    return f"\n[runtime]\npython = {_quoted(wishes.python)}\n" if wishes.python else ""


def _surfaces(made: Plan) -> list[str]:
    found = []
    for surface, paths in made.groups.items():
        units = "".join(f"{json.dumps(path)} = ['*']\n" for path in paths)
        found.append(
            f"[[surfaces]]\nname = {_quoted(surface)}\ntitle = {_quoted(_title(surface, paths))}\n"
            f"imports = {_listed(made.imports)}\n\n[surfaces.units]\n{units}"
        )
    return found


def _title(surface: str, paths: Sequence[str]) -> str:
    return f"all of {', '.join(paths)}" if len(paths) < 4 else f"{len(paths)} files of {surface}"


def brief(made: Plan, surface: str) -> str:
    """The role that owns a surface."""
    paths = made.groups[surface]
    listed = "\n".join(f"- `{path}`" for path in paths)
    return f"""\
+++
surfaces = ["{surface}"]
max_changed_lines = 200
+++
You improve `{metric_name(made.wishes.metric)}` ({made.wishes.direction}imum is best) of a training repository. You may change:

{listed}

The command is `{made.wishes.train}`; it must keep working as it is. Change one thing at a time, say why, and keep all
randomness on the seed.
"""


def check(made: Plan) -> EnvironmentSpec:
    """The spec that the rendered text gives. Raises UsageError where it is none."""
    import tomllib

    from pydantic import ValidationError

    try:
        return EnvironmentSpec.model_validate(tomllib.loads(rendered(made)))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"{'.'.join(str(part) for part in first['loc'])}: {first['msg'].removeprefix('Value error, ')}"
        ) from None


def write(made: Plan, place: Path, *, replace_own: bool = False) -> Path:
    """Write the environment's folder under `place`. Raises UsageError when the name is taken."""
    target = place / made.name
    if target.exists() and not (replace_own and (target / ORIGIN).is_file()):
        more = "or replace it with --force" if (target / ORIGIN).is_file() else "or remove it first"
        raise UsageError(f"{target}: already there and left as it is; take another --name, {more}")
    staging = place / f".{made.name}.{os.getpid()}"
    try:
        for path in (*made.source, *made.data):
            file = staging / "source" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if path in made.repository.files:
                file.write_bytes(made.repository.files[path])
            else:
                shutil.copyfile(made.repository.folder / path, file)
        write_settings(made, staging)
        (staging / "roles").mkdir()
        for surface in made.groups:
            (staging / "roles" / f"{surface}.md").write_text(brief(made, surface), "utf-8")
        shutil.rmtree(target, ignore_errors=True)
        staging.rename(target)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise UsageError(
            f"{target}: cannot be written ({error.strerror}); choose a place with --at DIR"
        ) from None
    return target


def write_settings(made: Plan, folder: Path) -> None:
    """environment.toml, and where it all came from: what `bakeoff apply` needs to find the repository again."""
    (folder / "environment.toml").write_text(rendered(made), "utf-8")
    origin = {"repository": str(made.repository.folder), "commit": made.repository.commit}
    (folder / ORIGIN).write_text(json.dumps(origin, indent=1) + "\n", "utf-8")


def shown(made: Plan) -> list[str]:
    """What was decided, line by line."""
    size = sum(made.repository.size(path) for path in made.data)
    only = [path for path in made.data if matches(path, made.wishes.eval_data)]
    lines = [
        f"{made.name}: {made.repository.folder} at {made.repository.commit[:12]}",
        f"  train      {made.wishes.train}",
        *([f"  evaluate   {made.wishes.evaluate}"] if made.wishes.evaluate else []),
        f"  metric     {metric_name(made.wishes.metric)} ({made.wishes.direction}): {made.wishes.metric}",
        f"  source     {_count(len(made.source))}; to edit: {_some(made.editable)}",
        f"  data       {_count(len(made.data))}, {size:,} bytes"
        + (f"; only for evaluate: {_some(only)}" if only else ""),
        f"  protected  {_some(made.protected) or 'nothing'}",
        *([f"  python     {made.wishes.python}"] if made.wishes.python else []),
        f"  packages   {', '.join(made.packages) or 'none'}",
    ]
    return [*lines, *(f"  note: {note}" for note in made.notes)]


def _count(files: int) -> str:
    return "1 file" if files == 1 else f"{files} files"


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:8]) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
