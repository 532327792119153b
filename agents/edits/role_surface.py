"""Checks that an edit stays inside the surface that a role owns.

A file is cut into units that together contain every byte: each top-level definition or constant with
the comments above it, each method of a class on its own, the imports, any other module code, and
the tail. `check_surface` compares the units that the role does not own byte for byte and in order
(only blank lines at their start may differ), refuses second definitions, names that hide a builtin
or an import, new files outside the allowed patterns, and edits larger than the role's radius.

Forms that plainly reach into other files, or past the imports that the surface lists, are refused too
(`agents.edits.forbidden_forms`). Inside a unit that it owns an edit can still do much at run time: there the definitions of
other files are compared (`evaluators.judge.foreign_definition_changes`), the sandbox is the boundary for the rest, and `agents.edits.lint`
flags the suspicious forms as advice for reviewers and agents.

In a YAML, TOML or JSON file only the keys that the surface lists may change (`agents.edits.config_keys`); any other
text file (shell, C++, CUDA) is a surface as a whole, or not at all.
"""

from __future__ import annotations

import ast
import builtins
import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from agents.edits.config_keys import changed_keys, config_kind, dotted, entries, owned
from agents.edits.file_text import check_change, text_of
from agents.edits.forbidden_forms import new_reaches
from agents.edits.lint import new_flags
from agents.edits.module_names import importable, module_of, resolved
from agents.edits.normal_form import parse, program_form
from agents.edits.search_replace import lines_of
from lineage.environment_spec import EnvironmentSpec, Role
from lineage.errors import EditRefused
from lineage.script_task import matches

IMPORTS, CODE, TAIL = "<imports>", "<module code>", "<tail>"
_DEFS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_BUILTINS = frozenset(dir(builtins))


@dataclass(frozen=True)
class Unit:
    """A named stretch of a file; `text` includes the comments and blank lines before it."""

    key: str
    text: str


@dataclass(frozen=True)
class SurfaceReport:
    """`units` that changed as `file:unit`, advice in `flags`, and the size of the edit."""

    units: tuple[str, ...]
    flags: tuple[str, ...]
    changed_lines: int


@dataclass(frozen=True)
class _Owned:
    units: tuple[str, ...]
    allow_new: tuple[str, ...]

    def owns(self, key: str) -> bool:
        whole_class = key.split(".")[0]
        for unit in self.units:
            if unit in ("*", key) or unit == whole_class != key:
                return unit != "*" or key != IMPORTS
            if unit.endswith(".*") and key.startswith(unit[:-1]) and not key.endswith(".<head>"):
                return True
        return False

    def may_add(self, key: str) -> bool:
        if key.startswith("<"):
            return self.owns(key)
        patterns = (p for p in self.allow_new if ("." in p) == ("." in key))
        return self.owns(key) or any(fnmatchcase(key, p) for p in patterns)


# ---- units ---------------------------------------------------------------------------------------


def _key(node: ast.stmt) -> str:
    if isinstance(node, _DEFS):
        return node.name
    if isinstance(node, ast.Import | ast.ImportFrom):
        return IMPORTS
    targets: Sequence[ast.expr] = ()
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    if len(targets) == 1 and isinstance(targets[0], ast.Name):
        return targets[0].id
    return CODE


def _first_line(node: ast.stmt) -> int:
    decorators = node.decorator_list if isinstance(node, _DEFS) else []
    return min([node.lineno, *(d.lineno for d in decorators)])


class _Cutter:
    """Walks the statements of a file once and cuts the text behind each of them."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.lines = path, lines_of(text)
        self.out: list[Unit] = []
        self.last = 0

    def cut(self, key: str, first: int, end: int) -> None:
        text = "".join(self.lines[self.last : end])
        if first <= self.last:  # a second statement on the line: neither keeps a name of its own
            owner = key.split(".")[0] if "." in key else ""
            key, text = f"{owner}.<code>" if owner else CODE, self.out.pop().text + text
        self.out.append(Unit(key, text))
        self.last = max(self.last, end)

    def cut_class(self, node: ast.ClassDef) -> None:
        body = node.body
        first = body[0]
        same_line = self.lines[first.lineno - 1][: first.col_offset].strip() != ""
        decorated = isinstance(first, _DEFS) and first.decorator_list
        end = node.end_lineno or node.lineno
        if same_line and not decorated:
            self.cut(f"{node.name}.<head>", _first_line(node), end)
            return
        if isinstance(first, ast.Expr):
            self.cut(f"{node.name}.<head>", _first_line(node), first.end_lineno or first.lineno)
            body = body[1:]
        else:
            self.cut(f"{node.name}.<head>", _first_line(node), _first_line(first) - 1)
        for member in body:
            key = _key(member)
            self.cut(
                f"{node.name}.{'<code>' if key.startswith('<') else key}",
                _first_line(member),
                member.end_lineno or member.lineno,
            )

    def run(self, tree: ast.Module) -> list[Unit]:
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                self.cut_class(node)
            else:
                self.cut(_key(node), _first_line(node), node.end_lineno or node.lineno)
        if self.last < len(self.lines):
            self.out.append(Unit(TAIL, "".join(self.lines[self.last :])))
        return self.out


def units(path: str, text: str, tree: ast.Module | None = None) -> list[Unit]:
    """The units of a file in order; joining their texts gives the file back."""
    return _Cutter(path, text).run(tree or parse(path, text))


# ---- imports -------------------------------------------------------------------------------------


def _imported(tree: ast.Module) -> dict[str, str]:
    """Bound name -> `module` or `module:name` of every top-level import."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.split(".")[0]
                found[bound] = alias.name if alias.asname or "." not in alias.name else bound
                if "." in alias.name:
                    found[f"{bound} ({alias.name})"] = alias.name
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                found[alias.asname or alias.name] = f"{module}:{alias.name}"
    return found


