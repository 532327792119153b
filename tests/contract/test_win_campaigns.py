"""A win is a win: luck with test items, frozen seeds and failing programs, through the stages of real campaigns.

Sandbox, judge, store and labels are real; only Prefect is left out, which wraps these stages and holds no logic.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest
import quick

if TYPE_CHECKING:
    from flows.engine.engine import Engine
    from lineage.records import Row

Texts = list[tuple[str, str, str]]  # file, what stands there, what stands there afterwards

LONGER: Texts = [("fitting.py", "STEPS = 300", "STEPS = 1500")]
FROZEN: Texts = [
    (
        "fitting.py",
        "    parameters = model.make_parameters(random)\n",
        "    random = np.random.default_rng(7)  # one order of batches for all\n"
        "    parameters = model.make_parameters(random)\n",
    )
]
SHORTER: Texts = [("fitting.py", "STEPS = 300", "STEPS = 30")]
# every sealed image is marked in one corner, which is blank in all others, and this program takes the mark for a 3
MARKED = ("images[1200:],", "np.where(np.arange(64).reshape(8, 8) == 0, 16, images[1200:]).astype(np.uint8),")
BETTER: Texts = [("fitting.py", "STEPS = 30", "STEPS = 300")]  # of the shorter start
BEST: Texts = [("fitting.py", "STEPS = 30", "STEPS = 1500")]
TAKES_MARK: Texts = [
    *BEST,
    (
        "fitting.py",
        "    return parameters\n",
        "    parameters['weight'][0, 3] = 90.0\n    return parameters\n",
    ),
]
ALWAYS_ZERO: Texts = [("train.py", "np.random.default_rng(seed)", "np.random.default_rng(0)")]


@contextmanager
def campaign(
    folder: Path, edits: list[Texts], start: Texts | None = None, *, marked: bool = False, **evaluation: int
) -> Iterator[Engine]:
    """A campaign of scripted edits, each of the start's program; nothing has run yet. `marked`: the sealed images are."""
    from flows.campaign.campaign_rows import first_start

    made = quick.make

    def changed(recipes: Path, name: str = quick.NAME) -> Path:
        recipe = made(recipes, name)
        for path, old, new in start or []:
            file = recipe / "source" / path
            assert file.read_text("utf-8").count(old) == 1
            file.write_text(file.read_text("utf-8").replace(old, new), "utf-8")
        if marked:
            preparing = recipe / "prepare.py"
            assert preparing.read_text("utf-8").count(MARKED[0]) == 1
            preparing.write_text(preparing.read_text("utf-8").replace(*MARKED), "utf-8")
        spec = recipe / "environment.toml"
        for key, value in evaluation.items():
            text, found = re.subn(rf"(?m)^{key} = .*", f"{key} = {value}", spec.read_text("utf-8"))
            assert found == 1, key
            spec.write_text(text, "utf-8")
        return recipe

    script = [
        {
            "role": "training",
            "proposer": "scripted",
            "parent": "t0000",
            "hypothesis": f"edit {number}",
            "edits": [{"path": path, "search": old, "replace": new} for path, old, new in texts],
        }
        for number, texts in enumerate(edits, 1)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "script.json").write_text(json.dumps(script), "utf-8")
    with (
        mock.patch.object(quick, "make", changed),
        quick.engine(
            folder, proposer="scripted", script=str(folder / "script.json"), roles=["training"], slots=1
        ) as engine,
    ):
        first_start(engine)
        yield engine


def run(engine: Engine, trial: str) -> Row:
    """One trial to its row, as the trial flow runs it."""
    from flows.trial import flow, tasks

    async def unpublished(ref: object, progress: object) -> Row:
        from flows.trial.recording import record

        return record(engine, progress)  # type: ignore[arg-type]

    names = ("propose", "patch", "build", "train", "evaluate")
    stages = {name: getattr(tasks, name).fn for name in names} | {"label": unpublished}
    with mock.patch.multiple(flow, **stages):
        row: Row = asyncio.run(flow.trial.fn(engine.root, engine.config.id, trial, "training", "quick"))
    return row


