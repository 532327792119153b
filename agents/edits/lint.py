"""Warnings about source forms that reach outside the unit in which they are written.

`new_flags(path, before, after, modules)` lists what an edit adds: `global`, a walrus at module
level, a decorator or a default argument that runs code at import, an assignment to an imported
module, dangerous calls and modules, catch-all handlers, large literals. A flag never refuses an
edit: the sandbox is the boundary. Flags are recorded, shown to agents and users.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CALLS = _words("eval exec compile __import__ globals locals vars breakpoint input open")
MODULES = _words(
    "subprocess socket ctypes multiprocessing signal gc inspect importlib pickle marshal shutil site requests "
    "urllib http threading atexit faulthandler builtins pty resource sys os asyncio concurrent tempfile"
)
ATTRIBUTES = _words(
    "_exit fork system popen execv execve kill _getframe settrace setprofile __globals__ __builtins__ "
    "__subclasses__ __code__ environ getenv setrlimit add_safe_globals f_back f_globals f_locals"
)
# Decorators that recipes use and that only wrap the function below them.
DECORATORS = _words(
    "staticmethod classmethod property dataclass torch.no_grad torch.inference_mode torch.compile "
    "functools.cache functools.lru_cache functools.wraps torch.jit.script"
)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LITERAL_BYTES, LITERAL_ITEMS = 4000, 500
Flag = tuple[str, int]


def _imports(node: ast.AST, inside: bool, allowed: set[str]) -> Iterator[Flag]:
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return
    names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or "."]
    for name in names:
        if name.split(".")[0] in MODULES:
            yield f"imports {name}", node.lineno
        elif inside and not {name, name.split(".")[0]} & allowed:
            yield f"imports {name} inside a function", node.lineno


def _calls(node: ast.AST, imported: set[str]) -> Iterator[Flag]:
    if isinstance(node, ast.Name) and node.id in CALLS:
        yield f"names {node.id}", node.lineno
    elif isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
        yield f"uses .{node.attr}", node.lineno
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "setattr", "delattr")
    ):
        word = node.args[1] if len(node.args) > 1 else None
        plain = (
            isinstance(word, ast.Constant) and isinstance(word.value, str) and word.value not in ATTRIBUTES
        )
        target = node.args[0] if node.args else None
        if not plain:
            yield f"calls {node.func.id}() with a name that is not a plain literal", node.lineno
        elif node.func.id != "getattr" and isinstance(target, ast.Name) and target.id in imported:
            yield f"{node.func.id}() on imported {target.id}", node.lineno


def _patches(node: ast.AST, imported: set[str]) -> Iterator[Flag]:
    """Assignments to an attribute of something imported, such as `torch.save = print`."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign | ast.Delete):
        targets = node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        targets = [node.target]
    for target in targets:
        for part in ast.walk(target):
            root: ast.AST = part
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if isinstance(part, ast.Attribute) and isinstance(root, ast.Name) and root.id in imported:
                yield f"assigns to {ast.unparse(part)} of an imported module", part.lineno


def _definitions(node: ast.AST) -> Iterator[Flag]:
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        for decorator in node.decorator_list:
            name = ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)
            if name not in DECORATORS and not name.endswith((".setter", ".register")):
                yield f"decorator {name} runs at import", decorator.lineno
    if isinstance(node, _FUNCTIONS):
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None and any(isinstance(x, ast.Call) for x in ast.walk(default)):
                yield f"default argument {ast.unparse(default)[:60]} runs at import", default.lineno


def _forms(node: ast.AST) -> Iterator[Flag]:
    if isinstance(node, ast.Global | ast.Nonlocal):
        yield f"{type(node).__name__.lower()} {', '.join(node.names)}", node.lineno
    elif isinstance(node, ast.ExceptHandler):
        caught = "everything" if node.type is None else ast.unparse(node.type)
        if caught in ("everything", "BaseException"):
            yield f"catches {caught}", node.lineno
    elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        if len(node.value) > LITERAL_BYTES:
            yield f"literal of {len(node.value)} bytes (payload?)", node.lineno
    elif isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict):
        items = node.keys if isinstance(node, ast.Dict) else node.elts
        if len(items) > LITERAL_ITEMS:
            yield f"literal with {len(items)} items (lookup table?)", node.lineno


def _module_level(tree: ast.Module) -> Iterator[Flag]:
    """`:=` outside any function binds a second module name."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.NamedExpr):
            yield f":= at module level binds {node.target.id}", node.lineno
        hidden = (*_FUNCTIONS, ast.Lambda)
        stack += [child for child in ast.iter_child_nodes(node) if not isinstance(child, hidden)]


def flags(tree: ast.Module, allowed: Iterable[str] = ()) -> list[Flag]:
    """(what, line) of every suspicious form in a file."""
    permitted = set(allowed)
    top = {id(node) for node in tree.body}
    imported: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            imported |= {alias.asname or alias.name.split(".")[0] for alias in statement.names}
            permitted |= {alias.name.split(".")[0] for alias in statement.names}
    found: list[Flag] = list(_module_level(tree))
    for node in ast.walk(tree):
        found += _imports(node, id(node) not in top, permitted)
        found += _calls(node, imported)
        found += _patches(node, imported)
        found += _definitions(node)
        found += _forms(node)
    return found


def new_flags(
    path: str, before: ast.Module | None, after: ast.Module, allowed: Iterable[str] = ()
) -> list[str]:
    """`file:line what` for each form that `after` has more often than `before`."""
    modules = set(allowed)
    left = Counter(what for what, _ in flags(before, modules)) if before else Counter[str]()
    out = []
    for what, line in sorted(flags(after, modules), key=lambda flag: flag[1]):
        if left[what] > 0:
            left[what] -= 1
        else:
            out.append(f"{path}:{line} {what}")
    return list(dict.fromkeys(out))
