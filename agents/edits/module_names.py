"""Module names of a recipe's files, in sub-packages too, and what a relative import there means."""

from __future__ import annotations


def module_of(path: str) -> str:
    """
    >>> module_of("parts/layers.py"), module_of("parts/__init__.py")
    ('parts.layers', 'parts')
    """
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def importable(path: str) -> bool:
    """Could an import find this file: Python source, or a compiled module?"""
    return path.endswith((".py", ".so", ".pyd", ".pth"))


def resolved(path: str, module: str) -> str:
    """The absolute name of a module as an import in `path` names it, with a dot per level.

    >>> resolved("parts/layers.py", ".optim"), resolved("parts/deep/a.py", "..optim"), resolved("a.py", "numpy")
    ('parts.optim', 'parts.optim', 'numpy')
    """
    name = module.lstrip(".")
    level = len(module) - len(name)
    if not level:
        return module
    folders = path.split("/")[:-1]
    if level - 1 > len(folders) or (level == 1 and not folders):
        return module  # beyond the recipe: Python refuses it
    base = folders[: len(folders) - level + 1]
    return ".".join([*base, name] if name else base) or module
