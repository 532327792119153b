"""Search/replace blocks: what fits, what is refused, and what the refusal tells the author."""

import re

import pytest

from agents.edits.search_replace import apply_edits, canonical_diff, edits_between, from_unified_diff
from lineage.errors import EditRefused
from lineage.records import Edit

SOURCE = """import torch

LR = 0.1
WARM_LR = 0.1
STEPS = 100


def make(m):
    total = 0
    for p in m:
        total += p
    return total


def other(m):
    total = 0
    return total
"""
FILES = {"train.py": SOURCE.encode(), "net.py": b"WIDTH = 3\n"}


def block(search: str, replace: str, path: str = "train.py") -> Edit:
    return Edit(path=path, search=search, replace=replace)


def refused(*edits: Edit, files: dict[str, bytes] | None = None) -> EditRefused:
    with pytest.raises(EditRefused) as caught:
        apply_edits(FILES if files is None else files, edits)
    assert caught.value.cause == "bad_edit"
    return caught.value


def test_one_place_is_replaced_and_the_input_is_left_alone() -> None:
    before = dict(FILES)
    out = apply_edits(FILES, [block("STEPS = 100", "STEPS = 50"), block("WIDTH = 3", "WIDTH = 4", "net.py")])
    assert out["train.py"] == SOURCE.replace("STEPS = 100", "STEPS = 50").encode()
    assert out["net.py"] == b"WIDTH = 4\n"
    assert before == FILES


def test_later_blocks_see_earlier_ones_and_all_fail_together() -> None:
    out = apply_edits(FILES, [block("STEPS = 100", "STEPS = 50"), block("STEPS = 50", "STEPS = 25")])
    assert b"STEPS = 25" in out["train.py"]
    error = refused(block("STEPS = 100", "STEPS = 50"), block("STEPS = 100", "STEPS = 25"))
    assert str(error).startswith("edit 2 of 2: ")
    assert error.numbers["edit"] == 2


def test_whole_lines_are_looked_for_at_line_starts_first() -> None:
    out = apply_edits(FILES, [block("LR = 0.1\n", "LR = 0.2\n")])
    assert b"\nLR = 0.2\nWARM_LR = 0.1\n" in out["train.py"]


def test_ambiguous_text_names_the_lines() -> None:
    error = refused(block("total = 0\n", "total = 1\n"))
    assert "found 2 times (lines 9, 16), need exactly 1" in str(error)
    assert error.numbers["found"] == 2


def test_overlapping_fits_are_counted() -> None:
    error = refused(block("a\na\n", "b\n", "x.py"), files={"x.py": b"a\na\na\n"})
    assert error.numbers["found"] == 2


def test_a_miss_shows_the_three_nearest_lines_with_numbers() -> None:
    error = refused(block("    return totals(m)\n", "    return 1\n"))
    shown = re.findall(r"line (\d+): '([^']+)'", str(error))
    assert len(shown) == 3
    assert ("12", "return total") in shown
    assert error.numbers["found"] == 0


def test_blanks_and_tabs_are_forgiven_and_untouched_lines_keep_their_bytes() -> None:
    files = {"x.py": b"def f():\n    a = 1   \n    b = 2\n    c = 3\n"}
    out = apply_edits(
        files, [block("def f():\n\ta = 1\n    b = 2  \n", "def f():\n\ta = 1\n    b = 9\n", "x.py")]
    )
    assert out["x.py"] == b"def f():\n    a = 1   \n    b = 9\n    c = 3\n"


def test_the_tolerant_try_must_be_unique_too() -> None:
    files = {"x.py": b"if a:\n    go()  \nif b:\n    go() \n"}
    error = refused(block("    go()\n", "    stop()\n", "x.py"), files=files)
    assert "fits 2 places apart from blanks (lines 2, 4)" in str(error)


def test_a_search_text_of_blank_lines_never_fits_loosely() -> None:
    assert refused(block("  \n", "x\n", "x.py"), files={"x.py": b"a\n \n"}).numbers["found"] == 0


