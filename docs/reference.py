"""Pages of the site that are made from the code and from the READMEs, so that neither is written twice.

Use: a hook of `mkdocs build -f docs/mkdocs.yml`; `pages()` gives path -> Markdown. Limits: links of a README to files that
are no page of the site become plain text.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
READMES = {
    "explanation/campaign.md": "flows/README.md",
    "explanation/judge.md": "evaluators/README.md",
    "explanation/specialists.md": "agents/README.md",
    "explanation/store.md": "lineage/README.md",
    "how-to/own-recipe.md": "recipes/README.md",
    "how-to/gpu-machines.md": "flows/MACHINES.md",
}


def pages() -> dict[str, str]:
    """All generated pages, by their path on the site."""
    return {
        "reference/commands.md": commands(),
        "reference/environment.md": environment(),
        "reference/settings.md": settings(),
        "reference/columns.md": columns(),
        "reference/outcomes.md": outcomes(),
        "reference/errors.md": errors(),
        **{page: readme(ROOT / source) for page, source in READMES.items()},
    }


def on_files(files: Any, config: Any) -> Any:
    """Called by mkdocs before it reads the pages."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


# ---- the command line ----


def commands() -> str:
    """One section per command: what it does, its usage, its arguments and options."""
    import typer

    from flows.cli import app

    group = typer.main.get_command(app)
    parts = ["# Commands", "`bakeoff COMMAND --help` says the same.", "## Exit codes", _exit_codes()]
    for name, command in _commands(group, ""):
        parts += [f"## bakeoff {name}", _plain(command.help or ""), _plain(command.epilog or "")]
        rows = [_parameter(one) for one in command.params if one.name != "help"]
        if rows:
            parts.append(_table(("parameter", "default", "meaning"), rows))
    return _joined(parts)


def _commands(group: Any, before: str) -> Iterator[tuple[str, Any]]:
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from _commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def _parameter(one: Any) -> tuple[str, str, str]:
    names = ", ".join(f"`{name}`" for name in [*one.opts, *one.secondary_opts])
    spelled = names if one.param_type_name == "option" else f"`{one.metavar or one.name.upper()}`"
    default = "" if not one.default or callable(one.default) else f"`{one.default}`"
    return spelled, "required" if one.required else default, _plain(getattr(one, "help", "") or "")


def _exit_codes() -> str:
    from flows import cli

    return (cli.__doc__ or "").split("\n\n")[1].replace("\n", " ")


# ---- files that a person writes ----


def environment() -> str:
    """Every key of environment.toml, table by table."""
    from lineage import environment_spec

    parts = [
        "# environment.toml",
        "The keys of an environment's settings file. A key that is not here is an error that names it.",
    ]
    for title, model in _tables(environment_spec.EnvironmentSpec, ""):
        parts += [f"## {title or 'Top level'}", _plain(model.__doc__ or "")]
        parts.append(
            _table(("key", "type", "default", "meaning"), [_key(n, f) for n, f in model.model_fields.items()])
        )
    return _joined(parts)


