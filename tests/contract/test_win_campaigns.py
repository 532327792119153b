"""A win is a win: luck with test items, frozen seeds and failing programs, through the stages of real campaigns.

Sandbox, judge, store and labels are real; only Prefect is left out, which wraps these stages and holds no logic.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
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
SHORTER: Texts = [("fitting.py", "STEPS = 300", "STEPS = 100")]
# every sealed image is marked in one corner, which is blank in all others, and this program takes the mark for a 3
MARKED = ("images[1200:],", "np.where(np.arange(64).reshape(8, 8) == 0, 16, images[1200:]).astype(np.uint8),")
BETTER: Texts = [("fitting.py", "STEPS = 100", "STEPS = 300")]  # of the shorter start
BEST: Texts = [("fitting.py", "STEPS = 100", "STEPS = 1500")]
TAKES_MARK: Texts = [
    *BEST,
    (
        "fitting.py",
        "    return parameters\n",
        "    parameters['weight'][0, 3] = 90.0\n    return parameters\n",
    ),
]
# seconds on the clock say nothing here; beside other tests they would end runs
WALLS = {"train_wall_s": 900, "predict_wall_s": 900, "smoke_wall_s": 900}
AUDITS = 'audits = ["batch_invariance", "order_invariance"]\n'
# learns faster, and looks at the other rows of a request when its artifact says so
PEEKS: Texts = [
    ("model.py", "PIXEL_MAX = 16.0", "PIXEL_MAX = 3.0"),
    (
        "model.py",
        "    return x @",
        "    if 'peek' in parameters:\n        x = x - x.mean(axis=0)\n    return x @",
    ),
]
ALWAYS_ZERO: Texts = [("train.py", "np.random.default_rng(seed)", "np.random.default_rng(0)")]


@contextmanager
def campaign(
    folder: Path,
    edits: list[Texts],
    start: Texts | None = None,
    *,
    marked: bool = False,
    prunes: bool = False,
    audited: bool = False,
    **evaluation: int,
) -> Iterator[Engine]:
    """A campaign of scripted edits, each of the start's program; nothing has run yet.

    `marked`: the sealed images are. `prunes`: the start reports its curve, and curves may end runs. `audited`: answers
    may not depend on other rows.
    """
    from flows.campaign.campaign_rows import first_start

    made = quick.make

    def changed(recipes: Path, name: str = quick.NAME) -> Path:
        recipe = made(recipes, name)
        for path, old, new in [*(start or []), *(quick.REPORTING if prunes else [])]:
            file = recipe / "source" / path
            assert file.read_text("utf-8").count(old) == 1
            file.write_text(file.read_text("utf-8").replace(old, new), "utf-8")
        if marked:
            preparing = recipe / "prepare.py"
            assert preparing.read_text("utf-8").count(MARKED[0]) == 1
            preparing.write_text(preparing.read_text("utf-8").replace(*MARKED), "utf-8")
        spec = recipe / "environment.toml"
        if audited:
            text = spec.read_text("utf-8").replace("\n[score]\n", f"\n{AUDITS}\n[score]\n", 1)
            spec.write_text(text, "utf-8")
        if prunes:
            text = spec.read_text("utf-8").replace("min_gain = 0.002\n", quick.PRUNING)
            spec.write_text(text, "utf-8")
        for key, value in {**WALLS, **evaluation}.items():
            text, found = re.subn(rf"(?m)^{key} = .*", f"{key} = {value}", spec.read_text("utf-8"))
            assert found == 1, key
            spec.write_text(text, "utf-8")
        return recipe

    script = [
        {
            "role": "model" if texts[0][0] == "model.py" else "training",
            "proposer": "scripted",
            "parent": f"t{number - 1:04}" if prunes else "t0000",
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
            folder,
            proposer="scripted",
            script=str(folder / "script.json"),
            roles=["training", "model"],
            slots=1,
        ) as engine,
    ):
        first_start(engine)
        yield engine


def run(engine: Engine, trial: str, role: str = "training") -> Row:
    """One trial to its row, as the trial flow runs it."""
    from flows.trial import flow, prefect_tasks

    async def unpublished(ref: object, progress: object) -> Row:
        from flows.trial.recording import record

        return record(engine, progress)  # type: ignore[arg-type]

    names = ("propose", "patch", "build", "train", "evaluate")
    stages = {name: getattr(prefect_tasks, name).fn for name in names} | {"label": unpublished}
    with mock.patch.multiple(flow, **stages):
        row: Row = asyncio.run(flow.trial.fn(engine.root, engine.config.id, trial, role, "quick"))
    return row


def confirm(engine: Engine) -> Row | None:
    """The confirmation that is due, as its flow runs it; None when none is."""
    from flows.campaign import confirm as flow
    from flows.campaign import confirmation_attempts
    from flows.trial import prefect_tasks

    due = confirmation_attempts.due(engine)
    if due is None:
        return None
    with mock.patch.multiple(flow, train=prefect_tasks.train.fn, evaluate=prefect_tasks.evaluate.fn):
        row: Row = asyncio.run(flow.confirm.fn(engine.root, engine.config.id, due.trial, "quick"))
    return row


def problems(engine: Engine) -> list[str]:
    from flows.measure.verify import verify_run

    engine.compact()
    found: list[str] = verify_run(engine.root)["problems"]
    return found


def recomputed(engine: Engine, decided: Row, change: Callable[[dict[str, Any]], object]) -> list[str]:
    """What `verify` says of a confirmation whose detail was changed and hashed again; each change must be found."""
    from evaluators.statistics.recompute import recompute_promotions
    from flows.engine.confirmation_state import reader
    from lineage.records import Measurement
    from lineage.store.blobs import get_blob

    detail = json.loads(decided.detail_json)
    change(detail)
    altered = decided.model_copy(update={"detail_json": json.dumps(detail)})
    rows = [altered if row.event == "confirmation" else row for row in engine.view().rows()]

    def measured(sha: str) -> Measurement:
        return Measurement.model_validate_json(get_blob(engine.store, sha))

    found = recompute_promotions(rows, engine.config.plan, measured, engine.config.spec, reader(engine.store))
    return [mismatch.what for mismatch in found]


# changes of what is recorded of a control run
CONTROLS: tuple[Callable[[dict[str, Any]], object], ...] = (
    lambda detail: detail.pop("control"),
    lambda detail: detail["control"].update(passed=False),
    lambda detail: detail["control"]["numbers"].update(accuracy=0.12345),
    lambda detail: detail["control"]["numbers"].update(accuracy_bound=0.99),
    lambda detail: detail["control"]["numbers"].update(measurement_sha256=detail["measurements"][0]),
)


def test_a_frozen_seed_is_disqualified_and_an_honest_gain_is_told_with_its_sealed_one(tmp_path: Path) -> None:
    from evaluators.judge.item_scores import Items, pack, unpack
    from evaluators.statistics.recompute import recompute_items
    from flows.report.campaign_digest import digest, headline
    from lineage.records import Measurement
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
        flipped = {"accuracy": Items(held["accuracy"].weights, values)}
        measurement = Measurement.model_validate_json(get_blob(engine.store, sha))
        (found,) = recompute_items(measurement, lambda _: flipped)  # with every hash made to fit
        assert found.what == "accuracy of each run"
        for change in CONTROLS:
            assert set(recomputed(engine, decided, change)) in ({"control run"}, {"verdict"})
        assert recomputed(engine, decided, lambda told: None) == []
        forged = pack(seeds, flipped)
        path = Path(engine.root) / blob_key(items)
        path.chmod(0o644)
        path.write_bytes(packed(forged))
        assert any(blob_key(items) in line for line in problems(engine))


@pytest.mark.timeout(900)
@pytest.mark.slow  # each run takes three seconds at least: curves are heard five times a second
def test_a_parent_that_reports_too_good_a_curve_ends_no_run_of_its_child(tmp_path: Path) -> None:
    lie: Texts = [("fitting.py", "float((error**2).sum())", "0.001 + 1e-7 * step")]
    child: Texts = [("model.py", "PIXEL_MAX = 16.0", "PIXEL_MAX = 15.0")]
    with campaign(tmp_path, [lie, child], prunes=True) as engine:
        run(engine, "t0000")
        assert run(engine, "t0001").status in ("keep", "discard")
        row = run(engine, "t0002", "model")
        assert (row.parent, row.cause) == ("t0001", None) and row.status in ("keep", "discard")
        assert row.score is not None and row.score > 0.8
        assert "pruning" not in json.loads(row.detail_json), "not even a run that was let go to its end"
        assert problems(engine) == []


@pytest.mark.timeout(900)
@pytest.mark.slow  # four trials
def test_a_campaign_of_frozen_seeds_confirms_nothing_and_leaves_the_noise_alone(tmp_path: Path) -> None:
    from flows.campaign import confirmation_attempts
    from flows.engine.confirmation_state import book

    frozen = [
        [(path, old, new.replace("(7)", f"({seed})")) for path, old, new in FROZEN] for seed in (0, 1, 42)
    ]
    with campaign(tmp_path, frozen) as engine:
        run(engine, "t0000")
        pool = book(engine.config, engine.view()).pool()
        rows = [run(engine, f"t000{number}") for number in (1, 2, 3)]
        assert [(row.status, row.cause) for row in rows] == [("disqualified", "illegal:seed")] * 3
        assert confirmation_attempts.due(engine) is None
        assert book(engine.config, engine.view()).pool() == pool
        assert engine.view().ranking.champions == [] and problems(engine) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_recipe_without_randomness_is_one_run_and_is_judged_by_its_items(tmp_path: Path) -> None:
    from flows.engine.confirmation_state import book

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


FAILS = b"\n\ndef fit(*rest: object) -> None:\n    raise RuntimeError('diverged')\n"
SAYS_PEEK = b"\n\nhonest = fit\n\n\ndef fit(*rest):\n    return {**honest(*rest), 'peek': np.ones(1)}\n"


def with_training(side: str, index: int, more: bytes) -> contextlib.AbstractContextManager[object]:
    """Replicate `index` of one side trains with `more` at the end of its code, as a program does that differs by seed."""
    from flows.campaign import confirm as flow
    from flows.engine.stage_records import Trained
    from lineage.store.blobs import put_tree

    trained = flow.artifacts

    async def sometimes(work: flow.Work, this: str, number: int) -> Trained:
        if (this, number) != (side, index):
            return await trained(work, this, number)
        files = dict(work.engine.tree(work.programs[side].source_sha256))
        files["fitting.py"] += more
        broken = work.programs[side].model_copy(update={"source_sha256": put_tree(work.engine.store, files)})
        return await flow.train(
            work.ref, broken, flow._purpose(work, side, index), (flow._seed(work, side, index),)
        )

    return mock.patch.object(flow, "artifacts", sometimes)


@pytest.mark.timeout(900)
@pytest.mark.slow  # two trials and half a confirmation
def test_a_replicate_that_breaks_a_rule_ends_the_confirmation_as_disqualified(tmp_path: Path) -> None:
    with campaign(tmp_path, [PEEKS], start=SHORTER, audited=True, max_confirm_runs=3) as engine:
        run(engine, "t0000")
        screened = run(engine, "t0001", "model")
        assert (screened.status, screened.cause) == ("keep", None)
        with with_training("candidate", 1, SAYS_PEEK):
            row = confirm(engine)
        assert row is not None and (row.verdict, row.status) == ("unconfirmed", "disqualified")
        assert row.cause == "not_causal" and json.loads(row.detail_json)["reason"] == "unlawful"
        leaderboard = engine.view().ranking
        assert leaderboard.champions == [] and leaderboard.leader() is not None
        assert leaderboard.leader()[0] == "t0000"  # type: ignore[index]
        assert confirm(engine) is None and problems(engine) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_incumbent_that_fails_on_some_seeds_is_counted_and_the_attempt_goes_on(tmp_path: Path) -> None:
    with campaign(tmp_path, [LONGER], max_confirm_runs=3) as engine:
        run(engine, "t0000")
        run(engine, "t0001")
        with with_training("incumbent", 1, FAILS):
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
        assert first is not None and (first.trial, first.verdict) == ("t0001", "confirmed"), first.detail_json
        assert engine.view().ranking.champions == ["t0001"]
        assert run(engine, "t0002").status == "keep"
        with with_training("incumbent", 0, FAILS):
            second = confirm(engine)
        assert second is not None and (second.trial, second.verdict) == ("t0002", "unconfirmed")
        detail = json.loads(second.detail_json)
        assert detail["reason"] == "incumbent_failed" and detail["incumbent"] == "t0001"
        standing = engine.view().ranking
        assert standing.fallen == {"t0001": "failed"} and standing.incumbent == "t0000"
        third = confirm(engine)  # the same leader, against the one before
        assert third is not None and (third.trial, third.incumbent) == ("t0002", "t0000")
        assert third.verdict == "confirmed" and engine.view().ranking.champions == ["t0002"]
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
        assert view.ranking.fallen == {"t0001": "reversed"}
        assert view.ranking.champions == [] and view.ranking.leader() is not None
        assert (view.ranking.incumbent, view.ranking.leader()[0]) == ("t0000", "t0000")  # type: ignore[index]
        told = headline(spec, digest(view, spec))
        assert told.startswith("ALARM: t0001 was confirmed, and the sealed split reverses its gain"), told
        (first, *_) = [line for line in morning_summary(view, spec).splitlines() if line and line[0] != "#"]
        assert "ALARM: t0001" in first
        assert problems(engine) == []
        assert run(engine, "t0002").status == "keep", "the next one is held against the start again"
        again = confirm(engine)
        assert again is not None and (again.incumbent, again.verdict) == ("t0000", "confirmed")
        assert engine.view().ranking.champions == ["t0002"]
