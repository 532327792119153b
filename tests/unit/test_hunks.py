"""Hunks: all of them give the trial and none the start, to the byte; each one changes something."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flows.measure.diff_hunks import assemble, split

# few different lines, so that files share some; ends with and without a newline, and old line ends
LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"d\r\n", b"e\r", b"\n"]), max_size=12)
CONTENT = st.builds(
    lambda lines, tail: b"".join(lines) + tail, LINES, st.sampled_from([b"", b"z", b"\xff\x00"])
)
PROGRAM = st.dictionaries(st.sampled_from(["train.py", "model.py", "sub/x.py"]), CONTENT, max_size=3)


@given(PROGRAM, PROGRAM)
def test_all_hunks_are_the_trial_and_none_is_the_start(
    start: dict[str, bytes], wanted: dict[str, bytes]
) -> None:
    hunks = split(start, wanted)
    assert assemble(start, hunks, range(len(hunks))) == wanted
    assert assemble(start, hunks, ()) == start
    assert (hunks == ()) == (start == wanted)


@given(PROGRAM, PROGRAM, st.sets(st.integers(0, 40)))
def test_any_subset_leaves_exactly_the_others(
    start: dict[str, bytes], wanted: dict[str, bytes], chosen: set[int]
) -> None:
    hunks = split(start, wanted)
    some = assemble(start, hunks, chosen)
    untouched = {h.path for i, h in enumerate(hunks) if i not in chosen} - {
        h.path for i, h in enumerate(hunks) if i in chosen
    }
    assert all(some.get(path) == start.get(path) for path in untouched)
    whole = {h.path for h in hunks} - {h.path for i, h in enumerate(hunks) if i not in chosen}
    assert all(some.get(path) == wanted.get(path) for path in whole)


def test_two_changes_apart_are_two_hunks_that_can_be_taken_one_by_one() -> None:
    start = {"fit.py": b"lr = 1\nbatch = 2\nsteps = 3\n", "old.py": b"x\n"}
    wanted = {"fit.py": b"lr = 9\nbatch = 2\nsteps = 3\nmore = 4\n", "new.py": b"y\n"}
    hunks = split(start, wanted)
    assert [hunk.where for hunk in hunks] == ["fit.py:1", "fit.py:4", "new.py (new file)", "old.py (deleted)"]
    assert assemble(start, hunks, {1})["fit.py"] == b"lr = 1\nbatch = 2\nsteps = 3\nmore = 4\n"
    assert assemble(start, hunks, {0, 2}) == {
        "fit.py": b"lr = 9\nbatch = 2\nsteps = 3\n",
        "old.py": b"x\n",
        "new.py": b"y\n",
    }