def _tables(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """The model's own table, then those of the models in it; lists of tables in double brackets."""
    bracket = ("", "") if not path else ("`[", "]`")
    yield f"{bracket[0]}{path}{bracket[1]}", model
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            yield from _tables(inner, f"{path}.{name}" if path else name)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def _key(name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    default = field.get_default(call_default_factory=True) if not field.is_required() else PydanticUndefined
    shown = "required" if default is PydanticUndefined else f"`{_value(default)}`"
    return f"`{name}`", f"`{_type(field.annotation)}`", shown, _plain(field.description or "")


def _value(default: Any) -> str:
    if isinstance(default, BaseModel):
        return "{}"
    return (
        "none"
        if default is None
        else "true"
        if default is True
        else "false"
        if default is False
        else repr(default)
    )


def _type(annotation: Any) -> str:
    """A type as a person writes it.

    >>> _type(tuple[str, ...] | None)
    'tuple[str, ...] or none'
    """
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(inside[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(part) for part in inside)
    if origin is typing.Literal:
        return " or ".join(repr(part) for part in inside)
    if annotation is type(None):
        return "none"
    if origin is not None:
        return f"{origin.__name__}[{', '.join('...' if part is ... else _type(part) for part in inside)}]"
    return getattr(annotation, "__name__", str(annotation))


def settings() -> str:
    """Every setting of a campaign, by group, with its option and variable."""
    from flows.engine.settings import Settings

    groups: dict[str, list[tuple[str, ...]]] = {}
    for name, field in Settings.model_fields.items():
        extra: dict[str, Any] = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        option = str(extra.get("option") or f"--{name.replace('_', '-')}")
        row = (
            f"`{name}`",
            f"`{option}`",
            f"`{_type(field.annotation)}`",
            _key(name, field)[2],
            _plain(field.description or ""),
        )
        groups.setdefault(str(extra.get("group") or "What"), []).append(row)
    parts = [
        "# Settings and campaign.toml",
        "Each is a key of `[campaign]` in campaign.toml (`--config FILE`), a variable `BAKEOFF_<NAME>`, an option, and a "
        "parameter of the deployed campaign; the last of these that is given counts.",
    ]
    for group, rows in groups.items():
        parts += [f"## {group}", _table(("key", "option", "type", "default", "meaning"), rows)]
    return _joined(parts)


# ---- the record ----


def columns() -> str:
    """Every column of lineage with its type and what the code says of it."""
    from lineage.column_meanings import meaning
    from lineage.records import Row
    from lineage.schema import SCHEMA, SCHEMA_VERSION

    rows = [(f"`{column.name}`", f"`{column.type}`", _plain(meaning(column.name))) for column in SCHEMA]
    return _joined(
        [
            "# Columns",
            f"Schema {SCHEMA_VERSION}. " + _plain(Row.__doc__ or ""),
            _table(("column", "type", "meaning"), rows),
        ]
    )


def outcomes() -> str:
    """Statuses and causes, with the reasons that stand beside them in the code."""
    from lineage.records import CAUSES, Status

    notes = _comments(ROOT / "lineage" / "records.py")
    causes = [(f"`{cause}`", notes.get(cause, "")) for cause in CAUSES]
    told = (ROOT / "README.md").read_text("utf-8")
    table = told[told.index("| status | meaning |") :].split("\n\n")[0]
    missing = [status for status in Status if f"`{status}`" not in table]
    if missing:
        raise ValueError(f"README.md's table of statuses lacks {missing}")
    return _joined(
        ["# Statuses and causes", "## Statuses", table, "## Causes", _table(("cause", "meaning"), causes)]
    )


def errors() -> str:
    """The tree of errors with exit codes."""
    from lineage import errors as module

    tree = (module.__doc__ or "").split("\n\n")
    return _joined(["# Errors", tree[0], "```text\n" + tree[1] + "\n```"])


def _comments(path: Path) -> dict[str, str]:
    """Name or word at the beginning of a line of code -> the comment at its end."""
    found: dict[str, str] = {}
    word = ""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
        if token.type in (tokenize.NAME, tokenize.STRING) and not token.line[: token.start[1]].strip():
            word = token.string.strip("\"'")
        elif token.type == tokenize.COMMENT and word and token.line[: token.start[1]].strip():
            found.setdefault(word, token.string.lstrip("# "))
        elif token.type in (tokenize.NL, tokenize.NEWLINE):
            word = ""
    return found


# ---- text ----


def readme(path: Path) -> str:
    """A README as a page; its links to files become their names."""
    text = path.read_text("utf-8")
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)[^)]+\)", r"\1", text)


def _plain(text: str) -> str:
    """A docstring or help text as running text that Markdown reads as it stands."""
    return (
        re.sub(r"\s+", " ", text.replace("\b", ""))
        .strip()
        .replace("<", "&lt;")
        .replace("*", "\\*")
        .replace("|", "\\|")
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [
        head,
        ("---",) * len(head),
        *([cell.replace("|", "\\|") if "`" in cell else cell for cell in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _joined(parts: list[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"
