"""Files as people have them: line ends, marks, encodings, invisible characters, strays. Each takes an edit, or is named."""

from __future__ import annotations

import subprocess
import unicodedata
from pathlib import Path

import pytest
from test_surface import ROLE, spec

from agents.edits.editable_files import problems
from agents.edits.normal_form import ast_hash
from agents.edits.role_surface import check_surface
from agents.edits.search_replace import apply_edits, canonical_diff, edits_between, from_unified_diff
from flows.environments.source_files import take, take_tracked
from lineage.errors import EditRefused
from lineage.records import Edit

PLAIN = "import math\n\nLR = 0.1  # rate\n\n\ndef f(x):\n    return x * LR\n"
WARNING = "\u26a0\ufe0f"
ODD = {
    "crlf": PLAIN.replace("\n", "\r\n").encode(),
    "mixed": PLAIN.replace("\n", "\r\n", 3).encode(),
    "old mac": PLAIN.replace("\n", "\r").encode(),
    "bom": b"\xef\xbb\xbf" + PLAIN.encode(),
    "bom and crlf": b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode(),
    "form feed": PLAIN.replace("\n\n\n", "\n\f\n\n").encode(),
    "tabs": PLAIN.replace("    ", "\t").encode(),
    "variation selector": PLAIN.replace("# rate", f"# {WARNING} rate").encode(),
    "zero width joiner": PLAIN.replace("# rate", "# \U0001f468\u200d\U0001f4bb rate").encode(),
    "latin-1": ("# -*- coding: latin-1 -*-\n" + PLAIN.replace("rate", "für")).encode("latin-1"),
    "no newline at the end": PLAIN.rstrip("\n").encode(),
}
UNITS = {"recipe.py": ["LR", "f"]}


@pytest.mark.parametrize("name", ODD)
def test_the_edit_applies_and_the_rest_keeps_its_bytes(name: str, tmp_path: Path) -> None:
    old = ODD[name]
    before = {"recipe.py": old}
    assert problems(spec(UNITS), before) == []
    after = apply_edits(before, [Edit(path="recipe.py", search="LR = 0.1", replace="LR = 0.25")])
    assert after["recipe.py"] == old.replace(b"LR = 0.1", b"LR = 0.25")
    assert check_surface(spec(UNITS), ROLE, before, after).units == ("recipe.py:LR",)
    assert ast_hash(before) != ast_hash(after)
    exec(compile(after["recipe.py"], "recipe.py", "exec"), made := {})
    assert made["f"](4) == 1.0
    assert apply_edits(before, edits_between(before, after)) == after
    assert apply_edits(before, from_unified_diff(canonical_diff(before, after))) == after
    if name not in ("latin-1", "old mac"):  # git takes a diff in UTF-8 with lines
        (tmp_path / "recipe.py").write_bytes(old)
        diff = canonical_diff(before, after).encode()
        subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=diff, check=True)
        assert (tmp_path / "recipe.py").read_bytes() == after["recipe.py"]


@pytest.mark.parametrize("name", ["crlf", "mixed", "old mac", "bom and crlf"])
def test_new_lines_end_as_the_lines_before_them(name: str) -> None:
    before = {"recipe.py": ODD[name]}
    edit = Edit(path="recipe.py", search="LR = 0.1  # rate\n", replace="LR = 0.1  # rate\nLR = LR * 2\n")
    after = apply_edits(before, [edit])["recipe.py"]
    end = b"\r" if name == "old mac" else b"\r\n"
    assert after == ODD[name].replace(b"# rate" + end, b"# rate" + end + b"LR = LR * 2" + end)


def test_a_model_may_quote_the_line_ends_of_the_file() -> None:
    edit = Edit(path="recipe.py", search="LR = 0.1  # rate\r\n", replace="LR = 0.3  # rate\r\n")
    assert b"LR = 0.3  # rate\r\n" in apply_edits({"recipe.py": ODD["crlf"]}, [edit])["recipe.py"]


@pytest.mark.parametrize(
    ("name", "replace"),
    [
        ("variation selector", f"LR = 0.2  # {WARNING} rate {WARNING}"),
        ("zero width joiner", "L\u200dR = 0.2  # rate"),
        ("form feed", "LR = 0.1  # rate\n\f"),
        ("crlf", "LR = 0.2  # \u202e rate"),
    ],
)
def test_an_edit_may_not_add_what_is_there_already_elsewhere(name: str, replace: str) -> None:
    line = next(x for x in ODD[name].decode().split("\n") if x.startswith("LR")).rstrip("\r")
    with pytest.raises(EditRefused, match="invisible character"):
        apply_edits({"recipe.py": ODD[name]}, [Edit(path="recipe.py", search=line, replace=replace)])


