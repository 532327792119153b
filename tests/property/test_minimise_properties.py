"""Delta debugging: what is returned passes, is 1-minimal, and no subset is measured twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evaluators.statistics.delta_debugging import Subset, minimise


@given(parts=st.integers(1, 24), needed=st.sets(st.integers(0, 23)))
def test_independent_hunks_are_reduced_to_exactly_those_that_matter(parts: int, needed: set[int]) -> None:
    wanted = {part for part in needed if part < parts}
    asked: list[Subset] = []

    def test(subset: Subset) -> bool:
        asked.append(subset)
        return wanted <= set(subset)

    got = minimise(parts, test, most_tests=10_000)
    assert set(got.kept) == wanted
    assert got.is_minimal
    assert len(asked) == len(set(asked)) == got.tests


@given(
    parts=st.integers(1, 9),
    passing=st.sets(st.frozensets(st.integers(0, 8)), max_size=40),
    budget=st.integers(0, 60),
)
def test_any_test_at_all_gives_a_passing_set(parts: int, passing: set[frozenset[int]], budget: int) -> None:
    """Also when hunks need each other, so that supersets of a passing set may fail."""
    whole = frozenset(range(parts))
    asked: list[Subset] = []

    def test(subset: Subset) -> bool:
        asked.append(subset)
        return frozenset(subset) in passing or frozenset(subset) == whole

    got = minimise(parts, test, most_tests=budget)
    assert frozenset(got.kept) in passing | {whole}
    assert len(asked) <= budget
    assert list(got.kept) == sorted(got.kept)
    if got.is_minimal:
        for part in got.kept:
            assert frozenset(got.kept) - {part} not in passing or not got.kept


def test_one_hunk_of_many_is_found_quickly() -> None:
    got = minimise(64, lambda subset: 37 in subset)
    assert got.kept == (37,)
    assert got.tests <= 20


def test_a_change_of_which_nothing_matters_is_empty_and_a_change_without_parts_too() -> None:
    assert minimise(5, lambda subset: True).kept == ()
    assert minimise(0, lambda subset: False).kept == ()


def test_the_budget_is_kept_and_said() -> None:
    got = minimise(40, lambda subset: {3, 17, 31} <= set(subset), most_tests=12)
    assert got.tests == 12
    assert not got.is_minimal
    assert {3, 17, 31} <= set(got.kept)
    assert len(got.kept) < 40