def _import_faults(
    path: str,
    before: ast.Module | None,
    after: ast.Module,
    allowed: set[str],
    taken: set[str],
    whole: bool,
) -> list[str]:
    """What is wrong with the imports that an edit adds, changes or removes."""
    old = _imported(before) if before else {}
    new = _imported(after)
    ok = allowed | {resolved(path, source.split(":")[0]) for source in old.values()}
    faults = list[str]()
    for bound, source in new.items():
        if old.get(bound) == source:
            continue
        module = resolved(path, source.split(":")[0])
        parents = {module.rsplit(".", n)[0] for n in range(module.count(".") + 1)}
        if bound == "*":
            faults.append(
                f"{path}: `from {source.split(':')[0]} import *` is not accepted; name what is needed"
            )
        elif not ok & parents:
            may = ", ".join(sorted(allowed)) or "none"
            faults.append(f"{path}: import of {module!r} is outside the surface; may be added: {may}")
        elif bound in old and not whole:
            faults.append(f"{path}: import of {bound!r} changed from {old[bound]!r} to {source!r}")
        elif bound in taken or bound in _BUILTINS:
            faults.append(f"{path}: importing {bound!r} would hide a name that exists")
    gone = [bound for bound in old if bound not in new]
    if gone and not whole:
        faults.append(f"{path}: import of {', '.join(gone)} was removed; leave imports in place")
    return faults


# ---- comparison ----------------------------------------------------------------------------------


def _body_text(unit: Unit) -> str:
    return unit.text.lstrip("\n")


