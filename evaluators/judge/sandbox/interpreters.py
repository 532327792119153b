"""The Python that candidates run in: Bakeoff's own, or a recipe's, of another version and with packages of its own.

Use: `python_of(path)`; an empty path is Bakeoff's own. A recipe's interpreter is asked once for its version and its
base (`-I -S`: no site hooks, no start-up files of its environment run outside a sandbox); where its packages lie follows from
`pyvenv.cfg` beside it. Nothing of Bakeoff needs to be installed in it. Limits: CPython 3.9 and newer.
"""

# paths are strings of an argument list here
# ruff: noqa: PTH100, PTH110, PTH112, PTH113, PTH118, PTH120, PTH207
from __future__ import annotations

import functools
import glob
import json
import os
import subprocess
import sys
import sysconfig

from lineage.errors import SpecInvalid
from lineage.records import Record

LEAST = (3, 9)
_ASK = (
    "import json, sys; print(json.dumps([sys.implementation.name, list(sys.version_info[:3]), "
    "getattr(sys, 'base_prefix', sys.prefix), sys.executable]))"
)


class Interpreter(Record):
    """`binary`: the real one, not an environment's link to it; `own`: folders of the environment's own packages."""

    binary: str
    version: str
    base: str
    own: tuple[str, ...]
    named: str = ""

    @property
    def folder(self) -> str:
        """`python3.12`, as library folders are called."""
        return "python" + ".".join(self.version.split(".")[:2])


def python_of(path: str = "") -> Interpreter:
    """Raises SpecInvalid for one that is not there, cannot be started, or is too old."""
    return _asked(path) if path else _bakeoffs_own()


@functools.cache
def _bakeoffs_own() -> Interpreter:
    return Interpreter(
        binary=_binary(sys.base_prefix, sys.version_info[:2], sys.executable),
        version=".".join(map(str, sys.version_info[:3])),
        base=sys.base_prefix,
        own=tuple(sorted({sysconfig.get_path(name) for name in ("purelib", "platlib")})),
    )


def _binary(base: str, version: tuple[int, ...], executable: str) -> str:
    candidates = (
        os.path.join(base, "bin", f"python{version[0]}.{version[1]}"),
        os.path.realpath(executable),
    )
    return next(path for path in candidates if os.path.exists(path))


@functools.cache
def _asked(path: str) -> Interpreter:
    try:
        done = subprocess.run(
            [path, "-I", "-S", "-c", _ASK],
            capture_output=True, text=True, timeout=60, check=True, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        name, numbers, base, executable = json.loads(done.stdout)
    except FileNotFoundError:
        raise SpecInvalid(f"[runtime] python: {path} is not there; give the path of an interpreter") from None
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        last = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1:]
        raise SpecInvalid(f"[runtime] python: {path} does not start as a Python ({''.join(last)})") from None
    version = tuple(numbers)
    if name != "cpython" or version < LEAST:
        told = ".".join(map(str, version))
        raise SpecInvalid(f"[runtime] python: {path} is {name} {told}; CPython 3.9 or newer is needed")
    binary = _binary(base, version, executable)
    return Interpreter(
        binary=binary,
        version=".".join(map(str, version)),
        base=base,
        own=_environment_packages(path, f"python{version[0]}.{version[1]}") or _packages_under(base, version),
        named=path,
    )


def _environment_packages(path: str, folder: str) -> tuple[str, ...]:
    """The package folders of the virtual environment that an interpreter's path is in; empty outside one."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(path)))
    if not os.path.isfile(os.path.join(root, "pyvenv.cfg")):
        return ()
    found = glob.glob(os.path.join(root, "lib*", folder, "site-packages"))
    return tuple(sorted({os.path.realpath(place) for place in found}))


def _packages_under(base: str, version: tuple[int, ...]) -> tuple[str, ...]:
    """Those of an interpreter without a virtual environment, as conda's."""
    names = ("site-packages", "dist-packages")
    places = [os.path.join(base, "lib", f"python{version[0]}.{version[1]}", name) for name in names]
    places += [os.path.join(base, "lib", "python3", "dist-packages")]
    return tuple(path for path in places if os.path.isdir(path))
