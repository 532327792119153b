"""The command `bakeoff`: checks that the packages to be imported are Bakeoff's own, then runs the command line.

`agents` is a common name: `pip install openai-agents` beside Bakeoff writes another package over it, and a folder named
so may come first on the path. Here only Python's own library is imported before that is known.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("flows", "agents", "evaluators", "lineage")
MACHINE = 5  # the exit code of a fault of the machine


def foreign(package: str, beside: Path) -> str:
    """Why the package is not Bakeoff's, or nothing. Its `__init__.py` has a docstring and no more, and lies beside flows."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return f"{package} is not there"
    origin = Path(spec.origin)
    if origin.resolve().parent.parent != beside.resolve():
        return f"{package} comes from {origin.parent}, not from {beside}"
    body = ast.parse(origin.read_bytes()).body  # noqa: TID251 - no thread has begun
    if [type(statement) for statement in body] == [ast.Expr]:
        return ""
    others = sorted(
        found.metadata["Name"]
        for found in metadata.distributions()
        if found.metadata["Name"] != "bakeoff"
        and any(str(file) == f"{package}/__init__.py" for file in found.files or ())
    )
    return f"{origin} was overwritten" + (f" by {', '.join(others)}" if others else "")


def main() -> None:
    beside = Path(__file__).resolve().parents[1]
    found = [why for package in PACKAGES if (why := foreign(package, beside))]
    if found:
        print(
            f"bakeoff: {'; '.join(found)}; install Bakeoff in an environment of its own, with `pipx install` or "
            "`uv tool install`, or here again with `pip install --force-reinstall --no-deps bakeoff`",
            file=sys.stderr,
        )
        raise SystemExit(MACHINE)
    if sys.argv[1:2] == ["demo"] and set(sys.argv[2:]) <= {
        "--no-browser"
    }:  # works while torch is still installed
        from flows.report.demo.show_demo import show

        print(show(browser="--no-browser" not in sys.argv))
        return
    from flows.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
