"""Inside the sandbox: which definitions no longer are what their files define.

Use: `table = Definitions(recipe)`, `table.follow(libraries)` before the recipe is imported, then
`table.differences()` after the import, after training, after the predictor. Each module of the recipe is
recorded the moment its own file has run; torch, numpy, builtins and a part of the standard library before
any file of the recipe runs. Compared are names, functions' code and defaults, attributes of classes,
contents of constant containers, global hooks, modes and the seed of torch.

Who may change what is decided outside, by the engine. Limits: it shares its process with the candidate,
which can look for it and change its tables; instances and native state are not compared, and neither
are names that a file's own functions rebind.
"""

# ruff: noqa: PTH118
from __future__ import annotations

import ast
import os
import sys
from importlib import import_module
from importlib.machinery import PathFinder, SourceFileLoader
from operator import is_not
from types import FunctionType, ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COMPARED = _words(
    "builtins os time io json math random copy functools operator threading marshal ast numpy numpy.random "
    "numpy.linalg numpy.fft numpy.lib numpy.core numpy._core torch torch.functional torch._tensor torch.random "
    "torch.serialization torch.autograd torch.autograd.function torch.autograd.grad_mode torch.amp "
    "torch.amp.autocast_mode torch.utils torch.utils.data torch.utils.data.dataloader torch.cuda "
    "torch.cuda.random torch.backends torch.overrides torch.nn torch.nn.functional torch.nn.init "
    "torch.nn.parameter torch.nn.utils torch.nn.attention torch.optim"
)
FAMILIES = ("torch.nn.modules.", "torch.optim.")
# what Python itself writes into modules and classes
MODULE_OWN = _words("__warningregistry__ __annotations__ __path__ __cached__ __builtins__")
CLASS_OWN = _words("__abstractmethods__ _abc_impl __slotnames__ __doc__ __parameters__")
DUNDERS = _words("__name__ __doc__ __package__ __loader__ __spec__ __file__")
CONTAINERS = (list, dict, set, bytearray)
# what torch.compile puts into the module of a compiled function, for its own code to read
COMPILER_OWN = ("__compiled_fn_", "__import_", "__builtins_dict__", "__resume_at_", "___")
MOST_ITEMS = 4000  # a longer container is a table of data
_namespace: Callable[[object], Any] = vars
_bases = type.__dict__["__bases__"].__get__


class _Function:
    """Code and defaults of one function, also of those that it wraps or closes over."""

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        self.was = self._facts()

    def _facts(self) -> tuple[object, ...]:
        f = self.function
        return (f.__code__, f.__defaults__, f.__kwdefaults__, *(f.__kwdefaults__ or {}).values())

    def changed(self) -> bool:
        now = self._facts()
        return len(now) != len(self.was) or any(map(is_not, now, self.was))


def _functions(value: object, depth: int = 0) -> Iterable[FunctionType]:
    if depth > 3:
        return
    if isinstance(value, FunctionType):
        yield value
        for inner in _cells(value):
            yield from _functions(inner, depth + 1)
    for name in ("__func__", "__wrapped__", "fget", "fset", "func"):
        if not isinstance(value, FunctionType | type | ModuleType):
            inner = (
                getattr(value, name, None) if type(value).__module__ in ("builtins", "functools") else None
            )
            if inner is not None:
                yield from _functions(inner, depth + 1)


def _cells(function: object) -> list[object]:
    """What a function closes over."""
    found = []
    for cell in getattr(function, "__closure__", None) or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # an empty cell
            continue
    return found


class _Space:
    """One namespace, of a module or a class, as it was."""

    def __init__(self, name: str, live: Any) -> None:
        self.name, self.live, self.was = name, live, dict(live)

    def changes(self) -> list[tuple[str, object, object]]:
        """(key, before, now) of what was added, replaced or removed; the missing side is `_Space`."""
        live, was = self.live, self.was
        if len(live) == len(was) and not any(map(is_not, live.values(), was.values())):
            return []
        now = dict(live)
        gone: list[tuple[str, object, object]] = [(key, was[key], _Space) for key in was if key not in now]
        other = [
            (key, was.get(key, _Space), value)
            for key, value in now.items()
            if was.get(key, _Space) is not value
        ]
        return gone + other


