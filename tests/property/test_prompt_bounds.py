"""Any lineage, any size: every section is there, within its budget, and nothing hidden gets through."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.llm.prompt import render, size_limit
from agents.llm.prompt_sections import SECTIONS
from agents.llm.prompt_sizes import ROUND_BUDGETS, SYSTEM_BUDGETS, clipped, listed
from lineage.environment_spec import Role
from lineage.records import CAUSES, Row, Status
from tests.fakes import lab

NASTY = st.text(st.characters(exclude_categories=["Cs"]), max_size=400) | st.text(
    st.sampled_from('## \n"\\|\x1b[31m\u202e\u200b\x07{{ }}{% %}`'), max_size=300
)
NUMBER = st.floats(allow_nan=False, allow_infinity=False) | st.none()
CAUSE = st.sampled_from(
    [None, "infra:disk", "illegal:labels", *(c for c in CAUSES if c not in ("infra", "illegal"))]
)
KEYS = st.sampled_from(
    ["bytes_over", "cap_bytes", "short_by", "gate_limit", "train_cpu_over_s", "exception", "x\n## y"]
)
NUMBERS = st.dictionaries(
    KEYS, st.floats(allow_nan=False, allow_infinity=False) | st.integers() | NASTY, max_size=6
)


@st.composite
def lineage(draw: st.DrawFn) -> list[Row]:
    made = []
    for number in range(1, draw(st.integers(0, 30)) + 1):
        made.append(
            Row(
                event="trial",
                campaign="c",
                trial=f"t{number:04d}",
                role=draw(st.sampled_from(["opt", "arch", None]) | NASTY.map(lambda s: s[:40])),
                parent=draw(
                    st.sampled_from(["t0000", f"t{max(0, number - 1):04d}", f"t{number:04d}", "gone", None])
                ),
                status=draw(st.sampled_from(list(Status))),
                cause=draw(CAUSE),
                verdict=draw(st.sampled_from([None, "confirmed", "unconfirmed"])),
                hypothesis=draw(NASTY | st.none()),
                notes=draw(NASTY | st.none()),
                error_excerpt=draw(NASTY | st.none()),
                numbers_json=draw(NUMBERS.map(json.dumps) | st.sampled_from(["", "[]", "{", '{"a": NaN}'])),
                score=draw(NUMBER),
                delta_parent=draw(NUMBER),
                delta_best=draw(NUMBER),
                edit_kind=draw(st.sampled_from([None, "number", "x y\nz"])),
                operator=draw(st.sampled_from([None, "session"])),
            )
        )
    return made


def hidden(text: str) -> list[str]:
    return [repr(c) for c in text if unicodedata.category(c)[0] == "C" and c not in "\n\t"]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    lineage(),
    NASTY,
    st.sampled_from([*lab.ROLES, Role(name="generalist", surfaces=("opt", "arch", "loop"), brief="b")]),
)
def test_any_lineage_gives_every_section_within_its_budget(
    rows: list[Row], steering: str, role: Role
) -> None:
    prompt = render(lab.request(rows, role, steering=steering))
    assert set(prompt.sections) == {*SYSTEM_BUDGETS, *ROUND_BUDGETS} - {"knowledge", "lessons"}, (
        "there are none"
    )
    for name, size in prompt.sections.items():
        assert 0 < size <= {**SYSTEM_BUDGETS, **ROUND_BUDGETS}[name], name
    assert len(prompt.text) <= size_limit()
    assert not hidden(prompt.text)
    headings = [line for line in prompt.user.split("\n") if line.startswith("## ")]
    mine = [h for h in headings if h not in steering]
    assert len(mine) >= len(SECTIONS) + 2 and len(headings) <= len(SECTIONS) + 3 + steering.count("##")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 400), st.integers(0, 10**6))
def test_realistic_lineages_of_any_length_keep_the_size(n: int, seed: int) -> None:
    prompt = render(lab.request(lab.rows(n, seed)))
    assert len(prompt.text) <= size_limit()
    assert not hidden(prompt.text)


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,12}\.py", fullmatch=True), st.binary(max_size=3_000), max_size=8)
)
def test_any_source_fits_and_shows_no_hidden_character(files: dict[str, bytes]) -> None:
    trees: dict[str, Any] = {"t0000": {**lab.FILES, **files}}
    prompt = render(lab.request(trees=trees))
    assert prompt.sections["files"] <= ROUND_BUDGETS["files"]
    assert not hidden(prompt.user)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=200)), st.integers(60, 2_000))
def test_lists_are_cut_between_lines_and_say_so(lines: list[str], budget: int) -> None:
    flat = [line.replace("\n", " ") for line in lines]
    made = listed("Title", flat, budget)
    assert len(made) <= budget and made.startswith("## Title")
    shown = [line for line in made.split("\n") if line.startswith("- ")]
    assert len(shown) <= len(flat)
    if len(shown) < len(flat) and budget > 120:
        assert f"of {len(flat)} shown" in made


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=3_000), st.integers(40, 1_000))
def test_clipped_never_passes_its_budget(text: str, budget: int) -> None:
    assert len(clipped(text, budget)) <= budget
