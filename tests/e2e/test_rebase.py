"""An edit that was written while another trial took the lead is applied to the new leader, or dropped."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import quick

from flows.engine.campaign_config import now
from flows.engine.engine import Engine
from flows.engine.stage_records import TrialRef
from flows.trial import stages
from flows.trial.recording import Progress, build_row, decide
from lineage.errors import EditRefused
from lineage.records import Edit, Proposal, Row, Status
from lineage.store.blobs import put_tree

EVENING = now() - timedelta(hours=1)


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A start, t0001 that leads from minute 10 on with another rate, and t0002 that was begun at minute 5."""
    with quick.engine(tmp_path, trials=5) as engine:
        start = engine.tree(engine.config.start_sha256)
        faster = {**start, "fitting.py": start["fitting.py"].replace(b"LR = 0.1 ", b"LR = 0.2 ")}
        first, second = (put_tree(engine.store, tree) for tree in (start, faster))
        add(engine, "trial", "t0000", 1, status=Status.BASELINE, score=0.80, source_sha256=first)
        add(engine, "submitted", "t0002", 5)
        add(
            engine, "trial", "t0001", 10, status=Status.KEEP, score=0.85, parent="t0000", source_sha256=second
        )
        add(engine, "submitted", "t0003", 15)
        yield engine


def add(engine: Engine, event: str, trial: str, minute: float, **values: object) -> None:
    at = EVENING + minutes(minute)
    row = {
        "event": event,
        "campaign": engine.config.id,
        "trial": trial,
        "t_started": at - minutes(event == "trial"),
        **values,
    }
    if event == "trial":
        row |= {"t_finished": at, "scores": [values["score"]]}
    engine.append(Row.model_validate(row))


def patched(engine: Engine, trial: str, search: str, replace: str, parent: str = "t0000") -> Row:
    """Apply one edit as the trial's patch stage does; the row that the trial would get."""
    role = next(role.name for role in engine.config.roles if "training" in role.surfaces)
    ref = TrialRef(store=engine.root, campaign=engine.config.id, trial=trial, role=role)
    edits = (Edit(path="fitting.py", search=search, replace=replace),)
    proposal = Proposal(role=role, proposer="x", parent=parent, hypothesis="x", edits=edits)
    progress = Progress(ref=ref, started=now(), proposal=proposal)
    try:
        progress.patched = stages.patch(engine, ref, proposal)
    except EditRefused as refused:
        progress.refusal = refused
    label, leader = decide(engine, progress, engine.view())
    return build_row(engine, progress, label, leader, engine.view())


def test_an_overtaken_edit_goes_on_top_of_the_new_leader(engine: Engine) -> None:
    row = patched(engine, "t0002", "STEPS = 300", "STEPS = 200")
    assert row.parent == "t0001"
    assert '"rebased_from": "t0000"' in row.detail_json
    assert row.source_sha256 is not None
    program = engine.tree(row.source_sha256)["fitting.py"]
    assert b"STEPS = 200" in program and b"LR = 0.2 " in program


def test_an_overtaken_edit_of_the_same_line_is_dropped_with_the_reason(engine: Engine) -> None:
    row = patched(engine, "t0002", "LR = 0.1 ", "LR = 0.15 ")
    assert (row.status, row.cause, row.parent) == (Status.REJECTED, "bad_edit", "t0001")
    assert '"rebased_from": "t0000"' in row.detail_json
    assert "written on t0000 and moved to t0001, which overtook it meanwhile" in row.error_excerpt


def test_an_overtaken_edit_that_gives_the_new_leader_again_is_a_duplicate_of_it(engine: Engine) -> None:
    leader = engine.view().trial("t0001")
    row = patched(engine, "t0002", "STEPS = 300", "STEPS = 300  # as it is")
    assert leader is not None and (row.cause, row.parent) == ("duplicate", "t0001")


def test_a_parent_chosen_with_the_leader_in_sight_is_kept(engine: Engine) -> None:
    row = patched(engine, "t0003", "LR = 0.1 ", "LR = 0.15 ")
    assert row.parent == "t0000" and "rebased_from" not in row.detail_json


def test_a_keep_that_does_not_lead_moves_nothing(engine: Engine) -> None:
    start = engine.files_of("t0000")
    add(
        engine,
        "trial",
        "t0004",
        20,
        status=Status.KEEP,
        score=0.84,
        parent="t0000",
        source_sha256=put_tree(engine.store, start),
    )
    assert patched(engine, "t0003", "STEPS = 300", "STEPS = 100", parent="t0001").parent == "t0001"


def test_a_confirmation_has_no_times_so_the_order_of_events_decides(engine: Engine) -> None:
    """t0005 is written on t0004, which then fails its confirmation; t0006 leads by the time that t0005 is ready."""
    program = put_tree(engine.store, {**engine.files_of("t0001"), "note.py": b"# t0006\n"})
    lead = {"status": Status.KEEP, "parent": "t0001"}
    add(engine, "trial", "t0004", 20, score=0.88, source_sha256=put_tree(engine.store, {}), **lead)
    add(engine, "submitted", "t0005", 21)
    verdict = {"verdict": "unconfirmed", "scores": [0.84, 0.84], "incumbent": "t0000"}
    engine.append(
        Row.model_validate(
            {"event": "confirmation", "campaign": engine.config.id, "trial": "t0004", **verdict}
        )
    )
    add(engine, "trial", "t0006", 23, score=0.90, source_sha256=program, **lead)
    row = patched(engine, "t0005", "STEPS = 300", "STEPS = 200", parent="t0004")
    assert row.parent == "t0006" and '"rebased_from": "t0004"' in row.detail_json