class _Own:
    """What a file's own functions rebind or change at run time; it is the file's business."""

    def __init__(self, path: str) -> None:
        self.bound: set[str] = set()
        self.rebound: set[str] = set()
        self.mutated: set[str] = set()
        self.attributes: set[str] = set()
        with open(path, "rb") as handle:
            tree = ast.parse(handle.read())  # noqa: TID251 - one thread
        self._bind(tree.body)
        for node in ast.walk(tree):
            self._visit(node)

    def _bind(self, body: Sequence[ast.AST]) -> None:
        """Every name that a module's statements bind, blocks included, bodies of functions left out."""
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.bound.add(node.name)
                continue
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.bound |= {(a.asname or a.name).split(".")[0] for a in node.names}
            elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                self.bound.add(node.id)
            elif isinstance(node, ast.ExceptHandler) and node.name:
                self.bound.add(node.name)
            self._bind(list(ast.iter_child_nodes(node)))

    def _visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Global):
            self.rebound |= set(node.names)
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            self._root(node.value)
        elif isinstance(node, ast.AugAssign):
            self._root(node.target)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            self._root(node.func.value)
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            is_instance = isinstance(node.value, ast.Name) and node.value.id == "self"
            self.attributes |= set() if is_instance else {node.attr}

    def _root(self, node: ast.AST) -> None:
        if isinstance(node, ast.Name):
            self.mutated.add(node.id)


class _Module:
    """One module of the recipe, recorded when its own file has run."""

    def __init__(self, module: ModuleType, path: str, names: frozenset[str]) -> None:
        self.module, self.path, self.name = module, path, module.__name__
        self.space = _Space(self.name, _namespace(module))
        self.extra = [
            key
            for key, value in self.space.was.items()
            if key not in names and not _ordinary(self.name, key, value)
        ]
        self.classes: dict[int, tuple[_Space, type, tuple[type, ...]]] = {}
        self.functions: list[tuple[str, _Function]] = []
        self.contents: list[tuple[str, Any, list[object]]] = []
        for key, value in self.space.was.items():
            self._add(key, value)

    def _add(self, key: str, value: object) -> None:
        if isinstance(value, type) and value.__module__ == self.name and key.count(".") < 3:
            if id(value) not in self.classes:
                space = _Space(key, _namespace(value))
                self.classes[id(value)] = (space, value, _bases(value))
                for inner, part in space.was.items():
                    self._add(f"{key}.{inner}", part)
        elif type(value) in CONTAINERS and len(value) <= MOST_ITEMS and not key.startswith("__"):  # type: ignore[arg-type]
            self.contents.append((key, value, _items(value)))
        else:
            self.functions += [(key, _Function(f)) for f in _functions(value) if f.__module__ == self.name]

    def differences(self) -> list[str]:
        found = [(key, "") for key in self.extra]
        if sys.modules.get(self.name) is not self.module:
            found.append(("", ""))
        for key, was, now in self.space.changes():
            of_compiler = was is _Space and key.startswith(COMPILER_OWN)
            if not of_compiler and not _ordinary(self.name, key, now):
                found.append((key, ""))
        for space, kind, bases in self.classes.values():
            found += [
                (space.name, key)
                for key, was, now in space.changes()
                if key not in CLASS_OWN and not _library_wrap(was, now)
            ]
            if _bases(kind) != bases:
                found.append((space.name, "__bases__"))
        found += [(key, "__code__") for key, function in self.functions if function.changed()]
        found += [(key, "contents") for key, value, was in self.contents if _other(_items(value), was)]
        return self._named(found) if found else []

    def _named(self, found: list[tuple[str, str]]) -> list[str]:
        own = _Own(self.path)
        names = []
        for key, part in found:
            if part == "contents" and key.split(".")[0] in own.mutated | own.rebound:
                continue
            if part == "" and (key in own.rebound or (key in self.extra and key in own.bound)):
                continue
            if part and part not in ("contents", "__code__", "__bases__") and part in own.attributes:
                continue
            shown = part if part not in ("", "contents", "__code__", "__bases__") else ""
            names.append(".".join(word for word in (self.name, key, shown) if word))
        return names


