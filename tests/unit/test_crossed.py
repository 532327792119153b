"""Chance of test items beside that of seeds: the figures, against scipy where it has them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as sp

from evaluators.judge.item_scores import Items, one_run, pack, stacked, unpack
from evaluators.statistics.lawful_measurement import deterministic, same_pair
from evaluators.statistics.paired_item_test import compare, exact, item_chance, items_needed, shown_gain
from lineage.errors import StoreCorrupt
from lineage.records import SeedResult


def hits(right: int, of: int = 600) -> Items:
    return one_run(np.arange(of) < right)


def test_three_of_six_hundred_images_are_no_discovery() -> None:
    """A deterministic classifier that has three more images right; the rule without items said p = 1e-92."""
    test = compare(3 / 600, 0.0, 11.0, item_chance(hits(540), hits(537)))
    assert test.gain == 3 / 600 and test.p_better == pytest.approx(1 / 8)  # exact: 3 of 3 items that differ
    assert exact(3, 0) == pytest.approx(sp.binomtest(3, 3, alternative="greater").pvalue)
    low, high = test.interval(0.025)
    assert low < 0 < high


def test_without_seeds_it_is_the_paired_t_test_over_items() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(0.1, 1, 200), rng.normal(0, 1, 200)
    gain = float((ours - theirs).mean())
    test = compare(gain, 0.0, 5.0, item_chance(one_run(ours), one_run(theirs)))
    assert test.p_better == pytest.approx(sp.ttest_rel(ours, theirs, alternative="greater").pvalue)


def test_crossed_p_values_are_uniform_where_nothing_differs() -> None:
    """Three runs of two equal programs over 300 items, with luck of seeds, of items and of both together."""
    rng, p = np.random.default_rng(2), []
    for _ in range(1500):
        items = rng.normal(0, 1, (2, 1, 300))  # each program has other hard items
        runs = rng.normal(0, 0.08, (2, 4, 1)) + rng.normal(0, 1, (2, 4, 300)) + items
        one, two = (Items(np.ones(300), side) for side in runs)
        means = [one.means, two.means]
        squares = sum(((m - m.mean()) ** 2).sum() for m in means)
        by_seeds = squares / 6 * (1 / 4 + 1 / 4)
        p.append(
            compare(float(means[0].mean() - means[1].mean()), by_seeds, 6.0, item_chance(one, two)).p_better
        )
    shares = [float(np.mean(np.array(p) <= level)) for level in (0.05, 0.01)]
    assert 0.02 <= shares[0] <= 0.06 and shares[1] <= 0.015, shares


def test_the_artifact_comes_back_and_a_flipped_value_shows() -> None:
    items = stacked([hits(5, 9), hits(6, 9)])
    data = pack((3, 4), {"accuracy": items})
    assert pack((3, 4), {"accuracy": items}) == data
    seeds, held = unpack(data)
    assert seeds == (3, 4) and held["accuracy"].means.tolist() == pytest.approx([5 / 9, 6 / 9])
    with pytest.raises(StoreCorrupt):
        unpack(data[: len(data) // 2])
    with pytest.raises(ValueError, match="different splits"):
        stacked([hits(5, 9), hits(5, 8)])


def test_above_a_million_neighbours_share_a_block() -> None:
    x, w = np.arange(10.0), np.linspace(1, 2, 10)
    blocked = one_run(x, w, most=4)
    assert len(blocked) == 4 and blocked.means[0] == pytest.approx((w @ x) / w.sum())


def test_how_many_items_a_gain_needs() -> None:
    sd = np.sqrt(0.04)  # 4 % of the images differ
    gain = shown_gain(float(sd), 600, 0.05)
    assert gain == pytest.approx(0.0203, abs=1e-4)
    assert items_needed(float(sd), gain / 2, 0.05) == pytest.approx(2400, abs=1)


def result(seed: int, sketch: float, artifact: str = "") -> SeedResult:
    return SeedResult(seed=seed, sketch=(sketch, 1.0), artifact_sha256=artifact, quantities={"accuracy": 0.9})


@pytest.mark.parametrize(
    ("results", "fixed"),
    [
        ([result(1, 0.5), result(2, 0.5 + 1e-6)], True),
        ([result(1, 0.5), result(2, 0.6)], False),
        ([result(1, 0.5, "a"), result(2, 0.6, "a")], True),
        ([result(1, 0.5), result(2, 0.6), result(3, 0.5)], None),
        ([result(1, 0.5), result(1, 0.5)], None),
        ([SeedResult(seed=1), SeedResult(seed=2)], None),
    ],
)
def test_runs_that_do_not_depend_on_the_seed(results: list[SeedResult], fixed: bool | None) -> None:
    assert deterministic(results) is fixed
    assert (same_pair(results) is not None) == (
        fixed is not False and len({r.seed for r in results if r.sketch}) > 1
    )


def test_older_records_keep_their_bytes_and_their_rule() -> None:
    """What was stored before items were kept is written as it was, and its plan asks for nothing that it has not."""
    from pydantic import TypeAdapter

    from evaluators.statistics.confirmation import ConfirmPlan

    old = '{"seed":1,"quantities":{"accuracy":0.9},"cause":null,"numbers":{},"facts":null}'
    assert SeedResult.model_validate_json(old).model_dump_json() == old
    plan = TypeAdapter(ConfirmPlan).validate_json('{"sign": 1, "is_paired": false, "gate_looks": 3}')
    assert (plan.rules, plan.has_items) == (1, False)
    assert plan.runs_of_incumbent(1000, 5) == 0