def _unit_faults(path: str, old: list[Unit], new: list[Unit], owned: _Owned) -> list[str]:
    old_keys, new_keys = [u.key for u in old], [u.key for u in new]
    faults = []
    for key in dict.fromkeys(new_keys):
        known = old_keys.count(key)
        if key.startswith("<") or key.endswith((".<head>", ".<code>")):
            continue
        if new_keys.count(key) > max(1, known):
            faults.append(f"{path}: {key} is defined {new_keys.count(key)} times")
        if not known and not (owned.may_add(key) or _in_new_class(key, old_keys, owned)):
            faults.append(f"{path}: new definition {key} is outside the surface")
        elif not known and "." not in key and key in _BUILTINS:
            faults.append(f"{path}: new definition {key} would hide the builtin of that name")
    hold = [(u.key, _body_text(u)) for u in old if not owned.owns(u.key) and u.key != IMPORTS]
    now = [
        (u.key, _body_text(u))
        for u in new
        if not owned.owns(u.key)
        and u.key != IMPORTS
        and not (u.key not in old_keys and (owned.may_add(u.key) or _in_new_class(u.key, old_keys, owned)))
    ]
    matcher = difflib.SequenceMatcher(None, hold, now, autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            continue
        here = [key for key, _ in now[j1:j2]]
        for key in here:
            if key in old_keys or key.startswith("<") or key.endswith((".<head>", ".<code>")):
                faults.append(f"{path}: {key} is outside the surface but its text changed")
        for key, _ in hold[i1:i2]:
            if key not in new_keys:
                faults.append(f"{path}: {key} is outside the surface but was deleted")
            elif key not in here:
                faults.append(f"{path}: {key} is outside the surface but was moved")
    return faults


def _in_new_class(key: str, old_keys: list[str], owned: _Owned) -> bool:
    """A member of a class that the edit adds and may add."""
    name = key.split(".")[0]
    return "." in key and f"{name}.<head>" not in old_keys and owned.may_add(name)


def _changed(path: str, old: list[Unit], new: list[Unit]) -> list[str]:
    names = []
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag != "equal":
            names += [f"{path}:{u.key}" for u in [*old[i1:i2], *new[j1:j2]]]
    return list(dict.fromkeys(names))


def changed_lines(old: str, new: str) -> int:
    """Added plus removed lines."""
    diff = difflib.unified_diff(lines_of(old), lines_of(new), n=0)
    return sum(1 for i, line in enumerate(diff) if i > 1 and line[:1] in ("+", "-"))


def _owned(spec: EnvironmentSpec, role: Role, path: str) -> _Owned:
    held = [s for s in spec.surfaces if s.name in role.surfaces]
    listed = tuple(unit for s in held for unit in s.units.get(path, ()))
    new = tuple(pattern for s in held if path in s.units for pattern in s.allow_new)
    return _Owned(listed, new)


def owns(spec: EnvironmentSpec, role: Role, path: str, key: str) -> bool:
    """May the role change this definition (`Net.forward`, `LR`; empty: the file as a whole)?"""
    created = [p for s in spec.surfaces if s.name in role.surfaces for p in s.new_files]
    held = _owned(spec, role, path)
    if not key:
        return "*" in held.units or any(path_fits(path, pattern) for pattern in created)
    unit = ".".join(key.split(".")[:2])
    return held.owns(unit) or held.may_add(unit) or any(path_fits(path, p) for p in created)


def _file_faults(spec: EnvironmentSpec, role: Role, path: str) -> list[str]:
    """Faults of a file that the edit creates."""
    patterns = [p for s in spec.surfaces if s.name in role.surfaces for p in s.new_files]
    stem = path.split("/")[0].removesuffix(".py")
    packages = {p.replace("-", "_").split("[")[0].lower() for p in spec.packages}
    if not any(path_fits(path, pattern) for pattern in patterns):
        may = ", ".join(patterns) or "none"
        return [f"{path}: a new file is outside the surface; allowed patterns: {may}"]
    if not importable(path):
        return []
    if stem in sys.stdlib_module_names or stem in packages or stem in ("sitecustomize", "usercustomize"):
        return [f"{path}: a file of this name would hide the module {stem!r}; choose another name"]
    return []


def _reach_faults(
    path: str, before: ast.Module | None, after: ast.Module, siblings: set[str], allowed: set[str]
) -> list[str]:
    others = siblings - {module_of(path)}
    found = new_reaches(before, after, others, allowed, path)
    return [f"{path}:{line}: {what} is outside the surface" for what, line in found]


def _global_faults(path: str, before: ast.Module, after: ast.Module, owned: _Owned) -> list[str]:
    """Functions that newly rebind a name of the module that is not the role's."""
    was, now = (
        [name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names]
        for tree in (before, after)
    )
    added = [name for name in dict.fromkeys(now) if now.count(name) > was.count(name)]
    return [f"{path}: global {name} is outside the surface" for name in added if not owned.may_add(name)]


@dataclass(frozen=True)
class _FileCheck:
    """What is wrong with one changed file, which of its units changed, advice, and the size of the change."""

    faults: list[str]
    changed: list[str]
    flags: list[str]
    lines: int


def _check_file(
    spec: EnvironmentSpec, role: Role, path: str, before: Mapping[str, bytes], after: Mapping[str, bytes]
) -> _FileCheck:
    if path not in after:
        return _FileCheck([f"{path}: the file was deleted"], [], [], 0)
    if matches(path, spec.task.protected):
        return _FileCheck([f"{path} is protected: no candidate changes it"], [], [], 0)
    new_text = text_of(path, after[path])
    old_text = text_of(path, before[path]) if path in before else ""
    check_change(path, before.get(path), after[path])
    lines = changed_lines(old_text, new_text)
    created = _file_faults(spec, role, path) if path not in before else []
    if path.endswith(".py"):
        faults, changed, flags = _check_python(spec, role, path, before, after)
    elif config_kind(path):
        held = ("*",) if path not in before else _owned(spec, role, path).units
        (faults, changed), flags = _check_config(path, old_text, new_text, held), []
    else:
        whole = path not in before or "*" in _owned(spec, role, path).units
        faults = [] if whole else [f"{path}: the file is outside the surface"]
        changed, flags = [f"{path}:*"], []
    return _FileCheck(created + faults, changed, flags, lines)


def _check_config(path: str, old: str, new: str, held: Sequence[str]) -> tuple[list[str], list[str]]:
    """(faults, changed keys) of a YAML, TOML or JSON file: only keys that the surface lists may change."""
    if "*" in held:
        entries(path, new)
        return [], [f"{path}:*"]
    keys = changed_keys(path, old, new)
    faults = [
        f"{path}: the key {dotted(key) or '(top)'} is outside the surface"
        for key in keys
        if not owned(held, key)
    ]
    return faults, [f"{path}:{dotted(key)}" for key in keys]


def _check_python(
    spec: EnvironmentSpec, role: Role, path: str, before: Mapping[str, bytes], after: Mapping[str, bytes]
) -> tuple[list[str], list[str], list[str]]:
    """(faults, changed units, flags) of a Python file."""
    new_text = text_of(path, after[path])
    new_tree = parse(path, new_text)
    siblings = {module_of(name) for name in after if name.endswith(".py")}
    allowed = {m for s in spec.surfaces if s.name in role.surfaces for m in s.imports} | siblings
    allowed |= {parent for name in siblings for parent in _packages(name)}
    if path not in before:
        known = _imported_anywhere(before)
        faults = _import_faults(path, None, new_tree, allowed | known, set(), True)
        faults += _reach_faults(path, None, new_tree, siblings, allowed | known)
        return faults, [f"{path}:*"], new_flags(path, None, new_tree, allowed | known)
    old_text = text_of(path, before[path])
    old_tree = parse(path, old_text)
    old, new = units(path, old_text, old_tree), units(path, new_text, new_tree)
    taken = {u.key for u in [*old, *new]}
    held = _owned(spec, role, path)
    faults = _unit_faults(path, old, new, held)
    faults += _import_faults(path, old_tree, new_tree, allowed, taken, "*" in held.units)
    faults += _reach_faults(path, old_tree, new_tree, siblings, allowed)
    faults += _global_faults(path, old_tree, new_tree, held)
    if "*" not in held.units and _imported(old_tree) == _imported(new_tree):
        was, now = ([_body_text(u) for u in x if u.key == IMPORTS] for x in (old, new))
        if was != now:
            faults.append(f"{path}: the import lines are outside the surface but their text changed")
    return faults, _changed(path, old, new), new_flags(path, old_tree, new_tree, allowed)


def _packages(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def _imported_anywhere(files: Mapping[str, bytes]) -> set[str]:
    """Modules that a file of the recipe imports at its top; a file that cannot be read imports none."""
    found = set[str]()
    for path, data in files.items():
        if path.endswith(".py"):
            try:
                tree = parse(path, text_of(path, data))
            except EditRefused:
                continue
            found |= {resolved(path, source.split(":")[0]) for source in _imported(tree).values()}
    return found


def path_fits(path: str, pattern: str) -> bool:
    """Each part of a path by its part of the pattern, so that `aug_*.py` creates no folder; `**` is any folders."""
    names, parts = path.split("/"), pattern.split("/")
    if "**" in parts:
        at = parts.index("**")
        head, tail = parts[:at], parts[at + 1 :]
        if len(names) < len(head) + len(tail):
            return False
        names = names[: len(head)] + names[len(names) - len(tail) :]
        parts = head + tail
    return len(names) == len(parts) and all(fnmatchcase(n, p) for n, p in zip(names, parts, strict=True))


def check_surface(
    spec: EnvironmentSpec, role: Role, before: Mapping[str, bytes], after: Mapping[str, bytes]
) -> SurfaceReport:
    """The report, or `EditRefused`: outside_surface, syntax, bad_edit, oversize or duplicate."""
    size = sum(len(data) + len(path.encode("utf-8", "surrogateescape")) for path, data in after.items())
    if size > spec.budget.source_bytes:
        over = size - spec.budget.source_bytes
        message = f"the source is {size} bytes, {over} over the limit of {spec.budget.source_bytes}"
        numbers = {"source_bytes": size, "cap_bytes": spec.budget.source_bytes, "bytes_over": over}
        raise EditRefused("oversize", message, numbers)
    paths = [p for p in sorted({*before, *after}) if before.get(p) != after.get(p)]
    if not paths:
        raise EditRefused("duplicate", "the edit changes nothing", {"changed_lines": 0})
    faults, changed, flags, lines = list[str](), list[str](), list[str](), 0
    for path in paths:
        one = _check_file(spec, role, path, before, after)
        faults, changed = faults + one.faults, changed + one.changed
        flags, lines = flags + one.flags, lines + one.lines
    if lines > role.max_changed_lines:
        faults.append(f"{lines} changed lines, limit {role.max_changed_lines} for role {role.name}")
    if faults:
        numbers = {"faults": len(faults), "changed_lines": lines}
        owns = ", ".join(role.surfaces)
        message = "; ".join(dict.fromkeys(faults)) + f"; role {role.name} owns the surfaces {owns}"
        raise EditRefused("outside_surface", message, numbers)
    if _same_program(before, after, paths):
        raise EditRefused("duplicate", "only comments or layout changed", {"changed_lines": lines})
    return SurfaceReport(tuple(changed), tuple(flags), lines)


def _same_program(before: Mapping[str, bytes], after: Mapping[str, bytes], paths: list[str]) -> bool:
    return all(
        p in before and p in after and program_form(p, before[p]) == program_form(p, after[p]) for p in paths
    )
