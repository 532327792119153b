"""The fetched part of a full-size recipe's start, beside the data.

`DIR/source/` holds what the start needs beyond the adapters in `recipes/NAME/source`; the engine lays it over them.
Limits: plain copies, no links.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _common.wheels import Wanted


def write_start(out: Path, fetched: Mapping[str, bytes]) -> None:
    """The fetched files, under the names that the adapters import."""
    for path, content in fetched.items():
        target = out / "source" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def check_units(environment: Path, out: Path) -> None:
    """Every unit that a surface names must exist in the start that was written. Raises Wanted."""
    spec = tomllib.loads((environment / "environment.toml").read_text(encoding="utf-8-sig"))
    for surface in spec["surfaces"]:
        for file, units in surface["units"].items():
            path = next(
                (p for p in (out / "source" / file, environment / "source" / file) if p.is_file()), None
            )
            if path is None:
                raise Wanted(f"surface {surface['name']} names {file}, which is not in the start")
            known = unit_names(path.read_text(encoding="utf-8"))
            for unit in units:
                if unit != "*" and unit.removesuffix(".*") not in known:
                    raise Wanted(f"surface {surface['name']} names {unit}, which {file} does not define")


def unit_names(text: str) -> set[str]:
    """Top-level definitions and constants of a module, and methods as `Class.method`."""
    names = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)
            }
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def with_constants(text: str, values: Mapping[str, Any]) -> str:
    """`NAME = value` lines with other values; every name must be there once."""
    for name, value in values.items():
        text, count = re.subn(rf"(?m)^{name} = [^#\n]*?(?=  #|$)", f"{name} = {value!r}", text)
        if count != 1:
            raise Wanted(f"{name} is defined {count} times in fixed.py")
    return text