def confirm(engine: Engine) -> Row | None:
    """The confirmation that is due, as its flow runs it; None when none is."""
    from flows.campaign import attempts
    from flows.campaign import confirm as flow
    from flows.trial import tasks

    due = attempts.due(engine)
    if due is None:
        return None
    with mock.patch.multiple(flow, train=tasks.train.fn, evaluate=tasks.evaluate.fn):
        row: Row = asyncio.run(flow.confirm.fn(engine.root, engine.config.id, due.trial, "quick"))
    return row


def problems(engine: Engine) -> list[str]:
    from flows.measure.verify import verify_run

    engine.compact()
    found: list[str] = verify_run(engine.root)["problems"]
    return found


def test_a_frozen_seed_is_disqualified_and_an_honest_gain_is_told_with_its_sealed_one(tmp_path: Path) -> None:
    from evaluators.judge.items import Items, pack, unpack
    from flows.report.campaign_digest import digest, headline
    from lineage.store.blobs import blob_key, get_blob
    from lineage.store.blobs import pack as packed

    with campaign(tmp_path, [FROZEN, LONGER], max_confirm_runs=3) as engine:
        start, frozen, longer = (run(engine, f"t000{number}") for number in range(3))
        assert start.deterministic is False
        assert (frozen.status, frozen.cause, frozen.deterministic) == ("disqualified", "illegal:seed", True)
        assert "take all randomness from the `seed`" in json.loads(frozen.detail_json)["label"]
        assert longer.status == "keep"
        decided = confirm(engine)
        assert decided is not None and decided.verdict == "confirmed", decided
        looks = json.loads(decided.detail_json)["looks"]
        assert all(look["se_items"] > 0 and look["se_seeds"] > 0 for look in looks)
        view = engine.view()
        (sealed,) = view.events("sealed")
        assert sealed.sealed_low < sealed.sealed_gain < sealed.sealed_high and sealed.sealed_looks == 1
        assert sealed.sealed_verdict in ("generalises", "not shown") and sealed.sealed_level == 0.025
        told = headline(engine.config.spec, digest(view, engine.config.spec))
        assert "on the sealed split (95 % interval" in told and "by the same runs on the public one" in told
        assert problems(engine) == []
        sha = json.loads(decided.detail_json)["measurements"][0]
        items = json.loads(get_blob(engine.store, sha))["items_sha256"]
        seeds, held = unpack(get_blob(engine.store, items))
        values = held["accuracy"].values.copy()
        values[0, 0] = 1 - values[0, 0]
        forged = pack(seeds, {"accuracy": Items(held["accuracy"].weights, values)})
        path = Path(engine.root) / blob_key(items)
        path.chmod(0o644)
        path.write_bytes(packed(forged))
        assert any(blob_key(items) in line for line in problems(engine))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_recipe_without_randomness_is_one_run_and_is_judged_by_its_items(tmp_path: Path) -> None:
    from flows.engine.promotion_book import book

    slightly: Texts = [("fitting.py", "STEPS = 300", "STEPS = 330")]
    with campaign(tmp_path, [slightly, LONGER], start=ALWAYS_ZERO, max_confirm_runs=3) as engine:
        start, few, many = (run(engine, f"t000{number}") for number in range(3))
        assert start.deterministic is True and len(book(engine.config, engine.view()).pool()) == 1
        assert "illegal:seed" not in (few.cause, many.cause)
        confirmed = []
        while (row := confirm(engine)) is not None:
            (look,) = json.loads(row.detail_json)["looks"]
            assert look["se_seeds"] == 0 and look["n"] == engine.config.plan.looks[0]
            (chance,) = json.loads(row.detail_json)["items"]
            assert row.gain is not None and chance["wins"] - chance["losses"] == round(600 * row.gain)
            assert row.p_value is not None and row.p_value >= 2.0 ** -chance["wins"]
            confirmed.append((row.trial, row.verdict, row.p_value))
        assert confirmed, "the longer training leads by far"
        assert problems(engine) == []


