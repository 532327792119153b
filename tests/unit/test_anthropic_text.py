"""Edits written as text, in the forms that models were seen to write them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.edits.text_protocol import finite, parse_answer
from agents.llm.tools import tool_names
from lineage.records import Edit

PATHS = ("train.py", "optim.py")
BLOCK = "<<<<<<< SEARCH\na = 1\n=======\na = 2\n>>>>>>> REPLACE"
WANTED = Edit(path="optim.py", search="a = 1\n", replace="a = 2\n")


@pytest.mark.parametrize(
    "text",
    [
        f"optim.py\n{BLOCK}",
        f"### `optim.py`\n\n```python\n{BLOCK}\n```",
        f"**optim.py**\n```\n{BLOCK}\n```\nDone.",
        f"Change optim.py like this:\n{BLOCK}",
        f"```optim.py\n{BLOCK}\n```",
        "optim.py\r\n" + BLOCK.replace("\n", "\r\n"),
    ],
)
def test_blocks(text: str) -> None:
    assert parse_answer(text, PATHS).edits == (WANTED,)


def test_several_blocks_and_the_file_name_carried_on() -> None:
    found = parse_answer(f"optim.py\n{BLOCK}\n\n{BLOCK}\ntrain.py\n{BLOCK}", PATHS).edits
    assert [e.path for e in found] == ["optim.py", "optim.py", "train.py"]


def test_an_empty_replacement_and_an_only_file() -> None:
    text = "<<<<<<< SEARCH\na = 1\n=======\n>>>>>>> REPLACE"
    assert parse_answer(text, ("train.py",)).edits == (Edit(path="train.py", search="a = 1\n", replace=""),)
    assert parse_answer(text, PATHS).edits == (), "without a name it is not guessed"


def test_hypothesis_and_delta() -> None:
    found = parse_answer("**Hypothesis:** fewer steps\n- EXPECTED_DELTA: -1.5e-2 CPU-s\n", PATHS)
    assert (found.hypothesis, found.expected_delta) == ("fewer steps", -0.015)


def test_a_diff_that_cannot_be_read_says_why() -> None:
    found = parse_answer("--- a/optim.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-a = 1\n", PATHS)
    assert found.edits == () and "deleting" in found.problem


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "view", "arguments": {"path": "optim.py"}}',
        '<tool_call>\n{"name": "view", "parameters": {"path": "optim.py"}}\n</tool_call>',
        '```json\n{"tool": "view", "input": {"path": "optim.py"}}\n```',
        '{"tool_calls": [{"function": {"name": "view", "arguments": "{\\"path\\": \\"optim.py\\"}"}}]}',
        '{"type": "function", "function": {"name": "view", "arguments": {"path": "optim.py"}}}',
    ],
)
def test_calls_written_as_text(text: str) -> None:
    assert parse_answer(text, PATHS, tool_names(True)).calls == (("view", {"path": "optim.py"}),)


def test_unknown_tools_are_not_calls() -> None:
    assert (
        parse_answer('{"name": "bash", "arguments": {"command": "rm"}}', PATHS, tool_names(True)).calls == ()
    )


@pytest.mark.parametrize(
    ("value", "number"), [("1e3", 1000.0), (2, 2.0), (True, None), ("nan", None), (1e999, None), ([], None)]
)
def test_finite(value: object, number: float | None) -> None:
    assert finite(value) == number


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400) | st.text(st.sampled_from('<>=SEARCHREPLAC{}":[]\n optim.py'), max_size=400))
def test_no_text_breaks_the_parser(text: str) -> None:
    found = parse_answer(text, PATHS, tool_names(True))
    assert all(isinstance(e, Edit) for e in found.edits)
