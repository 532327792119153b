"""The tools one by one: what they show, what they refuse, and what they never show."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.edits.normal_form import ast_hash
from agents.edits.search_replace import Files, apply_edits
from agents.llm.tools import RESULT_LIMIT, Scratch, open_scratch, tool_names, tool_specs, use
from lineage.records import Check, Status
from tests.fakes import lab

OTHER: Files = {**lab.FILES, "optim.py": lab.FILES["optim.py"].replace(b"0.04", b"0.08")}
ROWS = [
    lab.row(
        1,
        "arch",
        Status.KEEP,
        score=2.2,
        delta_parent=-0.1,
        numbers={"bytes_to_spare": 7},
        notes="\x1b[2Jnotes",
    ),
    lab.row(2, status=Status.REJECTED, cause="bad_edit"),
]


def scratch(**more: Any) -> Scratch:
    return open_scratch(lab.request(ROWS, trees={"t0001": OTHER}, **more), "t0000")


def ok(s: Scratch, name: str, **given: Any) -> str:
    text, failed = use(s, name, given)
    assert not failed, text
    return text


def refused(s: Scratch, name: str, **given: Any) -> str:
    text, failed = use(s, name, given)
    assert failed, text
    return text


def test_view_by_lines() -> None:
    s = scratch()
    assert "    2| WARMUP = 0.1" in ok(s, "view", path="optim.py", first=2, last=2)
    assert "WARMUP" not in ok(s, "view", path="optim.py", last=1)
    assert "6 lines" in refused(s, "view", path="optim.py", first=9)
    assert "model.py, optim.py" in refused(s, "view", path="../etc/passwd")
    assert "whole number" in refused(s, "view", path="optim.py", first="two")


def test_search_is_for_plain_text() -> None:
    s = scratch()
    assert ok(s, "search", text="EPOCHS").count("train.py:") == 2
    assert ok(s, "search", text=".*") == "no line holds that text"
    assert ok(s, "search", text="LR", path="optim.py").startswith("optim.py:1:")
    assert "one non-empty line" in refused(s, "search", text=" ")


def test_replace_wants_exactly_one_place_and_says_what_is_near() -> None:
    s = scratch()
    assert "nearest lines" in refused(s, "replace", path="optim.py", search="LR = 0.4", replace="LR = 1")
    assert "2 times" in refused(s, "replace", path="train.py", search="EPOCHS", replace="N")
    assert "changed so far: optim.py" in ok(s, "replace", path="optim.py", search="0.04", replace="0.05")
    assert s.now["optim.py"].startswith(b"LR = 0.05") and s.before["optim.py"].startswith(b"LR = 0.04")


@pytest.mark.parametrize(
    ("line", "start"), [(0, b"import math\nLR"), (1, b"LR = 0.04  # twice this diverges\nimport math\n")]
)
def test_insert(line: int, start: bytes) -> None:
    s = scratch()
    ok(s, "insert", path="optim.py", line=line, text="import math")
    assert s.now["optim.py"].startswith(start)
    ok(s, "insert", path="optim.py", text="END = 1\n")
    assert s.now["optim.py"].endswith(b"\nEND = 1\n")
    assert "0 (top) to" in refused(s, "insert", path="optim.py", line=99, text="x")


def test_invisible_characters_are_refused_in_every_edit() -> None:
    s = scratch()
    assert "invisible" in refused(s, "replace", path="optim.py", search="0.04", replace="0.05\u202e")
    assert "invisible" in refused(s, "insert", path="optim.py", text="x = 1\u200b")
    refused(s, "insert", path="optim.py", text="x = '\ud800'")
    assert not s.changed


def test_check_reports_surface_duplicates_and_the_engine_s_checks() -> None:
    def preflight(files: Files) -> list[Check]:
        return [Check(name="size", passed=False, numbers={"bytes_over": 12}, detail="too large\x1b[0m")]

    s = scratch(check=preflight)
    assert "nothing has been edited" in refused(s, "check")
    ok(s, "replace", path="train.py", search="EPOCHS = 12", replace="EPOCHS = 9")
    assert "FAILED outside_surface" in ok(s, "check")
    s = scratch(check=preflight)
    ok(s, "replace", path="optim.py", search="0.04", replace="0.05")
    told = ok(s, "check")
    assert "passed surface" in told and 'FAILED size in 0.0 s bytes_over=12; "too large"' in told


def test_read_trial_gives_numbers_and_the_diff_as_data() -> None:
    told = ok(scratch(), "read_trial", trial="t0001")
    assert "bytes_to_spare=7" in told and "better than parent by 0.100" in told
    assert "| -LR = 0.04  # twice this diverges" in told and "| +LR = 0.08" in told
    assert "\x1b" not in told
    assert "no finished trial" in refused(scratch(), "read_trial", trial="t9999")
    assert "rejected:bad_edit" in ok(scratch(), "read_trial", trial="t0002")


def test_choose_parent_starts_over_from_another_source() -> None:
    s = scratch()
    ok(s, "replace", path="optim.py", search="0.04", replace="0.05")
    assert "edits so far are dropped" in ok(s, "choose_parent", trial="t0001")
    assert (s.parent, s.changed) == ("t0001", False) and s.now == OTHER
    assert "has no source" in refused(s, "choose_parent", trial="t0002")


def test_without_lineage_there_is_nothing_to_read_and_only_the_best_to_start_from() -> None:
    s = scratch(arm="no_lineage")
    assert {"read_trial", "diff_trials"} == set(tool_names(True)) - set(tool_names(False))
    assert "no tool" in refused(s, "read_trial", trial="t0001")
    ok(s, "choose_parent", trial="t0001")
    more = [*ROWS, lab.row(3, status=Status.DISCARD, score=2.4)]
    s = open_scratch(lab.request(more, arm="no_lineage"), "t0000")
    assert "t0000, t0001 only" in refused(s, "choose_parent", trial="t0003")
    known = [
        lab.row(
            4, ast_sha256=ast_hash({**lab.FILES, "optim.py": lab.FILES["optim.py"].replace(b"0.1", b"0.2")})
        )
    ]
    for arm, named in (("specialists", True), ("no_lineage", False)):
        s = open_scratch(lab.request(known, arm=arm), "t0000")
        ok(s, "replace", path="optim.py", search="0.1", replace="0.2")
        told = ok(s, "check")
        assert "tried already" in told and ("t0004" in told) is named


def test_submit_cleans_its_texts_and_gives_edits_that_apply() -> None:
    s = scratch()
    ok(s, "insert", path="optim.py", line=2, text="DECAY = 0.5")
    ok(s, "replace", path="optim.py", search="0.04", replace="0.05")
    told = ok(
        s, "submit", hypothesis="\x1b[1mBold\u202e idea", expected_delta="nan", notes=3, edit_kind="magic"
    )
    assert told == "handed in" and s.submission is not None
    assert (s.submission.hypothesis, s.submission.expected_delta) == ("Bold idea", None)
    assert (s.submission.notes, s.submission.edit_kind) == ("", "")
    assert apply_edits(lab.FILES, s.submission.edits) == s.now
    assert "empty" in refused(scratch(), "submit", hypothesis=" ")
    assert "nothing has been edited" in refused(scratch(), "submit", hypothesis="x")


def test_tool_definitions_are_plain_schemas() -> None:
    for spec in tool_specs(True):
        schema = spec["input_schema"]
        assert schema["additionalProperties"] is False and set(schema["required"]) <= set(
            schema["properties"]
        )


JUNK = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.lists(st.integers(), max_size=3)
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(tool_names(True)),
    st.dictionaries(
        st.sampled_from(
            ["path", "text", "search", "replace", "line", "first", "last", "trial", "second", "hypothesis"]
        ),
        JUNK | st.sampled_from(["optim.py", "t0001", "LR"]),
    ),
)
def test_no_input_breaks_a_tool(name: str, given: dict[str, Any]) -> None:
    text, _ = use(scratch(), name, given)
    assert isinstance(text, str) and 0 < len(text) <= RESULT_LIMIT
