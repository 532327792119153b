"""The size of each section of a prompt in characters, and cutting lists to fit.

Every section has its own budget in characters and is cut to it alone, so none can push out another:
in the paper's late runs one list of 135 children had removed the recent rows altogether. The sums
are what keeps a prompt the same size at 100 and at 100,000 trials.
"""

from __future__ import annotations

from collections.abc import Sequence

# Static part: templates and specifications, written by hand.
SYSTEM_BUDGETS = {"rules": 5_200, "environment": 4_000, "surface": 4_000, "role": 6_400, "knowledge": 4_000}
# Per round: rendered from lineage.
ROUND_BUDGETS = {
    "now": 2_400,
    "steering": 1_600,
    "lessons": 8_000,
    "chain": 2_600,
    "reach": 2_000,
    "own": 4_600,
    "neighbours": 3_600,
    "failures": 5_200,
    "tried": 3_200,
    "rates": 2_000,
    "recent": 2_800,
    "saturation": 900,
    "files": 24_000,
}
# Templates add headings and blank lines around the sections.
FRAME = 400


def clipped(text: str, budget: int) -> str:
    """Whole lines up to the budget, and a line that reports the cut."""
    if len(text) <= budget:
        return text
    mark = "(cut to its budget)"
    kept = text[: max(0, budget - len(mark) - 1)]
    body = kept[: kept.rfind("\n")] if "\n" in kept else ""
    return f"{body}\n{mark}" if body else kept[: max(0, budget - len(mark))] + mark


def listed(
    title: str, lines: Sequence[str], budget: int, *, of: int | None = None, none: str = "none yet"
) -> str:
    """A heading and as many leading lines as fit, each one whole, with how many of how many are shown."""
    head = f"## {title}"
    if not lines:
        return clipped(f"{head}\n{none}", budget)
    total = len(lines) if of is None else of
    shown: list[str] = []
    room = budget - len(head) - 40
    for line in lines:
        if len(line) + 3 > room:
            break
        shown.append(f"- {line}")
        room -= len(line) + 3
    if len(shown) < total:
        shown.append(f"({len(shown)} of {total} shown)")
    return clipped("\n".join([head, *shown]), budget)
