"""An attempt that is cut off at any of its writes to the store is taken up again: one decision, one sealed score.

Children (training, judge) answer at once with made-up figures, so that every point can be tried; store, lineage,
stages, confirmation and `verify` are the real ones. Kills of whole processes are in tests/crash/test_confirm_kills.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import quick

from evaluators.judge import judge_client
from evaluators.statistics.confirmation import plan_for
from flows.campaign import confirm, confirmation_attempts, run_on_this_machine
from flows.engine.campaign_config import now
from flows.engine.engine import Engine, close_engine, engine_for
from flows.engine.stage_records import Patched, Trained, TrialRef
from flows.measure.verify import verify_run
from flows.trial import stages
from lineage.records import Artifact, Measurement, Row, RunFacts, SeedResult, TrainRun
from lineage.store.blobs import put_tree
from lineage.store.results import put_result


class Killed(BaseException):
    """What the attempt ends with where the process would have died."""


def fake_train(bench: Any, source: Path, seed: int, out: Path, *_: object, **__: object) -> TrainRun:
    (out / "weights").write_bytes(b"x")
    artifact = Artifact(sha256="a" * 64, bytes=1, files={"weights": 1})
    return TrainRun(seed=seed, facts=RunFacts(end="exit"), artifact=artifact)


def fake_judge(bench: Any, source: Path, runs: Any, **told: Any) -> Measurement:
    """The candidate is far better than the start, unless its training data were permuted."""
    good = b"better" in (source / "note.py").read_bytes() if (source / "note.py").exists() else False
    control = told["purpose"] == "control"
    seeds = [
        SeedResult(
            seed=run.seed,
            quantities={
                "accuracy": (0.1 if control else 0.9 if good else 0.5) + run.seed % 97 / 1e4,
                "cpu_seconds": 1.0,
            },
        )
        for run, _ in runs
    ]
    mean = sum(s.quantities["accuracy"] for s in seeds) / len(seeds)
    return Measurement(
        trial=told["trial"], purpose=told["purpose"], split=told.get("split", "public"), metric="accuracy", score=mean,
        per_seed=tuple(seeds), quantities={"accuracy": mean}, source_sha256="s", environment_sha256="e",
        evaluator_sha256="j", isolation="strong", machine="m", measured_at=now(),
    )  # fmt: skip


async def plain_train(ref: TrialRef, patched: Patched, purpose: str, seeds: Any, quiet: bool) -> Trained:
    return await asyncio.to_thread(
        lambda: stages.train(engine_for(ref.store, ref.campaign), ref, patched, purpose, seeds)
    )


async def plain_evaluate(
    ref: TrialRef, patched: Patched, trained: Trained, split: str = "public", quiet: bool = False
) -> Measurement:
    return await asyncio.to_thread(
        lambda: stages.evaluate(engine_for(ref.store, ref.campaign), ref, patched, trained, split)
    )


def outcome(engine: Engine, trial: str, status: str, scores: list[float], files: dict[str, bytes]) -> None:
    sha = put_tree(engine.store, files)
    patched = Patched(parent_sha256=sha, source_sha256=sha, ast_sha256=sha, diff_sha256=None, source_bytes=9)
    put_result(engine.store, engine.config.id, trial, "patch", patched.model_dump_json().encode())
    row = {"status": status, "score": sum(scores) / len(scores), "scores": scores, "source_sha256": sha}
    engine.append(
        Row.model_validate(
            {"event": "trial", "campaign": engine.config.id, "trial": trial, "role": "model", **row}
        )
    )


def cut(engine: Engine, after: int) -> None:
    """Let the engine's store die after so many new objects of this session."""
    create, count = engine.store.create, iter(range(10_000))

    def counted(key: str, data: bytes) -> Any:
        if not engine.store.exists(key) and next(count) >= after:
            raise Killed(key)
        return create(key, data)

    engine.store.create = counted  # type: ignore[method-assign]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, fake in (("train", fake_train), ("judge", fake_judge), ("artifact_matches", lambda *_: True)):
        monkeypatch.setattr(judge_client, name, fake)
    monkeypatch.setattr(confirm, "train", plain_train)
    monkeypatch.setattr(confirm, "evaluate", plain_evaluate)
    # the canned judge keeps no test items, as every judge before rules 2
    monkeypatch.setattr(run_on_this_machine, "plan_for", lambda *given: replace(plan_for(*given), rules=1))
    with quick.engine(tmp_path, trials=5, slots=1) as engine:
        start = engine.tree(engine.config.start_sha256)
        outcome(engine, "t0000", "baseline", [0.50, 0.505, 0.51], start)
        outcome(engine, "t0001", "keep", [0.9, 0.91], {**start, "note.py": b"# better\n"})
        held = Isolated(engine.bench.isolation)
        monkeypatch.setattr(
            "flows.engine.engine.proven", held
        )  # proven once: a session of these tests starts no process
        yield engine