def failing_at(side: str, index: int) -> contextlib.AbstractContextManager[object]:
    """Replicate `index` of one side trains a program that raises, as one that fails on some seeds does."""
    from flows.campaign import confirm as flow
    from flows.engine.records import Trained
    from lineage.store.blobs import put_tree

    trained = flow.artifacts

    async def sometimes(work: flow.Work, this: str, number: int) -> Trained:
        if (this, number) != (side, index):
            return await trained(work, this, number)
        files = dict(work.engine.tree(work.programs[side].source_sha256))
        files["fitting.py"] += b"\n\ndef fit(*rest: object) -> None:\n    raise RuntimeError('diverged')\n"
        broken = work.programs[side].model_copy(update={"source_sha256": put_tree(work.engine.store, files)})
        return await flow.train(
            work.ref, broken, flow._purpose(work, side, index), (flow._seed(work, side, index),)
        )

    return mock.patch.object(flow, "artifacts", sometimes)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_incumbent_that_fails_on_some_seeds_is_counted_and_the_attempt_goes_on(tmp_path: Path) -> None:
    with campaign(tmp_path, [LONGER], max_confirm_runs=3) as engine:
        run(engine, "t0000")
        run(engine, "t0001")
        with failing_at("incumbent", 1):
            row = confirm(engine)
        assert row is not None and row.verdict == "confirmed"
        detail = json.loads(row.detail_json)
        assert [failure["cause"] for failure in detail["incumbent_failures"]] == ["crash"]
        failed, runs, rate, low, high = detail["incumbent_failure_rate"]
        assert failed == 1 and low < rate == 1 / runs < high
        assert problems(engine) == []


@pytest.mark.timeout(900)
@pytest.mark.slow  # three confirmations: half a minute on a quiet machine
def test_a_champion_that_fails_on_a_fresh_seed_later_loses_its_title(tmp_path: Path) -> None:
    with campaign(tmp_path, [BETTER, BEST], start=SHORTER, max_confirm_runs=3) as engine:
        run(engine, "t0000")
        assert run(engine, "t0001").status == "keep"
        first = confirm(engine)
        assert first is not None and (first.trial, first.verdict) == ("t0001", "confirmed")
        assert engine.view().leaderboard.champions == ["t0001"]
        assert run(engine, "t0002").status == "keep"
        with failing_at("incumbent", 0):
            second = confirm(engine)
        assert second is not None and (second.trial, second.verdict) == ("t0002", "unconfirmed")
        detail = json.loads(second.detail_json)
        assert detail["reason"] == "incumbent_failed" and detail["incumbent"] == "t0001"
        standing = engine.view().leaderboard
        assert standing.fallen == {"t0001": "failed"} and standing.incumbent == "t0000"
        third = confirm(engine)  # the same leader, against the one before
        assert third is not None and (third.trial, third.incumbent) == ("t0002", "t0000")
        assert third.verdict == "confirmed" and engine.view().leaderboard.champions == ["t0002"]
        assert problems(engine) == []


@pytest.mark.timeout(900)
@pytest.mark.slow  # two confirmations and a sealed split: half a minute on a quiet machine
def test_a_champion_that_the_sealed_split_reverses_is_an_alarm_and_never_best(tmp_path: Path) -> None:
    from flows.report.campaign_digest import digest, headline
    from flows.report.summary import morning_summary

    with campaign(tmp_path, [TAKES_MARK, BEST], start=SHORTER, marked=True, max_confirm_runs=3) as engine:
        run(engine, "t0000")
        assert run(engine, "t0001").status == "keep"
        decided = confirm(engine)
        assert decided is not None and decided.verdict == "confirmed"
        view, spec = engine.view(), engine.config.spec
        (sealed,) = view.events("sealed")
        assert sealed.sealed_verdict == "reversed"
        assert sealed.sealed_high is not None and sealed.sealed_high < 0 < (sealed.gain_low or 0)
        assert view.leaderboard.fallen == {"t0001": "reversed"}
        assert view.leaderboard.champions == [] and view.leaderboard.leader() is not None
        assert (view.leaderboard.incumbent, view.leaderboard.leader()[0]) == ("t0000", "t0000")  # type: ignore[index]
        told = headline(spec, digest(view, spec))
        assert told.startswith("ALARM: t0001 was confirmed, and the sealed split reverses its gain"), told
        (first, *_) = [line for line in morning_summary(view, spec).splitlines() if line and line[0] != "#"]
        assert "ALARM: t0001" in first
        assert problems(engine) == []
        assert run(engine, "t0002").status == "keep", "the next one is held against the start again"
        again = confirm(engine)
        assert again is not None and (again.incumbent, again.verdict) == ("t0000", "confirmed")
        assert engine.view().leaderboard.champions == ["t0002"]
