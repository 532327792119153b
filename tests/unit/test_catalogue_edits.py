"""Structural edits on source text: every word of `do`, patterns, constants, and three-way merges."""

from __future__ import annotations

import random
import textwrap
from pathlib import Path

import pytest

from agents.catalogue.recipe_constants import (
    Number,
    at_unit,
    insert_constant,
    numbers,
    range_of,
    set_constant,
    step,
    unit,
)
from agents.catalogue.technique import Change, Pattern, Range, load_catalogue
from agents.catalogue.three_way_merge import merge_files
from agents.catalogue.transform import NotApplicable, apply_change, found
from lineage.errors import SpecInvalid

SOURCE = '''"""Doc."""

from __future__ import annotations

import torch

RATE = 0.1  # why


class Net(Base):
    """Net."""

    def forward(self, x):
        # look here
        y = self.act( self.fc(x),
                      0.10, )  # kept
        return y


def fit(net, epochs):
    """Fit."""
    for epoch in range(epochs):
        loss = criterion(net(x), "mean")
        if epoch:
            step()
    return net
'''


def change(do: str, code: str = "", find: str = "", inside: str = "", **more: bool) -> str:
    spec = {
        "file": "m.py",
        "do": do,
        "code": textwrap.dedent(code),
        "find": textwrap.dedent(find),
        "inside": inside,
    }
    return apply_change(SOURCE, Change.model_validate({**spec, **more}))


def lost_and_won(new: str) -> tuple[list[str], list[str]]:
    old = SOURCE.split("\n")
    lines = new.split("\n")
    return [x.strip() for x in old if x not in lines], [x.strip() for x in lines if x not in old]


def test_replace_ignores_layout_and_keeps_what_a_hole_stands_for() -> None:
    new = change("replace", "y = self.act(__inner) + 1", "y = self.act(__inner, 1e-1)", "Net.forward")
    assert "        # look here\n        y = self.act(self.fc(x)) + 1\n        return y\n" in new


def test_a_hole_that_occurs_twice_must_be_the_same_and_operators_are_bracketed() -> None:
    text = "def f(a, b):\n    return g(a + b, a + b)\n"
    made = Change(file="m.py", inside="f", do="expression", find="g(__x, __x)", code="h(__x) * __x")
    assert "return h(a + b) * (a + b)" in apply_change(text, made)
    with pytest.raises(NotApplicable):
        apply_change(text.replace("a + b)", "a - b)"), made)


def test_before_after_start_end() -> None:
    assert lost_and_won(change("before", "a = 1", "return net", "fit")) == ([], ["a = 1"])
    new = change("after", "tick()", "step()", "fit")
    assert "            step()\n            tick()\n" in new
    new = change("start", "begin()", "for epoch in range(epochs): ...", "fit")
    assert "for epoch in range(epochs):\n        begin()\n        loss" in new
    new = change("end", "done()", "for epoch in range(epochs): ...", "fit")
    assert "            step()\n        done()\n    return net\n" in new
    assert '"""Fit."""\n    first()\n' in change("start", "first()", inside="fit")
    assert "    return net\n    last()\n" in change("end", "last()", inside="fit")


def test_arguments_can_be_kept_and_added() -> None:
    new = change("expression", "criterion(*__rest, weight=2)", "criterion(*__rest)", "fit")
    assert 'loss = criterion(net(x), "mean", weight=2)' in new
    assert "other(1)" in change("expression", "other(1)", "criterion(...)", "fit")


def test_a_block_can_be_kept() -> None:
    code = "with timed():\n    for epoch in range(epochs):\n        __body\n"
    new = change("replace", code, "for epoch in range(epochs):\n    __body\n", "fit")
    assert "    with timed():\n        for epoch in range(epochs):\n            loss = criterion" in new


def test_definitions_are_replaced_and_added() -> None:
    new = change("definition", "def fit(net):\n    return net\n", inside="fit")
    assert new.endswith("\n\n\ndef fit(net):\n    return net\n")
    assert "return y\n\n\ndef extra():" in change("add", "def extra():\n    pass\n", inside="Net")
    assert change("add", "def extra():\n    pass\n").endswith("return net\n\n\ndef extra():\n    pass\n")
    assert "return y\n\n    def more(self):" in change("add", "def more(self):\n    pass\n", inside="Net:")
    with pytest.raises(NotApplicable, match="there already"):
        change("add", "def fit():\n    pass\n")


def test_imports_are_added_once_and_in_their_group() -> None:
    assert "import annotations\n\nimport math\n\nimport torch\n" in change("import", "import math")
    assert "import torch\nfrom torch import nn\n" in change("import", "from torch import nn")
    assert change("import", "import torch") == SOURCE


@pytest.mark.parametrize(
    ("do", "find", "inside", "words"),
    [
        ("replace", "nothing_like = this", "fit", "no nothing_like, this"),
        ("replace", "return x", "fit", "nothing in fit fits"),
        ("expression", "net", "fit", "places fit"),
        ("before", "return net", "missing", "missing is defined 0 times"),
    ],
)
def test_what_does_not_fit_is_not_applied(do: str, find: str, inside: str, words: str) -> None:
    with pytest.raises(NotApplicable, match=words):
        change(do, "pass" if do != "expression" else "other", find, inside)


def test_found_sees_statements_expressions_and_names() -> None:
    def there(find: str, inside: str = "") -> bool:
        return found(SOURCE, Pattern(file="m.py", find=find, inside=inside))

    assert there("self.fc(__x)")
    assert there("step()", "fit")
    assert there("if epoch: ...", "fit")
    assert not there("step()", "Net")
    assert not there("why")  # only a comment
    assert there("RATE")