class Isolated:
    def __init__(self, isolation: Any) -> None:
        self.isolation = isolation

    def __call__(self, *_: object, **__: object) -> Any:
        return self.isolation


def session(root: str, campaign: str, after: int | None) -> bool:
    """One session's confirmations; True when nothing is due any more, False when it was cut off."""
    close_engine(root, campaign)
    engine = engine_for(root, campaign)
    confirmation_attempts.sweep(engine)
    if after is not None:
        cut(engine, after)
    try:
        while (due := confirmation_attempts.due(engine)) is not None:
            asyncio.run(confirm.confirm.fn(root, campaign, due.trial))
    except Killed:
        return False
    return True


@pytest.mark.parametrize("step", [2, 3, 5])
def test_cut_off_after_every_few_writes_it_comes_to_one_decision_and_one_sealed_score(
    engine: Engine, step: int
) -> None:
    """Each session may write so often and no more; with every step another set of points is hit."""
    root, campaign, sessions = engine.root, engine.config.id, 1
    while not session(root, campaign, step):
        sessions += 1
        assert sessions < 400, "no session gets any further"
    assert sessions > 5
    again = engine_for(root, campaign)
    decided, sealed = again.view().events("confirmation"), again.view().events("sealed")
    assert [(row.trial, row.verdict) for row in decided] == [("t0001", "confirmed")]
    assert [row.trial for row in sealed] == ["t0001"] and sealed[0].sealed_score is not None
    assert not list(again.scratch("").glob("t0*")), "its artifacts are gone"
    found = verify_run(root, campaign)
    assert not [text for text in found["notes"] if text.startswith("unfinished")], found
    assert session(root, campaign, None) and again.view().count("confirmation") == 1


def test_another_leader_waits_until_the_open_attempt_has_ended(engine: Engine) -> None:
    root, campaign = engine.root, engine.config.id
    assert not session(root, campaign, 9)
    close_engine(root, campaign)
    fresh = engine_for(root, campaign)
    outcome(fresh, "t0002", "keep", [0.97, 0.98], {**fresh.files_of("t0001"), "more.py": b"#\n"})
    due = confirmation_attempts.due(fresh)
    assert due is not None and due.trial == "t0001" and fresh.view().ranking.leader()[0] == "t0002"  # type: ignore[index]
    assert session(root, campaign, None)
    assert [row.trial for row in fresh.view().events("confirmation")] == ["t0001", "t0002"]


def test_a_vetoed_champion_is_not_sealed_any_more(engine: Engine) -> None:
    root, campaign = engine.root, engine.config.id
    with mock.patch.object(confirm, "seal", side_effect=Killed):
        assert not session(root, campaign, None)
    fresh = engine_for(root, campaign)
    assert fresh.view().ranking.unsealed == [(0, "t0001")]
    fresh.append(Row(event="intervention", campaign=campaign, trial="t0001", operator="veto", notes="x"))
    assert confirmation_attempts.due(fresh) is None and fresh.view().ranking.incumbent == "t0000"
