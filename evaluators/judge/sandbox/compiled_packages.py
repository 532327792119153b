"""Compiled copies of installed packages and of Python's library: no sources, no documentation, no data files.

Use: `compiled(packages, masked, cache)` gives the folder of a copy, which it makes when the cache has none (about a minute
for torch). A predictor whose bytes are counted gets these files in place of the real ones (`bubblewrap.bwrap_arguments`),
because the English of documentation strings is worth bits per byte that no size cap sees. The copy holds

- modules as bytecode; of prose in strings only the first words of lines and `{fields}` remain (`reduced`)
- shared libraries and programs, hard-linked where the file system allows
- of package metadata names, versions and entry points

Limits: text inside shared libraries and the interpreter's binary stays. A module that reads its own source does not work.
"""

# paths are strings of an argument list here
# ruff: noqa: PTH118, PTH119, PTH120
from __future__ import annotations

import fcntl
import importlib.util
import inspect
import io
import json
import marshal
import os
import re
import shutil
import sys
import sysconfig
import tokenize
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

from evaluators.judge.sandbox import visible_packages
from lineage.ids import sha256

RULE = 3  # change it with anything that changes a copy
ELF = b"\x7fELF"
LEFT_OUT = {
    *("__pycache__", "test", "tests", "include", "share", "site-packages", "dist-packages", "pydoc_data"),
    *("idlelib", "turtledemo", "lib2to3", "ensurepip", "tkinter"),
}
METADATA = ("METADATA", "entry_points.txt")
# prose: two of these words, which lists of names have not, among mostly letters and plain punctuation
SHARE = 0.85
PLAIN = re.compile(r"[A-Za-z \n.,;:'\"()`-]")
WORDS = re.compile(r"\b(the|of|to|is|are|be|a|an|this|that|for|from|with)\b", re.IGNORECASE)
LEAST = 60  # characters from which on a string may be prose
# templates of code, signatures and verbose patterns, which may be used
CODE = re.compile(
    r"^\s*(def|class|@)\s*\w[\w.]*\s*(\(.*)?:?\s*$|^\s*(return|raise) \S|->|=|\(\?|[\])][*+?]", re.MULTILINE
)
# torch's settings modules look for comments with "@" in their own source (torch/utils/_config_module.py)
READS_ITSELF = b"install_config_module(sys.modules["
FIELD = re.compile(r"(?<!\{)\{[^{}]*\}(?!\})")


def standard_library() -> str:
    """The folder of Python's own modules."""
    return sysconfig.get_path("stdlib")


def reduced(text: str, *, documents: bool = True) -> str:
    """A text without its prose: the first word and the `{fields}` of every line. Other strings are returned as they are.

    `documents`: it stands where documentation does, so no program uses what it says.
    """
    if documents:
        is_prose = " " in text
    else:
        is_prose = (
            len(text) >= LEAST
            and len(WORDS.findall(text)) > 1
            and CODE.search(text) is None
            and len(PLAIN.findall(text)) >= SHARE * len(text)
        )
    if not is_prose:
        return text
    lines = [re.match(r"(\s*\S*)(.*)", line, re.DOTALL) for line in text.splitlines()]
    return "\n".join(f"{found[1]} " + "".join(FIELD.findall(found[2])) for found in lines if found)


def without_prose(code: CodeType) -> CodeType:
    """Bytecode with its strings reduced, and so those of the functions and classes in it.

    A function's documentation is its first constant, and a module's; a class has its name before it. From Python 3.14 on
    a flag tells whether a function has any.
    """
    is_function = bool(code.co_flags & inspect.CO_OPTIMIZED) and not code.co_name.startswith("<")
    if is_function:
        place = 0 if code.co_flags & getattr(inspect, "CO_HAS_DOCSTRING", inspect.CO_OPTIMIZED) else -1
    else:
        place = (0 if code.co_name == "<module>" else 1) if "__doc__" in code.co_names else -1

    def without(constant: Any, *, documents: bool) -> Any:
        if isinstance(constant, str):
            return reduced(constant, documents=documents)
        if isinstance(constant, tuple):
            return tuple(without(part, documents=False) for part in constant)
        return without_prose(constant) if isinstance(constant, CodeType) else constant

    kept = [without(constant, documents=number == place) for number, constant in enumerate(code.co_consts)]
    return code.replace(co_consts=tuple(kept))


