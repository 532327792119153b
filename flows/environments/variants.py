"""Variants of an environment: other hardware, limits or data for the same recipe, one TOML file each.

Use: `variants(folder)` names them, `varied(raw, folder, name)` gives the tables of environment.toml with those of
`variants/NAME.toml` in their place, and the constants that the variant sets in the recipe's `fixed.py`. The variant's
environment is called `<environment>_<variant>` and uses the environment's data unless it names a folder of its own.
Limits: a variant changes no surface and no file but `fixed.py`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lineage.errors import SpecInvalid, UnknownName


@dataclass(frozen=True)
class Varied:
    """`arguments`: what prepare.py needs for the variant's own data, as a person writes it; empty for none."""

    raw: dict[str, Any]
    fixed: Mapping[str, Any]
    arguments: str


def variants(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "variants").glob("*.toml"))


def varied(raw: Mapping[str, Any], folder: Path, name: str) -> Varied:
    """Raises UnknownName for a variant that is not there, SpecInvalid for one that is not TOML."""
    if name not in variants(folder):
        raise UnknownName(
            f"variant of {folder.name}", name, variants(folder), "bakeoff environments lists them"
        )
    path = folder / "variants" / f"{name}.toml"
    try:
        change = tomllib.loads(path.read_text("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecInvalid(f"{path}: not valid TOML: {error}; mend that line and run again") from None
    fixed, arguments = change.pop("fixed", {}), change.pop("arguments", "")
    whole = dict(raw)
    for key, value in change.items():
        whole[key] = {**whole[key], **value} if isinstance(value, dict) and key in whole else value
    whole["data"] = change.get("data") or raw.get("data") or raw.get("name", "")
    whole["name"] = f"{raw.get('name', folder.name)}_{name}"
    return Varied(whole, fixed, arguments)


def with_constants(text: str, values: Mapping[str, Any], path: Path) -> str:
    """`NAME = value` lines of a module with other values. Raises SpecInvalid unless every name is there once."""
    for name, value in values.items():
        text, count = re.subn(rf"(?m)^{name} = [^#\n]*?(?=  #|$)", f"{name} = {value!r}", text)
        if count != 1:
            raise SpecInvalid(
                f"{path}: a variant sets {name}, which is defined here {count} times; it takes one"
            )
    return text
