"""The tree of each package, with the first line of every module, as its README shows it.

Use: `python -m tests.trees` rewrites the block between the two markers in each package's README;
`tests/unit/test_house.py` compares them with the disk. Limits: Python files only.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("flows", "agents", "evaluators", "lineage")
BEGIN, END = "<!-- tree: python -m tests.trees -->\n```\n", "```\n<!-- end of tree -->"


def first_line(path: Path) -> str:
    """The first sentence line of a module's docstring; an empty string where there is none."""
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return docstring.split("\n", 1)[0]


def tree(folder: Path, depth: int = 0) -> list[str]:
    """One line per module and sub-package, folders first line from their `__init__.py`."""
    lines: list[str] = []
    pad = "  " * depth
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            lines.append(f"{pad + path.name:<28} {first_line(path)}")
    for inner in sorted(path for path in folder.iterdir() if (path / "__init__.py").exists()):
        lines.append(f"{pad + inner.name + '/':<28} {first_line(inner / '__init__.py')}")
        lines += tree(inner, depth + 1)
    return lines


def shown(package: str) -> tuple[str, str, str]:
    """README text before the block, the block's content, and the text after it. Raises ValueError without markers."""
    text = (ROOT / package / "README.md").read_text("utf-8")
    before, found, rest = text.partition(BEGIN)
    inside, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"{package}/README.md has no block between {BEGIN!r} and {END!r}")
    return before, inside, after


def expected(package: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in tree(ROOT / package))


def main() -> None:
    for package in PACKAGES:
        before, _, after = shown(package)
        path = ROOT / package / "README.md"
        path.write_text(before + BEGIN + expected(package) + END + after, "utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