def _items(value: Any) -> list[object]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return [bytes(value)] if isinstance(value, bytearray) else list(value)


def _other(now: list[object], was: list[object]) -> bool:
    if len(now) != len(was):
        return True
    return any(
        a is not b and not (type(a) in (str, int, float, bytes) and a == b)
        for a, b in zip(now, was)  # noqa: B905 - Python 3.9 has no strict; the lengths are equal
    )


def _ordinary(module: str, key: str, value: object) -> bool:
    """Names that Python binds itself: its own, and a package's attribute for a submodule."""
    return (key.startswith("__") and key.endswith("__") and key in MODULE_OWN) or (
        isinstance(value, ModuleType) and sys.modules.get(f"{module}.{key}") is value
    )


class _Loader(SourceFileLoader):
    """Runs a file of the recipe, then has its module recorded."""

    table: Definitions

    def exec_module(self, module: ModuleType) -> None:
        code = self.get_code(module.__name__)
        super().exec_module(module)
        names = frozenset(getattr(code, "co_names", ())) | DUNDERS
        self.table.record(_Module(module, self.path, names))


class _Finder:
    """Finds the modules of the recipe, as the ordinary path finder does."""

    def __init__(self, table: Definitions, root: str) -> None:
        self.table, self.root = table, root

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> Any:
        spec = PathFinder.find_spec(name, path if path is not None else [self.root])
        if spec is None or type(spec.loader) is not SourceFileLoader:
            return None
        if not (spec.origin or "").startswith(self.root + os.sep):
            return None
        loader = _Loader(name, spec.origin or "")
        loader.table = self.table
        spec.loader = loader
        return spec


