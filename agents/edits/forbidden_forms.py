"""Source forms that reach beyond the edited file: refused before a program is run.

`new_reaches(before, after, siblings, allowed)` lists what an edit adds of: an import inside a function of another
file of the recipe, or of a module that reads files or the interpreter, which the surface may not import; a module of the system through a library (`torch.os`); a file read
past the entry points; the namespace of an imported module (`data.__dict__`, `vars(data)`); an assignment
to another file's definition; a hook of the module itself (`__getattr__`). Limits: it reads names only. What
it misses is seen at run time, where definitions are compared (`evaluators.judge.foreign_definition_changes`).
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator

from agents.edits.module_names import resolved

Found = tuple[str, int]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# a function may import what computes (math, time); these read files, sources or the interpreter itself
CLOSED = _words(
    "__main__ ast glob inspect io linecache pathlib pickle pkgutil pydoc tokenize zipfile zipimport"
)
SYSTEM = _words(
    "os sys subprocess socket ctypes importlib builtins gc shutil atexit posix pty fcntl mmap runpy"
)
READERS = _words(
    "from_file fromfile memmap open_memmap read_bytes read_text loadtxt genfromtxt load_library popen"
)
HOOKS = _words("__getattr__ __dir__ __builtins__ __spec__ __loader__ __path__ __class__")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _sources(node: ast.Import | ast.ImportFrom, path: str) -> list[str]:
    """The modules that an import names, relative ones by their absolute name."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [resolved(path, "." * node.level + (node.module or "")) or "."]


def _imports(node: ast.AST, allowed: set[str], siblings: set[str], path: str) -> Iterator[Found]:
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return
    refused = SYSTEM | CLOSED | {name.split(".")[0] for name in siblings} | {""}
    for name in _sources(node, path):
        parents = {name.rsplit(".", n)[0] for n in range(name.count(".") + 1)}
        if name.split(".")[0] in refused and not parents & allowed:
            yield f"import of {name!r} inside a function", node.lineno


def _attributes(node: ast.AST, imported: set[str]) -> Iterator[Found]:
    if isinstance(node, ast.Attribute):
        if node.attr in SYSTEM and _root(node) in imported:
            yield f"{ast.unparse(node)}, a module of the system through a library,", node.lineno
        elif node.attr in READERS:
            yield f".{node.attr}, which reads a file or runs a program,", node.lineno
        elif node.attr == "__dict__" and _root(node) in imported:
            yield f"{ast.unparse(node)}, the namespace of an imported module,", node.lineno
    elif isinstance(node, ast.Name) and node.id in ("open", "__import__"):
        yield f"{node.id}()", node.lineno
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
        target = node.args[0]
        if node.func.id in ("vars", "setattr", "delattr") and _root(target) in imported:
            yield f"{node.func.id}() on the imported {ast.unparse(target)}", node.lineno


def _assigned(node: ast.AST, siblings: set[str]) -> Iterator[Found]:
    if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load) and _root(node) in siblings:
        yield f"assignment to {ast.unparse(node)} of another file", node.lineno


def _of_recipe(name: str, siblings: set[str]) -> bool:
    """Is the thing of this full name another module of the recipe, or a package around one?"""
    return any(name == module or module.startswith(f"{name}.") for module in siblings)


def reaches(tree: ast.Module, siblings: Iterable[str], allowed: Iterable[str], path: str = "") -> list[Found]:
    """(what, line) of every such form in a file; `siblings`: the recipe's other modules."""
    may, top, beside = set(allowed), {id(node) for node in tree.body}, set(siblings)
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            outer = f"{_sources(node, path)[0]}." if isinstance(node, ast.ImportFrom) else ""
            imported |= {(a.asname or a.name).split(".")[0]: outer + a.name for a in node.names}
            may |= {a.name for a in node.names if isinstance(node, ast.Import) and id(node) in top}
    files = {bound for bound, name in imported.items() if _of_recipe(name, beside)}
    found: list[Found] = []
    for node in ast.walk(tree):
        if id(node) not in top:
            found += _imports(node, may, beside, path)
        found += _attributes(node, set(imported))
        found += _assigned(node, files)
    for statement in tree.body:
        if isinstance(statement, _FUNCTIONS) and statement.name in HOOKS:
            found.append((f"{statement.name} of the module", statement.lineno))
    return found


def new_reaches(
    before: ast.Module | None,
    after: ast.Module,
    siblings: Iterable[str],
    allowed: Iterable[str],
    path: str = "",
) -> list[Found]:
    """Those that `after` has more often than `before`, in order of their lines."""
    beside, may = set(siblings), set(allowed)
    left = Counter(what for what, _ in reaches(before, beside, may, path)) if before else Counter[str]()
    out = []
    for what, line in sorted(reaches(after, beside, may, path), key=lambda found: found[1]):
        if left[what] > 0:
            left[what] -= 1
        else:
            out.append((what, line))
    return out