def test_last_line_without_newline() -> None:
    out = apply_edits({"x.py": b"a = 1\nb = 2"}, [block("a = 1\nb = 2\n", "a = 1\nb = 3\n", "x.py")])
    assert out["x.py"].rstrip(b"\n") == b"a = 1\nb = 3"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (block("LR = 0.1\n", "LR = 0.1\n"), "the same text"),
        (block("", "x = 1\n"), "exists already"),
        (block("x", "y", "new.py"), "no such file"),
        (block("", "x = 1\n", "../outside.py"), "no file '../outside.py'"),
        (block("", "x = 1\n", "/etc/passwd"), "no file"),
        (block("", "x = 1\n", ".git/hooks/post-checkout"), "no file"),
        (block("", "x = 1\n", "a\nb.py"), "no file"),
        (block("", "x = 1\n", "sub/../new.py"), "no file"),
        (block("", "x = 1\n", "sub/.hidden.py"), "no file"),
        (block("", "x = 1\n", "net.py/new.py"), "no file"),
        (block("", "x = 1\n", "TRAIN.PY"), "only in case"),
        (block("", "x = 1\n", "Net.py"), "only in case"),
        (block("LR = 0.1\n", "LR = 0.2\r\n"), "U+000D"),
        (block("LR = 0.1\n", "LR = 0.2\0\n"), "U+0000"),
        (block("LR = 0.1\n", "LR = 0.2\f\n"), "U+000C"),
        (block("LR = 0.1\n", "\ufeffLR = 0.2\n"), "U+FEFF"),
        (block("LR = 0.1\n", "LR = 0.2  # \u202e note\n"), "U+202E"),
        (block("LR = 0.1\n", "L\u200bR = 0.2\n"), "U+200B"),
        (block("LR = 0.1\n", "\u3164 = 0.2\n"), "U+3164"),
        (block("LR = 0.1\n", "LR = 0.2 \u2028STEPS = 9\n"), "U+2028"),
        (block("LR = 0.1\n", "LR = '\ud800'\n"), "U+D800"),
    ],
)
def test_refusals(edit: Edit, words: str) -> None:
    assert words in str(refused(edit))


def test_no_edit_at_all_is_refused() -> None:
    assert "holds no edit" in str(refused())


def test_a_new_file_is_created_by_an_empty_search() -> None:
    assert apply_edits(FILES, [block("", "X = 1\n", "muon.py")])["muon.py"] == b"X = 1\n"


# ---- diffs


HEADER = "--- a/train.py\n+++ b/train.py\n"


@pytest.mark.parametrize(
    "at", ["@@ -8,3 +8,3 @@", "@@ -1,9 +77,2 @@", "@@ ... @@", "@@", "@@ -8,3 +8,3 @@ def make(m):"]
)
def test_hunk_numbers_do_not_matter(at: str) -> None:
    diff = f"{HEADER}{at}\n def make(m):\n-    total = 0\n+    total = 5\n     for p in m:\n"
    out = apply_edits(FILES, from_unified_diff(diff))
    assert out["train.py"] == SOURCE.replace("total = 0", "total = 5", 1).encode()


def test_a_diff_may_stand_in_a_fence_with_prose_around_it() -> None:
    diff = f"Here it is:\n```diff\ndiff --git a/train.py b/train.py\nindex 1..2 100644\n{HEADER}@@ -5 +5 @@\n-STEPS = 100\n+STEPS = 7\n```\nDone.\n"
    assert b"STEPS = 7" in apply_edits(FILES, from_unified_diff(diff))["train.py"]


def test_no_newline_marker() -> None:
    files = {"x.py": b"a = 1\nb = 2"}
    diff = "--- a/x.py\n+++ b/x.py\n@@ -1,2 +1,2 @@\n a = 1\n-b = 2\n\\ No newline at end of file\n+b = 3\n\\ No newline at end of file\n"
    assert apply_edits(files, from_unified_diff(diff))["x.py"] == b"a = 1\nb = 3"


