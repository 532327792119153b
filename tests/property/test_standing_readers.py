"""Whatever happened in a campaign, everybody who says who leads and who is confirmed names the same trials.

Random histories of trials, confirmations, vetoes and calibrations, written as the engine writes them; readers are
asked through what a person or an agent calls. The rule itself is stated once more here, in the plainest form.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import quick
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.catalogue.memory import Memory
from agents.llm.prompt_sections import Scene, now, parent_choice
from agents.llm.trial_text import changes_text, trial_facts
from evaluators.statistics.confirmation import ConfirmPlan
from evaluators.statistics.confirmation_book import book_of
from flows.campaign.interventions import status
from flows.campaign.outputs import end_of_run
from flows.engine.campaign_config import CampaignConfig, load_config, save_config
from flows.engine.stage_records import TrialRef
from flows.experiments.arm_results import final_gain
from flows.report.campaign_digest import digest
from flows.report.html.build import Meta, _about
from flows.report.prefect_artifacts import campaign_markdown
from flows.report.show import campaign_json
from flows.report.terminal.display import Display
from flows.trial.recording import Progress, decide
from lineage.log.journal import load
from lineage.queries import View
from lineage.records import Row, Status
from lineage.store.blobs import put_tree
from lineage.store.objects import open_store
from tests.fakes import lab

SCORES = st.integers(80, 130).map(lambda value: value / 100)
STEP = st.one_of(
    st.tuples(st.just("keep"), SCORES),
    st.tuples(st.just("discard"), SCORES),
    st.tuples(st.just("crash"), st.none()),
    st.tuples(st.just("confirm"), st.tuples(st.booleans(), SCORES, st.booleans())),
    st.tuples(st.just("veto"), st.integers(0, 9)),
    st.tuples(st.just("calibrate"), SCORES),
)
HISTORIES = st.lists(STEP, max_size=25)
PLAN = ConfirmPlan(sign=-1, is_paired=False)
START = 1.25


def written(steps: list[tuple[str, Any]], campaign: str = "c") -> list[Row]:
    """The rows of a history; lower scores are better."""
    rows = [trial_row(campaign, 0, "baseline", START, [])]
    for what, value in steps:
        number = sum(row.event == "trial" for row in rows)
        if what in ("keep", "discard", "crash"):
            rows.append(Row(event="submitted", campaign=campaign, trial=f"t{number:04d}", role="opt"))
            rows.append(trial_row(campaign, number, what, value, rows))
        elif what == "confirm":
            rows += confirmation(campaign, rows, *value)
        elif what == "veto":
            name = f"t{1 + value % max(1, number - 1):04d}" if number > 1 else "t0000"
            rows.append(Row(event="intervention", campaign=campaign, trial=name, operator="veto", notes="x"))
        else:
            rows.append(Row(event="calibration", campaign=campaign, trial="t0000", scores=[value, value]))
    return rows


def trial_row(campaign: str, number: int, what: str, score: float | None, rows: list[Row]) -> Row:
    leader, _ = plainly(rows)
    parent = next(
        (row.trial for row in reversed(rows) if row.event == "trial" and row.score is not None), None
    )
    return Row(
        event="trial", campaign=campaign, trial=f"t{number:04d}", role="opt", status=Status(what), score=score,
        scores=[] if score is None else [score], parent=parent, cause="crash" if what == "crash" else None,
        hypothesis=f"idea {number}", delta_best=None if score is None or leader is None else score - leader[1],
        detail_json=json.dumps({"leader": leader and {"trial": leader[0], "score": leader[1]}}),
        t_started=datetime(2026, 5, 1, tzinfo=UTC), t_finished=datetime(2026, 5, 1, tzinfo=UTC),
    )  # fmt: skip


def confirmation(campaign: str, rows: list[Row], good: bool, fresh: float, sealed: bool) -> list[Row]:
    """Of the leader, unless it is the incumbent; a champion may still wait for its sealed score."""
    leader, incumbent = plainly(rows)
    if leader is None or leader[0] == incumbent:
        return []
    decided = Row(
        event="confirmation", campaign=campaign, trial=leader[0], incumbent=incumbent, scores=[fresh, fresh + 0.01],
        verdict="confirmed" if good else "unconfirmed", score=fresh + 0.005, gain=0.01, p_value=0.01,
        alpha_spent=0.001, detail_json=json.dumps({"incumbent_scores": [1.3], "reason": "" if good else "futile"}),
    )  # fmt: skip
    more = Row(event="sealed", campaign=campaign, trial=leader[0], sealed_score=fresh, public_score=fresh)
    return [decided, more] if good and sealed else [decided]


def plainly(rows: list[Row]) -> tuple[tuple[str, float] | None, str | None]:
    """The rule in its plainest form: leader with its standing score, and incumbent."""
    vetoed = {row.trial for row in rows if row.operator == "veto"}
    fresh: dict[str, list[float]] = {}
    standing: dict[str, float] = {}
    confirmed = []
    for row in rows:
        name = row.trial or ""
        if row.event == "trial" and row.score is not None and row.status in ("keep", "baseline"):
            standing[name] = row.score
            if row.status == "baseline":
                fresh[name] = list(row.scores)
        elif row.event == "confirmation":
            fresh.setdefault(row.incumbent or "", []).extend(json.loads(row.detail_json)["incumbent_scores"])
            fresh.setdefault(name, []).extend(row.scores)
            standing.pop(name, None) if row.verdict == "unconfirmed" else None
            if row.verdict == "confirmed":
                confirmed.append(name)
                standing[name] = sum(fresh[name]) / len(fresh[name])
        elif row.operator == "veto":
            standing.pop(name, None)
    fit = {name: score for name, score in standing.items() if name not in vetoed}
    best = min(fit.values(), default=None)
    leader = next(((name, score) for name, score in fit.items() if score == best), None)
    still = [name for name in confirmed if name not in vetoed]
    return leader, still[-1] if still else "t0000"


@settings(max_examples=100, deadline=None)
@given(HISTORIES)
def test_every_reader_of_a_view_names_the_same(steps: list[tuple[str, Any]]) -> None:
    rows = written(steps)
    (view, spec), (leader, incumbent) = (View.from_rows(rows, "min"), lab.SPEC), plainly(rows)
    name = leader[0] if leader else None
    book = book_of(rows, PLAN)
    assert (book.leader(), book.incumbent) == (pytest_close(leader), incumbent)
    assert (view.ranking.leader(), view.ranking.incumbent) == (pytest_close(leader), incumbent)
    assert book.candidate() in (None, name)
    ref = TrialRef(store="s", campaign="c", trial="t9999", role="opt")
    progress = Progress(ref=ref, started=datetime.now(UTC), infra="disk", infra_text="full")
    assert decide(None, progress, view)[1] == pytest_close(leader)  # type: ignore[arg-type]
    row = parent_choice(view)[0]
    assert row is not None and row.trial == (name or incumbent)
    text = now(Scene(view, spec, lab.OPT), 4000, True)
    if leader is not None and row.trial is not None:
        assert f"Your scratch copy is trial {row.trial}, {view.quoted(row.trial):.3f} CPU-s" in text
    memory = Memory.of(view, spec)
    assert memory.leader is not None and memory.leader.id == (name or "t0000")
    assert memory.incumbent is not None and memory.incumbent.id == incumbent
    found = campaign_json(view, spec)
    assert (found["leader"] and found["leader"]["trial"], found["incumbent"]["trial"]) == (name, incumbent)
    about = _about(view, spec, digest(view, spec), Meta(run="r", version="v"))
    assert (about["leader"], about["incumbent_now"]) == (name, incumbent)
    display = Display(spec, live=False, out=open(os.devnull, "w"))  # noqa: SIM115
    display.remember(rows)
    assert display.state.best is not None and display.state.best.trial == incumbent
    assert (display.state.ahead and display.state.ahead.trial) == name
    engine = SimpleNamespace(config=SimpleNamespace(id="c", spec=spec), root="r")
    told = campaign_markdown(engine, view, "done")  # type: ignore[arg-type]
    assert f"Confirmed best: {incumbent}. Leader: {name or 'none'}." in told
    assert final_gain(view, spec)[1] == (incumbent != "t0000")


def pytest_close(leader: tuple[str, float] | None) -> Any:
    return None if leader is None else (leader[0], pytest.approx(leader[1], rel=1e-12))


@settings(max_examples=100, deadline=None)
@given(HISTORIES)
def test_a_prompt_quotes_a_trial_by_one_figure(steps: list[tuple[str, Any]]) -> None:
    """Where parent and leader are one trial, only one difference is told; fresh seeds count where there are some."""
    view, spec = View.from_rows(written(steps), "min"), lab.SPEC
    for row in view.trials():
        led = (json.loads(row.detail_json)["leader"] or {}).get("trial")
        changes = changes_text(spec, row, view.quoted)
        if row.score is not None and row.parent is not None:
            assert len(changes) == (1 if led in (row.parent, None) else 2)
            gap = spec.sign * (view.quoted(row.trial or "") - view.quoted(row.parent))  # type: ignore[operator]
            told = re.search(r"(better|worse) than parent.* by (\d+\.\d+)", changes[0])
            figure = 0.0 if told is None else float(told[2]) * (1 if told[1] == "better" else -1)
            if view.quoted(row.parent) is not None:
                assert figure == pytest.approx(gap, abs=0.0006)
        if row.trial in view.ranking.champions:
            assert f"score: {view.ranking.fresh[row.trial]:.3f} CPU-s on fresh seeds" in trial_facts(
                spec, row, view.quoted
            )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CampaignConfig, dict[str, str], Path]]:
    folder = tmp_path_factory.mktemp("readers")
    with quick.engine(folder) as engine:
        score = engine.config.spec.score.model_copy(update={"direction": "min"})
        spec = engine.config.spec.model_copy(update={"score": score})
        yield engine.config.model_copy(update={"spec": spec}), dict(os.environ), folder


COUNT = iter(range(10_000))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(HISTORIES)
def test_every_command_names_the_same(
    config: tuple[CampaignConfig, dict[str, str], Path], steps: list[tuple[str, Any]]
) -> None:
    made, env, folder = config
    root = folder / f"run{next(COUNT)}"
    store = open_store(str(root), create=True)
    start = {"train.py": b"START\n", "predict.py": b"\n"}
    made = made.model_copy(update={"start_sha256": put_tree(store, start)})
    save_config(store, made)
    rows = [
        row.model_copy(
            update={"source_sha256": put_tree(store, {**start, "train.py": f"{row.trial}\n".encode()})}
        )
        if row.event == "trial"
        else row
        for row in written(steps, made.id)
    ]
    begin = Row(
        event="campaign", campaign=made.id, operator="start", detail_json=json.dumps({"direction": "min"})
    )
    load(store, made.id, "w", [begin, *rows])
    leader, incumbent = plainly(rows)
    name = leader[0] if leader else None
    with mock.patch.dict(os.environ, env):
        shown = json.loads(ask(root, env, "show", str(root), "--json"))
        state = status(str(root), store, load_config(store, made.id), View.from_rows(rows, "min"))
        end_of_run(str(root), made.id, "done")
    assert (shown["leader"] and shown["leader"]["trial"], shown["incumbent"]["trial"]) == (name, incumbent)
    assert (state["leader"], state["incumbent"]) == (name, incumbent)
    target = folder / f"to{root.name}"
    target.mkdir()
    ask(root, env, "apply", str(root), "best", "--to", str(target))
    assert (target / "train.py").read_text() == f"{incumbent}\n", "a vetoed champion is never handed out"
    winner = root / "reports" / made.id / "winner.diff"
    assert winner.exists() == (incumbent != "t0000")
    if winner.exists():
        assert f"+{incumbent}\n" in winner.read_text()
        assert f"+{incumbent}\n" in ask(root, env, "diff", str(root), "--whole")


def ask(root: Path, env: dict[str, str], *arguments: str) -> str:
    done = quick.call(*arguments, env=env, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
