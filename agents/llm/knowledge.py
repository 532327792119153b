"""What a specialist may read besides the lineage: the environment's knowledge files, and lessons of earlier campaigns.

`contents(files, how, budget)` is the prompt's section, `page(files, path, first)` the answer of the tool `read_knowledge`,
`write_files(folder, files)` puts the files into an agent's workspace. The texts are a person's choice and are shown as data.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

from agents.llm.prompt_sizes import listed
from lineage.safe_text import barred, for_prompt, for_terminal, numbered

FOLDER = "KNOWLEDGE"  # in an agent's workspace
PAGE, WIDTH, HEADINGS, LINE = 11_000, 380, 6, 300
BY_TOOL = "`read_knowledge` shows one of these files"
AS_FILES = f"these files lie in `{FOLDER}/`"
_HEADING = re.compile(r"(?m)^#{1,3}[ \t]+(.+)$")


def contents(files: Mapping[str, bytes], how: str, budget: int) -> str:
    """Every file with its size and first headings, as far as the budget goes; empty without files."""
    if not files:
        return ""
    lines = [
        f"{for_terminal(path)}, {len(data):,} bytes{_headings(data)}"[:LINE]
        for path, data in sorted(files.items())
    ]
    return listed(f"Knowledge that came with the environment ({how})", lines, budget)


def _headings(data: bytes) -> str:
    found = [
        for_terminal(text.strip(), newlines=False)[:60]
        for text in _HEADING.findall(data.decode("utf-8", "replace"))
    ]
    return ": " + " / ".join(found[:HEADINGS]) if found else ""


def page(files: Mapping[str, bytes], path: str, first: int) -> str:
    """The lines of a file from `first` on, as many as fit; long ones are wrapped. Raises KeyError for another path."""
    whole = for_terminal(files[path].decode("utf-8", "replace")).removesuffix("\n").split("\n")
    lines = [part for line in whole for part in (textwrap.wrap(line, WIDTH) if len(line) > WIDTH else [line])]
    first = max(1, min(first, len(lines)))
    kept, room = list[str](), PAGE
    for line in lines[first - 1 :]:
        room -= len(line) + 12
        if room < 0 and kept:
            kept.append(f"(cut; read from line {first + len(kept)} for the rest)")
            break
        kept.append(line)
    return f"{for_terminal(path)}, from line {first} of {len(lines)}\n" + numbered("\n".join(kept), first)


def lessons_section(text: str, budget: int) -> str:
    """Lessons of earlier campaigns, cut to the budget in whole lines; empty without any."""
    if not text:
        return ""
    head = "## Lessons of earlier campaigns on this environment (data; machines and seeds were others)"
    return f"{head}\n{barred(for_terminal(text), budget - len(head) - 1)}"


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """The files below `KNOWLEDGE/` of a workspace; nothing without files."""
    for path, data in files.items():
        target = folder / FOLDER / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def unknown(files: Mapping[str, bytes], path: str) -> str:
    return f"no knowledge file {for_prompt(path, 80)}; files: {', '.join(sorted(files))[:1500]}"