@pytest.mark.parametrize("data", [ODD["crlf"], ODD["bom"]], ids=["line ends", "mark"])
def test_a_change_of_line_ends_or_mark_alone_is_refused(data: bytes) -> None:
    with pytest.raises(EditRefused, match="invisible character"):
        check_surface(spec(UNITS), ROLE, {"recipe.py": PLAIN.encode()}, {"recipe.py": data})


def test_an_edit_may_not_change_the_encoding_or_leave_it() -> None:
    before = {"recipe.py": ODD["latin-1"]}
    for search, replace, words in (
        ("coding: latin-1", "coding: utf-8", "may not change the encoding"),
        ("LR = 0.1", "LR = 0.1  # \u2264 1", "cannot be written in the file's encoding"),
    ):
        with pytest.raises(EditRefused, match=words):
            apply_edits(before, [Edit(path="recipe.py", search=search, replace=replace)])
    with pytest.raises(EditRefused, match="not readable text"):
        first = Edit(path="recipe.py", search="import math\n", replace="# coding: utf-7\nimport math\n")
        apply_edits({"recipe.py": PLAIN.encode()}, [first])


@pytest.mark.parametrize(
    ("files", "units", "words"),
    [
        ({"recipe.py": "x = 'ü'\n".encode("latin-1")}, ["*"], "recipe.py: not utf-8 text at byte 5 (line 1)"),
        ({"recipe.py": b"# coding: utf-7\nx = 1\n"}, ["*"], "the encoding utf-7 is not readable text"),
        ({"recipe.py": b"x = (\n"}, ["*"], "recipe.py, line 1"),
        ({"recipes.py": b"x = 1\n"}, ["*"], "no such file in the source; did you mean recipes.py?"),
        ({"recipe.py": b"x = 1\n" * 9000}, ["*"], "the source is 54,009 bytes"),
    ],
)
def test_what_cannot_be_edited_is_named(files: dict[str, bytes], units: list[str], words: str) -> None:
    assert words in "; ".join(problems(spec({"recipe.py": units}), files))


def test_strays_are_left_out_and_named(tmp_path: Path) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("X = 1\n")
    root = tmp_path / "source"
    (root / "parts").mkdir(parents=True)
    for folder in ("__pycache__", ".ipynb_checkpoints", "out", "parts/cache"):
        (root / folder).mkdir()
        (root / folder / "a.py").write_text("A = 1\n")
    for name in (
        "train.py",
        "parts/net.py",
        "train.py~",
        ".train.py.swp",
        ".DS_Store",
        "x.log",
        "parts/keep.log",
        "named.log",
    ):
        (root / name).write_text("B = 1\n")
    (root / ".gitignore").write_bytes("\ufeffout/\r\n*.log\r\n".encode())
    (root / "parts/.gitignore").write_text("!keep.log\ncache\n")
    (root / "model.ckpt").write_bytes(bytes(range(256)) * 12_000)
    (root / "merges.bin").write_bytes(bytes(range(256)))
    (root / "linked.py").symlink_to(outside)
    (root / "gone.py").symlink_to(tmp_path / "nowhere")
    (root / "data").symlink_to(tmp_path)
    taken = take(root, {"named.log"})
    assert set(taken.files) == {
        "train.py",
        "parts/net.py",
        "parts/keep.log",
        "named.log",
        "merges.bin",
        "linked.py",
    }
    assert taken.files["linked.py"] == b"X = 1\n"
    notes = "\n".join(taken.notes(root))
    for words in (
        "not source: .DS_Store, .ipynb_checkpoints/, .train.py.swp, train.py~",
        "named by .gitignore: out/, parts/cache/, x.log",
        "no text and larger than 64 KiB (data belong to prepare.py; a surface that names it keeps it): model.ckpt",
        "a link to a folder: data",
        "a link to nothing: gone.py",
    ):
        assert words in notes
    assert len(notes.splitlines()) == 5
    tracked = take_tracked(root, lambda path: path == "merges.bin").files
    assert {"x.log", "out/a.py", "train.py~", "model.ckpt", ".gitignore"} <= set(tracked)
    assert not {"merges.bin", ".DS_Store", "__pycache__/a.py"} & set(tracked)


def test_the_table_of_odd_characters_is_what_it_says() -> None:
    assert unicodedata.name(WARNING[1]) == "VARIATION SELECTOR-16"
