"""A script as a task: its commands, what may stand in them, and how its metrics are found. Pure.

Commands are split as a shell would (shlex) and run without one. `{seed}`, `{out}`, `{data}`, `{eval_data}` are filled
in; `command(text, values)` does it. A metric is the number of a `pattern`'s one group in a line that is printed, or
the value of `key` in a `file` of `{out}` (JSON by a path such as `val.loss`, JSON lines, CSV or TSV by a column).
`evaluators.judge.script_metrics` reads them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Trust = Literal["judged", "evaluated", "reported"]
TRUSTS: tuple[Trust, ...] = ("reported", "evaluated", "judged")  # the least first
TRUST_MEANS: Mapping[Trust, str] = {
    "judged": "answers are judged outside the recipe's reach",
    "evaluated": "a protected program prints the score in a sandbox of its own",
    "reported": "the recipe's own program says what its score is",
}
NOT_APPLICABLE = "not applicable to a script: test items, audits, control run, definitions at run time"
PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
OF_TRAIN = ("seed", "out", "data")
OF_EVALUATE = ("out", "eval_data", "data")
TABLES = (".json", ".jsonl", ".csv", ".tsv")
# quantities of a script's run that Bakeoff measures itself
COSTS = frozenset(
    {
        *("cpu_seconds", "wall_seconds", "train_cpu_seconds", "train_wall_seconds"),
        *("evaluate_cpu_seconds", "evaluate_wall_seconds"),
        *("peak_mb", "artifact_bytes", "source_bytes", "total_bytes"),
    }
)


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScriptMetric(Spec):
    """One figure of a script: by `pattern` from a line that it prints, or by `key` from a `file` in {out}."""

    name: Name = Field(description="what the score, gates and records call it")
    pattern: str = Field(
        "", exclude_if=lambda value: not value, description="regular expression with one group"
    )
    file: str = Field(
        "", exclude_if=lambda value: not value, description="path in {out}: .json, .jsonl, .csv, .tsv"
    )
    key: str = Field("", exclude_if=lambda value: not value, description="path in the JSON, or column")
    take: Literal["last", "first", "min", "max"] = Field("last", description="which of several counts")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.pattern) == bool(self.file):
            raise ValueError(f"metric {self.name!r} needs exactly one of pattern, file")
        if self.pattern:
            try:
                groups = re.compile(self.pattern).groups
            except re.error as error:
                raise ValueError(
                    f"metric {self.name!r}: pattern {self.pattern!r} is no regular expression: {error}"
                ) from None
            if groups != 1:
                raise ValueError(
                    f"metric {self.name!r}: pattern {self.pattern!r} has {groups} groups; it needs one, (...), around the number"
                )
            return self
        path = PurePosixPath(self.file)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"metric {self.name!r}: file {self.file!r} must be a path inside {{out}}")
        if path.suffix not in TABLES:
            raise ValueError(
                f"metric {self.name!r}: file {self.file!r} must end in one of {', '.join(TABLES)}"
            )
        if not self.key:
            raise ValueError(
                f"metric {self.name!r}: file {self.file!r} needs a key: a path in the JSON, or a column"
            )
        return self

    @property
    def source(self) -> str:
        """Where it is looked for, as a person wrote it."""
        return f"pattern {self.pattern!r}" if self.pattern else f"{self.file}:{self.key}"


def words(text: str) -> list[str]:
    """The command's words. Raises ValueError for a quote that is not closed."""
    return shlex.split(text)


def command(text: str, values: Mapping[str, str]) -> list[str]:
    """The command's words with the values in their places."""
    return [PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), word) for word in words(text)]


def command_faults(train: str, evaluate: str, smoke: str) -> list[str]:
    """What is wrong with a script's commands, in words."""
    if not train:
        return [
            "train: a script needs the command that trains, such as 'python train.py --seed={seed} --out={out}'"
        ]
    faults: list[str] = []
    for key, text, known in (
        ("train", train, OF_TRAIN),
        ("evaluate", evaluate, OF_EVALUATE),
        ("smoke", smoke, OF_TRAIN),
    ):
        try:
            found = words(text)
        except ValueError as error:
            faults.append(f"{key}: {text!r} cannot be split into words: {error}")
            continue
        for name in dict.fromkeys(PLACEHOLDER.findall(" ".join(found))):
            if name not in known:
                may = ", ".join(f"{{{one}}}" for one in known)
                why = "; the evaluation data is only for `evaluate`" if name == "eval_data" else ""
                faults.append(f"{key}: {{{name}}} is not known there, {may} are{why}")
    return faults


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Does one of the patterns match the path? `*` and `**` match across folders.

    >>> matches("data/a/b.bin", ["data/**"]), matches("model.py", ["eval*.py"])
    (True, False)
    """
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def script_of(text: str) -> str:
    """The Python file or module that a command runs; empty when it runs something else."""
    return python_target(words(text))


def python_target(found: Sequence[str]) -> str:
    """Of `python [-u] FILE ...` the file, of `python -m NAME ...` the file that NAME is.

    >>> python_target(["python", "-u", "train.py", "--lr=1"]), python_target(["bash", "run.sh"])
    ('train.py', '')
    """
    if not found or not re.fullmatch(r"python[0-9.]*", found[0].rpartition("/")[2]):
        return ""
    rest = list(found[1:])
    while rest and rest[0] in ("-u", "-B", "-O"):
        rest.pop(0)
    if len(rest) > 1 and rest[0] == "-m":
        return rest[1].replace(".", "/") + ".py"
    return rest[0] if rest and not rest[0].startswith("-") else ""