class Definitions:
    """Everything that is compared. `root`: the recipe's folder."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.modules: list[_Module] = []
        self.twice: list[str] = []
        self.spaces: list[_Space] = []
        # two plain lists: an object for each of these thousands would cost more than the comparison
        self.functions: list[FunctionType] = []
        self.facts: list[object] = []
        self.hooks: list[tuple[str, Any, int]] = []
        self.probes: list[tuple[str, Callable[[], object], object]] = []
        self.seed: Callable[[], object] | None = None

    # ---- recording ----

    def follow(self, libraries: Iterable[str]) -> None:
        """Load the libraries that the recipe imports first of all, record them, follow the recipe's imports."""
        for name in libraries:
            try:
                import_module(name)
            except Exception:  # the recipe's own import fails in the same way and says so
                continue
        for name, module in list(sys.modules.items()):
            if isinstance(module, ModuleType) and _compared(name):
                self._library(name, module)
        self._library("__main__", sys.modules["__main__"])
        for key, kind in list(globals().items()):
            if isinstance(kind, type) and kind.__module__ == __name__:
                self._class(f"bakeoff.{key}", kind)
        self.facts = self._facts()
        self._torch()
        sys.meta_path.insert(0, _Finder(self, self.root))
        self._interpreter()

    def record(self, module: _Module) -> None:
        self.twice += [known.name for known in self.modules if known.name == module.name]
        self.modules.append(module)

    def _library(self, name: str, module: ModuleType) -> None:
        space = _Space(name, _namespace(module))
        self.spaces.append(space)
        self.functions += [value for value in space.was.values() if type(value) is FunctionType]
        for key, value in space.was.items():
            if isinstance(value, type) and value.__module__ == name:
                self._class(f"{name}.{key}", value)
            elif "hook" in key and isinstance(value, dict | list):
                self.hooks.append((f"{name}.{key}", value, len(value)))

    def _class(self, name: str, kind: type) -> None:
        space = _Space(name, _namespace(kind))
        self.spaces.append(space)
        self.functions += [value for value in space.was.values() if type(value) is FunctionType]

    def _facts(self) -> list[object]:
        return [f.__code__ for f in self.functions] + [f.__defaults__ for f in self.functions]

    def _probe(self, name: str, ask: Callable[[], object]) -> None:
        self.probes.append((name, ask, ask()))

    def _torch(self) -> None:
        torch: Any = sys.modules.get("torch")
        if torch is not None and hasattr(torch, "default_generator"):
            self.seed = torch.default_generator.initial_seed
            self._probe("torch.default_dtype", torch.get_default_dtype)
            self._probe("torch.grad_enabled", torch.is_grad_enabled)
            self._probe("torch.function_modes", torch._C._len_torch_function_stack)

    def _interpreter(self) -> None:
        modules, path = sys.modules, sys.path
        finders, hooks = list(sys.meta_path), list(sys.path_hooks)

        def of_recipe(value: object) -> bool:
            home = getattr(value, "__module__", None) or type(value).__module__
            return any(home == module.name for module in self.modules) or home not in modules

        self._probe("sys.meta_path", lambda: [id(f) for f in sys.meta_path if f in finders or of_recipe(f)])
        self._probe("sys.path_hooks", lambda: [id(f) for f in sys.path_hooks if f in hooks or of_recipe(f)])
        self._probe("sys.path", lambda: tuple(path) if sys.path is path else ())
        self._probe("sys.settrace", sys.gettrace)
        self._probe("sys.setprofile", sys.getprofile)

    # ---- comparing ----

    def reseeded(self, seed: int | None) -> list[str]:
        """The seed that torch's generator was last set to, as a word that is the same for every run."""
        if self.seed is None:
            return []
        now = self.seed()
        return [f"torch.manual_seed({'seed' if seed is not None and now == seed else now})"]

    def differences(self) -> list[str]:
        """Qualified names, the recipe's modules first."""
        found = [name for module in self.modules for name in module.differences()] + self.twice
        for space in self.spaces:
            found += [
                f"{space.name}.{key}"
                for key, was, now in space.changes()
                if self._foreign(space, key, was, now)
            ]
        if any(map(is_not, now := self._facts(), self.facts)):
            twice = self.functions * 2
            facts = zip(twice, now, self.facts)  # noqa: B905 - Python 3.9 has no strict
            changed = [f for f, a, b in facts if a is not b]
            found += [f"{f.__module__}.{f.__qualname__}" for f in changed]
        found += [name for name, value, count in self.hooks if len(value) != count]
        found += [name for name, ask, was in self.probes if ask() != was]
        return list(dict.fromkeys(found))

    def _foreign(self, space: _Space, key: str, was: object, now: object) -> bool:
        """Was this done to a library from outside? Its own lazy loading and counters are not."""
        if key in CLASS_OWN or _ordinary(space.name, key, now):
            return False
        if was is _Space:
            return (callable(now) or isinstance(now, ModuleType)) and not _library_wrap(was, now)
        if not (callable(was) or isinstance(was, ModuleType | staticmethod | classmethod | property)):
            return False
        return not _library_wrap(was, now)


def _library_wrap(was: object, now: object) -> bool:
    """torch wraps an optimizer's `step` for its profiler, and functions that its compiler watches or leaves out."""
    code = getattr(now, "__code__", None)
    if code is None or os.path.join("torch", "") not in code.co_filename.split("packages", 1)[-1]:
        return False
    inner = [getattr(now, "_torchdynamo_orig_callable", None), getattr(now, "__wrapped__", None)]
    inner += _cells(now)
    return any(value is was for value in inner) or (was is _Space and any(map(callable, inner)))


def _compared(name: str) -> bool:
    return name in COMPARED or name.startswith(FAMILIES)
