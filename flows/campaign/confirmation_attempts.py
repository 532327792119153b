"""Confirmations as the store knows them: which is due, what it was opened with, what it decided, what is not sealed.

An attempt is the n-th confirmation of its campaign. Its stages each leave a stored result, create-if-absent:
the opening (which trial, against which incumbent), every training and measurement, the decision, the sealed
score. A killed attempt is continued from its last stored result, before any other is opened.
Everything here is plain and synchronous; `flows.campaign.confirm` runs it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from flows.engine.campaign_config import HOLDER
from flows.engine.confirmation_state import book
from flows.engine.engine import Engine
from flows.engine.stage_records import Trained
from flows.trial import stages
from lineage.errors import UsageError
from lineage.queries import View
from lineage.records import Measurement, Record, Row, TrainRun
from lineage.store.results import first_result, get_result, list_results

REPLICATE = re.compile(r"confirm-[a-z]+-(\d+)-(train|measurement)(?:-\d+)?")
OFFSET = 1000  # a trial that is confirmed again draws seeds from here on


class Due(Record):
    """The one confirmation that a campaign must work on next."""

    number: int
    trial: str


class Opening(Record):
    """What an attempt was opened with. `trials`: outcomes recorded then; `skip`: seeds that earlier attempts had."""

    number: int
    candidate: str
    role: str
    incumbent: str
    trials: int
    skip: int


def due(engine: Engine) -> Due | None:
    """A champion without its sealed score, else the attempt that is open, else the leader if it is worth one."""
    view = engine.view()
    late = view.ranking.unsealed
    if late:
        return Due(number=late[0][0], trial=late[0][1])
    number = view.count("confirmation")
    begun = _opening(engine, number)
    candidate = begun.candidate if begun is not None else book(engine.config, view).candidate()
    return Due(number=number, trial=candidate) if candidate is not None else None


def finished(view: View, number: int) -> Row | None:
    """The confirmation event of an attempt that needs nothing more; None while it does."""
    rows = view.events("confirmation")
    if number >= len(rows) or awaits_seal(view, number):
        return None
    return rows[number]


def awaits_seal(view: View, number: int) -> bool:
    """Has this attempt made a champion, not vetoed since, that has no sealed score yet?"""
    return number in [late for late, _ in view.ranking.unsealed]


def open_attempt(engine: Engine, trial: str) -> Opening:
    """The open attempt or unsealed champion that `trial` has, else a new attempt. Raises UsageError for another's."""
    view = engine.view()
    late = [number for number, champion in view.ranking.unsealed if champion == trial]
    number = late[0] if late else view.count("confirmation")
    begun = _opening(engine, number) or (_decided_before(view, number) if late else None)
    if begun is None:
        begun = _new(engine, view, number, trial)
        made = begun.model_dump_json().encode()
        kept = first_result(engine.store, engine.config.id, HOLDER, _opening_name(number), made)
        begun = Opening.model_validate_json(kept)
    if begun.candidate != trial:
        raise UsageError(
            f"{trial} cannot be confirmed now: attempt {number} of {engine.config.id} is that of {begun.candidate}; "
            "end that one first"
        )
    return begun


def _new(engine: Engine, view: View, number: int, trial: str) -> Opening:
    standing = book(engine.config, view)
    if standing.incumbent is None:
        raise UsageError(f"{trial}: there is no incumbent to confirm against; measure the baseline first")
    row = view.trial(trial)
    before = sum(1 for event in view.events("confirmation") if event.trial == trial)
    return Opening(
        number=number,
        candidate=trial,
        role=(row.role if row is not None else None) or "",
        incumbent=standing.incumbent,
        trials=standing.trials,
        skip=before * OFFSET,
    )


def _decided_before(view: View, number: int) -> Opening:
    """The opening of an attempt that was decided by a release that recorded none; its event says enough."""
    rows = view.events("confirmation")
    row = rows[number]
    before = sum(1 for event in rows[:number] if event.trial == row.trial)
    return Opening(
        number=number,
        candidate=row.trial or "",
        role=row.role or "",
        incumbent=row.incumbent or "",
        trials=0,
        skip=before * OFFSET,
    )


def _opening_name(number: int) -> str:
    return f"confirmation-{number:04d}"


def _opening(engine: Engine, number: int) -> Opening | None:
    raw = get_result(engine.store, engine.config.id, HOLDER, _opening_name(number))
    return Opening.model_validate_json(raw) if raw is not None else None


def recorded(engine: Engine, begun: Opening, event: str) -> Row | None:
    """The stored `confirmation` or `sealed` event of an attempt; None while there is none."""
    raw = get_result(engine.store, engine.config.id, begun.candidate, f"{event}-{begun.number:04d}")
    if raw is not None:
        return Row.model_validate_json(raw)
    rows = engine.view().events("confirmation") if event == "confirmation" else []
    return rows[begun.number] if begun.number < len(rows) else None  # of a release that stored none


def record(engine: Engine, begun: Opening, row: Row) -> bool:
    """Store the event as a result and append it unless lineage has it. Was it appended now?

    A kill between the two is mended by calling this again.
    """
    view = engine.view()
    decided = view.count("confirmation") > begun.number
    if decided if row.event == "confirmation" else not awaits_seal(view, begun.number):
        return False
    name = f"{row.event}-{begun.number:04d}"
    kept = first_result(engine.store, engine.config.id, begun.candidate, name, row.model_dump_json().encode())
    engine.append(Row.model_validate_json(kept))
    return True


def replicates(engine: Engine, begun: Opening) -> tuple[list[TrainRun], list[Measurement]]:
    """All stored trainings and measurements of an attempt, repeated trainings too."""
    runs: list[TrainRun] = []
    measured: list[Measurement] = []
    for name in list_results(engine.store, engine.config.id, begun.candidate):
        found = REPLICATE.fullmatch(name)
        if found is None or not begun.skip <= int(found[1]) < begun.skip + OFFSET:
            continue
        raw = get_result(engine.store, engine.config.id, begun.candidate, name) or b""
        if found[2] == "measurement":
            measured.append(Measurement.model_validate_json(raw))
        else:
            trained = Trained.model_validate_json(raw)
            runs += [*trained.runs, *trained.beyond]
    return runs, measured


def cpu_of(runs: Sequence[TrainRun], measured: Sequence[Measurement]) -> dict[str, float]:
    """CPU seconds of the candidates of an attempt, as columns of its event."""
    asked = [seed.facts for m in measured for seed in m.per_seed if seed.facts is not None]
    return {
        "train_cpu_s": sum(run.facts.cpu_s + run.facts.start_cpu_s for run in runs),
        "evaluate_cpu_s": sum(facts.cpu_s + facts.start_cpu_s for facts in asked),
    }


def sweep(engine: Engine) -> None:
    """Remove what ended trials and attempts left in this machine's scratch space, as a kill does.

    Open trials keep theirs, and so does the attempt that is due: their artifacts are used again.
    """
    folder, view, next_one = engine.scratch(""), engine.view(), due(engine)
    ended = {row.trial for row in view.trials()}
    kept = stages.confirm_place(next_one.trial) if next_one is not None else ""
    for trial in ended:
        for name in (trial or "", stages.confirm_place(trial or "")):
            if name != kept and (folder / name).is_dir():
                stages.drop_scratch(engine, name)
