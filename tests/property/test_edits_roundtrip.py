"""Edits, diffs and units over generated texts: nothing is lost, nothing lands elsewhere."""

from __future__ import annotations

import ast
import textwrap

from hypothesis import example, given, settings
from hypothesis import strategies as st

from agents.edits.normal_form import ast_hash
from agents.edits.role_surface import units
from agents.edits.search_replace import apply_edits, canonical_diff, edits_between, from_unified_diff
from lineage.errors import EditRefused
from lineage.records import Edit

LINE = st.sampled_from(["a = 1", "b = 2", "    return x", "", "# note", "a = 1  ", "\tb = 2", "é = '日本'"])
TEXT = st.tuples(st.lists(LINE, max_size=14), st.booleans()).map(
    lambda t: "\n".join(t[0]) + ("\n" if t[1] and t[0] else "")
)


@given(TEXT, TEXT)
@example("", "a")
@example("a\na\na\n", "a\na\n")
@example("a = 1", "a = 1\n")
def test_edits_between_gives_the_new_file_exactly(old: str, new: str) -> None:
    before, after = {"m.py": old.encode()}, {"m.py": new.encode()}
    edits = edits_between(before, after)
    assert (not edits) == (old == new)
    if edits:
        assert apply_edits(before, edits) == after


@given(st.lists(LINE, min_size=1, max_size=12), st.data())
def test_a_diff_of_a_text_with_unique_lines_applies_whatever_its_numbers_say(
    lines: list[str], data: st.DataObject
) -> None:
    old = [f"{line} #{i}" for i, line in enumerate(lines)]
    keep = data.draw(st.lists(st.booleans(), min_size=len(old), max_size=len(old)))
    new = [line if kept else line + "!" for line, kept in zip(old, keep, strict=True)]
    before, after = ({"m.py": ("\n".join(x) + "\n").encode()} for x in (old, new))
    diff = canonical_diff(before, after)
    if not diff:
        assert all(keep)
        return
    moved = diff.replace("@@ -", "@@ -9")
    assert apply_edits(before, from_unified_diff(moved)) == after


@given(TEXT, TEXT, TEXT)
def test_an_edit_either_fits_one_place_or_is_refused(text: str, search: str, replace: str) -> None:
    files = {"m.py": text.encode()}
    try:
        out = apply_edits(files, [Edit(path="m.py", search=search, replace=replace)])["m.py"].decode()
    except EditRefused as refused:
        assert refused.cause == "bad_edit"
        return
    places = [at for at in range(len(text)) if text.startswith(search, at)]
    if places:
        assert out in [text[:at] + replace + text[at + len(search) :] for at in places]
    else:  # the tolerant try: line count adds up, and only blanks were forgiven
        assert "".join(search.split()) in "".join(text.split())


NAMES = st.sampled_from(["alpha", "beta", "Gamma", "DELTA"])
STATEMENT = st.one_of(
    NAMES.map(lambda n: f"{n} = 1\n"),
    NAMES.map(lambda n: f"{n}: int = (\n    1,\n)\n"),
    NAMES.map(lambda n: f"# about {n}\n@wraps\ndef {n}(x):\n    return x\n"),
    NAMES.map(
        lambda n: (
            f"class {n}(\n    object,\n):\n    '''Doc.'''\n    a = 1; b = 2\n\n    # m\n    def m(self): pass\n"
        )
    ),
    NAMES.map(lambda n: f"class {n}: pass\n"),
    NAMES.map(lambda n: f"class {n}:\n    @deco\n    # why\n    def m(self):\n        pass\n"),
    st.sampled_from(
        [
            "import os\n",
            "from a import (\n    b,\n)\n",
            "if x:\n    y = 1\nelse:\n    y = 2\n",
            "a = 1; b = 2\n",
        ]
    ),
    st.sampled_from(
        ["'''text\nover lines'''\n", "f(\n    1)\n", "x, y = 1, 2\n", "\n\n", "# lone comment\n"]
    ),
)


@given(st.lists(STATEMENT, max_size=8), st.booleans())
def test_units_hold_every_byte_in_order(parts: list[str], cut_newline: bool) -> None:
    text = "".join(parts)
    if cut_newline:
        text = text.rstrip("\n")
    ast.parse(text)
    assert "".join(unit.text for unit in units("m.py", text)) == text


@settings(max_examples=40)
@given(st.lists(STATEMENT, min_size=1, max_size=6), st.integers(0, 3))
def test_layout_does_not_change_the_key(parts: list[str], blank: int) -> None:
    text = "".join(parts)
    spaced = ("\n" * blank).join(parts) + "# end\n"
    assert ast_hash({"m.py": text.encode()}) == ast_hash({"m.py": spaced.encode()})
    again = textwrap.dedent(ast.unparse(ast.parse(text))) + "\n"
    assert ast_hash({"m.py": text.encode()}) == ast_hash({"m.py": again.encode()})
