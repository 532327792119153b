"""The duplicate key: equal for equal programs, different for different ones, the same everywhere."""

import pytest

from agents.edits.normal_form import ast_hash, normal_form
from lineage.errors import EditRefused

A = b'"""Doc."""\nLR = 1e-3  # rate\n\n\ndef f(x):\n    """Say."""\n    return {"a": x}\n'


@pytest.mark.parametrize(
    "same",
    [
        b"LR = 0.001\ndef f(x): return {'a': x}\n",
        b'LR=.001\n\ndef f(\n    x\n):\n    pass\n    return {"a": (x)}\n',
        b'LR = 1e-3\ndef f(x):\n    return {u"a": x}\n',
    ],
)
def test_layout_comments_docstrings_and_spelling_do_not_matter(same: bytes) -> None:
    assert ast_hash({"m.py": A}) == ast_hash({"m.py": same})


@pytest.mark.parametrize(
    "other",
    [
        A.replace(b"1e-3", b"1e-4"),
        A.replace(b"return", b"yield"),
        A.replace(b"(x)", b"(x, y)"),
        A.replace(b'"a"', b'b"a"'),
        A.replace(b"def f", b"async def f"),
        A.replace(b"LR = 1e-3", b"LR = None"),
        A.replace(b"LR = 1e-3", b"LR = True"),
        A.replace(b"LR = 1e-3", b"LR = 1"),
        A + b"X = 1\n",
    ],
)
def test_programs_that_differ_have_different_keys(other: bytes) -> None:
    assert ast_hash({"m.py": A}) != ast_hash({"m.py": other})


def test_names_of_files_count_and_order_does_not() -> None:
    assert ast_hash({"a.py": A, "b.py": b"X = 1\n"}) == ast_hash({"b.py": b"X = 1\n", "a.py": A})
    assert ast_hash({"a.py": A}) != ast_hash({"b.py": A})
    assert ast_hash({"a.py": A, "note.txt": b"1"}) != ast_hash({"a.py": A, "note.txt": b"2"})


def test_true_is_not_one_and_a_string_expression_that_is_no_docstring_counts() -> None:
    assert normal_form("m.py", "X = 1\n'a'\n") != normal_form("m.py", "X = 1\n'b'\n")
    assert normal_form("m.py", "'a'\nX = 1\n") == normal_form("m.py", "X = 1\n")


def test_the_key_is_the_same_on_every_python_version() -> None:
    assert ast_hash({"m.py": A}) == KEY


@pytest.mark.parametrize("bad", [b"x = = 1\n", b"x = \xff\n", b"x = " + b"-" * 100_000 + b"1\n"])
def test_what_does_not_parse_is_refused_as_syntax(bad: bytes) -> None:
    with pytest.raises(EditRefused) as caught:
        ast_hash({"m.py": bad})
    assert caught.value.cause == "syntax"
    assert "m.py" in str(caught.value)


KEY = "0281c4c5c91813a68d53d6cd744a628a05cc32d236a8508ff817cd52f4e56a01"
