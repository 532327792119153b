"""The normal form of a program: what it does, without how it is laid out.

`ast_hash(files)` is the duplicate key of lineage. Comments, docstrings, `pass`, blank lines,
quoting and the spelling of a number (`1e-3` and `0.001`) make no difference; names, order and values
do. The form is written here rather than taken from `ast.dump`, whose text changes between Python
versions (3.13 leaves out empty lists), because lineage is shared between machines.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from functools import lru_cache

from agents.edits.config_keys import config_kind, entries
from agents.edits.file_text import text_of
from lineage.errors import EditRefused
from lineage.python_ast import parse as parse_source

_DOCUMENTED = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def parse(path: str, text: str) -> ast.Module:
    """Syntax tree of a source file; an `EditRefused("syntax")` that names the line otherwise."""
    try:
        return parse_source(text)
    except SyntaxError as e:
        line, shown = e.lineno or 0, (e.text or "").strip()
        where = f"{path}, line {line}" + (f": {shown[:120]!r}" if shown else "")
        raise EditRefused("syntax", f"{where}: {e.msg}", {"line": line, "file": path}) from e
    except (ValueError, RecursionError, MemoryError) as e:
        message = f"{path}: cannot be parsed ({type(e).__name__}: {e}); nest expressions less deeply"
        raise EditRefused("syntax", message, {"file": path}) from e


def _docstring(node: ast.AST, body: list[ast.stmt]) -> bool:
    first = body[0] if body else None
    return (
        isinstance(node, _DOCUMENTED)
        and isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )


def _write(value: object, out: list[str]) -> None:
    if isinstance(value, ast.AST):
        out.append(f"({type(value).__name__}")
        for name in value._fields:
            child = getattr(value, name, None)
            if child is None and not (isinstance(value, ast.Constant) and name == "value"):
                continue
            if child == [] or (isinstance(value, ast.Constant) and name == "kind"):
                continue
            if name == "body" and isinstance(child, list) and _docstring(value, child):
                child = child[1:]
            out.append(f" {name}=")
            _write(child, out)
        out.append(")")
    elif isinstance(value, list):
        out.append("[")
        for item in value:
            if not isinstance(item, ast.Pass):
                _write(item, out)
                out.append(",")
        out.append("]")
    else:
        out.append(f"{type(value).__name__}:{value!r}")


@lru_cache(maxsize=256)
def normal_form(path: str, text: str) -> str:
    """One line per file that is equal for two texts exactly when the programs are."""
    out: list[str] = []
    try:
        _write(parse(path, text), out)
    except RecursionError as e:
        message = f"{path}: expressions nested too deeply to compare; split them over statements"
        raise EditRefused("syntax", message, {"file": path}) from e
    return "".join(out)


def program_form(path: str, data: bytes) -> bytes:
    """What a file says, without its layout: Python by its tree, YAML, TOML and JSON by their keys and values."""
    if path.endswith(".py"):
        try:
            text = text_of(path, data)
        except EditRefused as e:
            raise EditRefused("syntax", str(e), e.numbers) from e
        return normal_form(path, text).encode("utf-8", "surrogatepass")
    if config_kind(path):
        try:
            return repr(sorted(entries(path, text_of(path, data)).items())).encode("utf-8", "surrogatepass")
        except EditRefused:
            return data  # the judge of what a program means is the program
    return data


def ast_hash(files: Mapping[str, bytes]) -> str:
    """sha256 over the normal form of every file, in the order of their names."""
    whole = hashlib.sha256()
    for path in sorted(files):
        form = program_form(path, files[path])
        whole.update(f"{path}\0{hashlib.sha256(form).hexdigest()}\n".encode())
    return whole.hexdigest()