# ---- constants

TEXT = "import os\n\nA: int = 3  # three\nB = -2.5\nC = (1,\n     2)\nlower = 1\nD = True\n\n\ndef f():\n    E = 1\n"


def test_numbers_are_read_set_and_inserted_in_place() -> None:
    assert numbers({"m.py": TEXT.encode(), "n.txt": b"A = 1"}) == {
        "m.py:A": Number("m.py:A", 3.0, True),
        "m.py:B": Number("m.py:B", -2.5, False),
    }
    assert set_constant(TEXT, "A", 7) == TEXT.replace("= 3  #", "= 7  #")
    assert set_constant(TEXT, "B", 1e-5) == TEXT.replace("-2.5", "1e-05")
    assert set_constant(TEXT, "B", 4.0) == TEXT.replace("-2.5", "4.0")
    assert set_constant(TEXT, "C", "(3,)") == TEXT.replace("(1,\n     2)", "(3,)")
    assert "A: int = 3  # three\nZ = 1.0  # new\nB" in insert_constant(TEXT, "Z", 1.0, "new", "A")
    assert "D = True\nZ = 1\n" in insert_constant(TEXT, "Z", 1)
    assert insert_constant("import os\n\n\ndef f():\n    pass\n", "Z", 1).startswith(
        "import os\n\nZ = 1\n\n\ndef"
    )
    with pytest.raises(NotApplicable):
        set_constant(TEXT, "Q", 1)
    with pytest.raises(NotApplicable):
        insert_constant(TEXT, "A", 1)


def test_ranges_and_steps() -> None:
    number = Number("m.py:N", 32.0, True)
    span = range_of(number, {})
    assert (span.low, span.high, span.log) == (4.0, 256.0, True)
    assert unit(32.0, span) == pytest.approx(0.5)
    assert at_unit(0.5, span, True) == 32.0
    assert at_unit(7.0, span, True) == 256.0
    assert range_of(Number("m.py:N", 0.0, False), {}) == Range(low=0, high=1)
    assert range_of(number, {"m.py:N": Range(low=40, high=50)}).low == 32.0
    rng = random.Random(1)
    values = {step(number, span, rng) for _ in range(50)}
    assert 32.0 not in values
    assert all(4 <= value <= 256 and value == int(value) for value in values)


# ---- merge


def merged(base: str, ours: str, theirs: str) -> str | None:
    out = merge_files(*({"m.py": text.encode()} for text in (base, ours, theirs)))
    return out["m.py"].decode() if out else None


BASE = (
    "A = 1\nB = 2\n\n\ndef f():\n    x = 1\n    y = 2\n    z = 3\n    return x\n\n\ndef g():\n    return 1\n"
)


def test_neighbouring_constants_merge_where_lines_would_conflict() -> None:
    out = merged(BASE, BASE.replace("A = 1", "A = 9"), BASE.replace("B = 2", "B = 8"))
    assert out == BASE.replace("A = 1", "A = 9").replace("B = 2", "B = 8")


def test_one_function_merges_by_line_or_is_a_conflict() -> None:
    out = merged(BASE, BASE.replace("x = 1", "x = 9"), BASE.replace("z = 3", "z = 8"))
    assert out == BASE.replace("x = 1", "x = 9").replace("z = 3", "z = 8")
    assert merged(BASE, BASE.replace("x = 1", "x = 9"), BASE.replace("x = 1", "x = 8")) is None
    assert merged(BASE, BASE.replace("x = 1", "x = 9"), BASE.replace("x = 1", "x = 9")) == BASE.replace(
        "x = 1", "x = 9"
    )


def test_additions_and_deletions_merge() -> None:
    ours = "import os\n" + BASE + "\n\ndef mine():\n    pass\n"
    theirs = BASE.replace("def g():\n    return 1\n", "C = 3\n")
    out = merged(BASE, ours, theirs)
    assert out is not None
    assert "import os\n" in out and "def mine" in out and "C = 3" in out and "def g" not in out
    assert merged(BASE, BASE.replace("return 1", "return 2"), theirs) is None


def test_undo_is_a_merge_backwards() -> None:
    after = BASE.replace("A = 1", "A = 5")
    later = after.replace("return 1", "return 7")
    assert merged(after, later, BASE) == BASE.replace("return 1", "return 7")


def test_whole_files() -> None:
    base, ours, theirs = (
        {"a.py": b"A = 1\n"},
        {"a.py": b"A = 2\n", "b.py": b"B = 1\n"},
        {"a.py": b"A = 1\n", "c.py": b""},
    )
    assert merge_files(base, ours, theirs) == {"a.py": b"A = 2\n", "b.py": b"B = 1\n", "c.py": b""}
    assert merge_files(base, {}, {"a.py": b"A = 3\n"}) is None


# ---- files


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = 1", "name"),
        ('name = "x"\nnonsense = 1', "nonsense"),
        ("name = ", "not valid TOML"),
        (
            'name = "y"\nsurface = "s"\ntitle = "long enough"\nwhy = "long enough to say something"\nsource = "me, now"',
            "neither",
        ),
        (
            'name = "y"\nsurface = "s"\ntitle = "long enough"\nwhy = "long enough to say something"\nsource = "me, now"\n'
            '[[edits]]\nfile = "a.py"\ndo = "replace"',
            "`find` is missing",
        ),
    ],
)
def test_a_broken_technique_file_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(SpecInvalid, match=words) as caught:
        load_catalogue(tmp_path)
    assert "x.toml" in str(caught.value)


def test_an_absent_folder_is_an_empty_catalogue(tmp_path: Path) -> None:
    assert load_catalogue(tmp_path / "none").techniques == ()
