"""Every key of environment.toml, of a role's head and of a variant, as a Markdown table made from the models.

Use: `python -m flows.environments.key_table` writes it between the marks in recipes/README.md; a test compares the two.
Limits: keys that the engine writes itself are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from flows.machine.folders import REPO
from lineage.environment_spec import EnvironmentSpec, Role

README = REPO / "recipes" / "README.md"
BEGIN, END = "<!-- keys: python -m flows.environments.key_table -->", "<!-- end of keys -->"
WRITTEN_BY_ENGINE = "written by the engine"
OF_FILE = {"name", "brief"}  # of a role: its file's name and its text
VARIANT = (
    ("fixed", "table", "{}", "upper-case constants of source/fixed.py, and their values in this variant"),
    ("arguments", "text", '""', "what prepare.py needs after `--` for the variant's own data"),
)


def table() -> str:
    """The tables, with a heading line each."""
    parts = [
        "`environment.toml`:",
        _rows(_keys(EnvironmentSpec, "")),
        "The head of `roles/ROLE.md`:",
        _rows(row for row in _keys(Role, "") if row[0] not in OF_FILE),
        "`variants/NAME.toml` takes any key above, which then stands in place of the environment's, and:",
        _rows(iter(VARIANT)),
    ]
    return "\n\n".join(parts)


def _rows(rows: Iterator[tuple[str, str, str, str]]) -> str:
    lines = ["| key | kind | default | meaning |", "|---|---|---|---|"]
    for key, kind, default, meaning in rows:
        cells = [f"`{key}`", kind, f"`{default}`" if default else "needed", meaning]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _keys(model: type[BaseModel], before: str) -> Iterator[tuple[str, str, str, str]]:
    """Key, kind, default and meaning of every field, tables after the keys of their own level."""
    inner: list[tuple[type[BaseModel], str]] = []
    for name, field in model.model_fields.items():
        meaning = field.description or ""
        if WRITTEN_BY_ENGINE in meaning:
            continue
        table_of, many = _model_of(field.annotation)
        if table_of is not None:
            inner.append((table_of, f"{before}{name}{'[]' if many else ''}."))
        else:
            yield f"{before}{name}", _kind(field.annotation), _default(field), meaning
    for table_of, path in inner:
        yield from _keys(table_of, path)


def _model_of(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model of a table, or of each of several tables."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if get_origin(annotation) is list:
        return _model_of(get_args(annotation)[0])[0], True
    return None, False


def _kind(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(args[0])
    if origin is Literal:
        return ", ".join(f"`{value!r}`".replace("'", '"') for value in args)
    if origin in (Union, UnionType):
        return " or ".join(_kind(arg) for arg in args if arg is not NoneType)
    if origin in (list, tuple):
        return f"list of {_kind(args[0])}"
    if origin is dict:
        return f"table of {_kind(args[1])}"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).replace("'", '"')


def put_in(text: str) -> str:
    """The README's text with the tables between the marks."""
    inside = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    return inside.sub(lambda _: f"{BEGIN}\n{table()}\n{END}", text)


def main(path: Path = README) -> None:
    path.write_text(put_in(path.read_text("utf-8")), "utf-8")
    print(path)


if __name__ == "__main__":
    main()