def without_comments(source: str) -> str:
    """Source code without its comments, but for those with an "@", which name directives."""
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and "@" not in token.string:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column] + "\n"
    return "".join(lines)


def compiled(names: tuple[str, ...], masked: tuple[str, ...], cache: Path) -> Path:
    """The copy for these packages under `cache`: `site/NAME` for each top-level entry, and `library`.

    It is made once per set of versions. A process that waits for another one's copy uses that copy.
    """
    seen = visible_packages.visible(names, masked)
    key = sha256(json.dumps([RULE, sys.version, standard_library(), *seen.paths]).encode())[:16]
    target = cache / key
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            staging = cache / f"{key}.new"
            shutil.rmtree(staging, ignore_errors=True)
            _make(seen, staging)
            staging.rename(target)
    return target


def _make(seen: visible_packages.Visible, target: Path) -> None:
    (target / "site").mkdir(parents=True)
    for path in seen.paths:
        _copy(Path(path), target / "site" / name_of(path))
    library = Path(standard_library())
    _copy(library, target / "library")
    for folder in (*seen.site, *seen.hidden):  # where the sandbox mounts packages
        if Path(folder).is_relative_to(library):
            (target / "library" / Path(folder).relative_to(library)).mkdir(parents=True, exist_ok=True)


def name_of(path: str) -> str:
    """The name of an entry's copy: a module's is that of its bytecode."""
    base = os.path.basename(path)
    return f"{base}c" if base.endswith(".py") else base


def at(folder: str, path: str) -> tuple[str, str]:
    """(Copy, where the sandbox has it) of a top-level entry of installed packages."""
    name = name_of(path)
    return os.path.join(folder, "site", name), os.path.join(os.path.dirname(path), name)


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        _copy_file(source, target if source.suffix != ".py" else target.with_suffix(".pyc"))
        return
    for base, folders, names in os.walk(source):
        folders[:] = [name for name in folders if name not in LEFT_OUT and not name.startswith("config-")]
        place = target / os.path.relpath(base, source)
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            path = Path(base) / name
            _copy_file(path, place / (f"{name}c" if name.endswith(".py") else name))


def _copy_file(source: Path, target: Path) -> None:
    if source.suffix == ".py" and READS_ITSELF in source.read_bytes():
        target.with_suffix(".py").write_text(without_comments(source.read_text("utf-8")), "utf-8")
    elif source.suffix == ".py":
        code = _code(source)
        if code is not None:
            target.write_bytes(importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(without_prose(code)))
    elif source.name in METADATA and source.parent.suffix in (".dist-info", ".egg-info"):
        whole = source.name != "METADATA"
        text = source.read_text("utf-8", "replace")
        target.write_text(text if whole else _identity(text), "utf-8")
    elif source.is_file() and _is_elf(source):
        try:
            os.link(source, target)
        except OSError:
            shutil.copy(source, target)


def _code(source: Path) -> CodeType | None:
    """Bytecode of a module, from Python's own cache where that is current; None where it is no module."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return SourceFileLoader(source.stem, str(source)).get_code(source.stem)
    except (SyntaxError, ValueError, ImportError):  # templates, and tests of bad files
        return None
    finally:
        sys.dont_write_bytecode = before


def _identity(text: str) -> str:
    kept = ("Metadata-Version:", "Name:", "Version:")
    return "".join(f"{line}\n" for line in text.split("\n\n")[0].splitlines() if line.startswith(kept))


def _is_elf(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(4) == ELF