@pytest.mark.parametrize(
    ("diff", "words"),
    [
        ("nothing here", "holds no hunk"),
        ("@@ -1 +1 @@\n-a\n+b\n", "before any"),
        ("--- ok.py\n+++ prot.py\n@@ -1 +1 @@\n-a\n+b\n", "names two files"),
        ("--- a/train.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-import torch\n", "deleting 'train.py'"),
        (
            "diff --git a/s b/s\nnew file mode 120000\n--- /dev/null\n+++ b/s\n@@ -0,0 +1 @@\n+../v\n",
            "not accepted",
        ),
        (
            "diff --git a/s b/s\nnew file mode 160000\n--- /dev/null\n+++ b/s\n@@ -0,0 +1 @@\n+Sub\n",
            "not accepted",
        ),
        ("diff --git a/ok.py b/ok.py\nold mode 100644\nnew mode 100755\n", "not accepted"),
        (
            "diff --git a/a.py b/b.py\nsimilarity index 100%\nrename from a.py\nrename to b.py\n",
            "not accepted",
        ),
        ("deleted file mode 100644\n", "not accepted"),
        ("GIT binary patch\n", "not accepted"),
        ('--- /dev/null\n+++ "b/a\\nb.py"\n@@ -0,0 +1 @@\n+x\n', "quoted"),
        (f"{HEADER}@@ -5,0 +6 @@\n+X = 1\n", "without context"),
        (f"{HEADER}@@ -5 +5 @@\n STEPS = 100\n", "changes nothing"),
        (f"{HEADER}@@ -5 +5 @@\n-STEPS = 100\nSTEPS = 9\n", "starts with"),
    ],
)
def test_refused_diffs(diff: str, words: str) -> None:
    with pytest.raises(EditRefused, match=re.escape(words)):
        from_unified_diff(diff)


@pytest.mark.parametrize(
    "path",
    [
        "../outside/victim.txt",
        "../outside/new.py",
        "link/../victim.txt",
        ".git/hooks/post-checkout",
        "/tmp/v.py",
    ],
)
def test_a_diff_cannot_leave_the_recipe(path: str) -> None:
    with pytest.raises(EditRefused):
        apply_edits(FILES, from_unified_diff(f"--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+pwned\n"))
    with pytest.raises(EditRefused):
        apply_edits(FILES, from_unified_diff(f"--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-decoy\n+pwned\n"))


def test_a_hallucinated_context_line_is_refused() -> None:
    diff = f"{HEADER}@@ -8,3 +8,3 @@\n def make(m):\n     self.config.hallucinated = True\n-    total = 0\n+    total = 5\n"
    with pytest.raises(EditRefused, match="not found"):
        apply_edits(FILES, from_unified_diff(diff))


def test_canonical_diff_is_what_git_shows() -> None:
    after = {**FILES, "net.py": b"WIDTH = 4", "zoo.py": b"A = 1\n"}
    assert canonical_diff(FILES, after) == (
        "--- a/net.py\n+++ b/net.py\n@@ -1 +1 @@\n-WIDTH = 3\n+WIDTH = 4\n\\ No newline at end of file\n"
        "--- /dev/null\n+++ b/zoo.py\n@@ -0,0 +1 @@\n+A = 1\n"
    )
    assert canonical_diff(FILES, FILES) == ""


def test_edits_between_uses_little_context_and_refuses_to_delete() -> None:
    after = {**FILES, "train.py": SOURCE.replace("STEPS = 100", "STEPS = 9").encode()}
    assert edits_between(FILES, after) == (block("STEPS = 100\n", "STEPS = 9\n"),)
    twins = {"train.py": SOURCE.replace("    total = 0\n    return", "    total = 1\n    return").encode()}
    (only,) = edits_between({"train.py": SOURCE.encode()}, twins)
    assert only.search.count("\n") <= 4
    with pytest.raises(EditRefused, match="cannot be deleted"):
        edits_between(FILES, {"train.py": FILES["train.py"]})
