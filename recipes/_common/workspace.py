"""The user's own copy of an environment: its start beside the data, and variants of it.

`DIR/source/` holds what a full-size recipe's start needs beyond the adapters in `recipes/NAME/source`: the
fetched files and, for a variant, its `fixed.py`; the engine lays it over the adapters. A variant
(`recipes/NAME/variants/V.toml`: tables that replace those of environment.toml, and [fixed] constants) becomes a
whole environment folder `DIR/recipe/`, run with `bakeoff run DIR/recipe`. Limits: plain copies, no links.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
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
    spec = tomllib.loads((environment / "environment.toml").read_text(encoding="utf-8"))
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


def variants(environment: Path) -> list[str]:
    return sorted(path.stem for path in (environment / "variants").glob("*.toml"))


def write_variant(environment: Path, variant: str, out: Path, name: str) -> None:
    """`out/recipe/`: environment.toml with the variant's tables, adapters, roles, techniques.

    `name` is the data folder's: the variant's environment takes it, so that the engine finds the data there.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise Wanted(f"the folder of a variant gives it its name, and {name!r} is no name; use a-z, 0-9, _")
    path = environment / "variants" / f"{variant}.toml"
    if not path.is_file():
        raise Wanted(f"no variant {variant!r}; there are {', '.join(variants(environment)) or 'none'}")
    change = tomllib.loads(path.read_text(encoding="utf-8"))
    fixed = change.pop("fixed", {})
    spec = tomllib.loads((environment / "environment.toml").read_text(encoding="utf-8"))
    for key, value in change.items():
        spec[key] = {**spec[key], **value} if isinstance(value, dict) and key in spec else value
    spec["name"] = spec["data"] = name
    recipe = out / "recipe"
    for folder in ("source", "roles", "techniques"):
        if (environment / folder).is_dir():
            shutil.copytree(
                environment / folder, recipe / folder, ignore=shutil.ignore_patterns("__pycache__")
            )
    (recipe / "environment.toml").parent.mkdir(parents=True, exist_ok=True)
    (recipe / "environment.toml").write_text(toml(spec), encoding="utf-8")
    if fixed:
        text = (recipe / "source" / "fixed.py").read_text(encoding="utf-8")
        (recipe / "source" / "fixed.py").write_text(with_constants(text, fixed), encoding="utf-8")


def with_constants(text: str, values: Mapping[str, Any]) -> str:
    """`NAME = value` lines with other values; every name must be there once."""
    for name, value in values.items():
        text, count = re.subn(rf"(?m)^{name} = [^#\n]*?(?=  #|$)", f"{name} = {value!r}", text)
        if count != 1:
            raise Wanted(f"the variant sets {name}, which fixed.py defines {count} times")
    return text


def toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """TOML of plain tables, lists and lists of tables, as environment.toml has them."""
    lines, later = [], []
    for key, value in table.items():
        if isinstance(value, dict) and not prefix:
            later.append(f"\n[{key}]\n{toml(value, f'{key}.')}")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            later += [f"\n[[{key}]]\n{toml(one, f'{key}.')}" for one in value]
        else:
            lines.append(f"{key} = {_value(value)}\n")
    return "".join([*lines, *later])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(one)}" for key, one in value.items()) + " }"
    return repr(value)
