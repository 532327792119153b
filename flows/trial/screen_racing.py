"""The looks of a screen: after its first runs, is it still worth the others?

Use: `parts_of(engine, purpose, runs)` says between which runs the screen pauses, `look_after(...)` what
was seen there. The rule is `evaluators.statistics.racing`. What a look decided is a stored result, made before anything
follows from it, so that a trial that is continued elsewhere does not decide anew against another leader.
"""

from __future__ import annotations

from evaluators.statistics import racing
from evaluators.statistics.lawful_measurement import fault_of
from evaluators.statistics.racing import Stopped
from flows.engine.campaign_config import BASELINE
from flows.engine.confirmation_state import must_depend
from flows.engine.engine import Engine
from flows.engine.stage_records import TrialRef
from lineage.records import Measurement, Record
from lineage.store.blobs import get_blob
from lineage.store.results import first_result, get_result

SCREEN = "screen"


class ScreenLook(Record):
    """What a look decided: whether the runs so far decide the trial, and why its screen ended where racing ended it."""

    is_over: bool
    stopped: Stopped | None = None


def parts_of(engine: Engine, purpose: str, runs: int) -> list[tuple[int, int]]:
    """First and last index (exclusive) of the runs between looks; only screens are raced."""
    return racing.parts(engine.config.racing if purpose == SCREEN else None, runs)


def look_after(engine: Engine, ref: TrialRef, measured: Measurement, parent: str | None) -> ScreenLook:
    """The stored decision after so many runs, or a new one against the leader of this moment."""
    name = f"look-{len(measured.per_seed)}"
    raw = get_result(engine.store, ref.campaign, ref.trial, name)
    if raw is None:
        made = _look(engine, measured, parent).model_dump_json().encode()
        raw = first_result(engine.store, ref.campaign, ref.trial, name, made)
    return ScreenLook.model_validate_json(raw)


def _look(engine: Engine, measured: Measurement, parent: str | None) -> ScreenLook:
    config, view = engine.config, engine.view()
    if config.racing is None:
        return ScreenLook(is_over=False)
    # a broken rule decides whatever the other runs give; gates are asked of all runs, or by the rule of racing
    asked = measured.model_copy(update={"gates": ()})
    if fault_of(asked, config.spec, seeded=must_depend(config, view, parent)) is not None:
        return ScreenLook(is_over=True)
    row = view.trial(BASELINE)
    if row is None or row.measurement_sha256 is None:
        return ScreenLook(is_over=False)
    start = Measurement.model_validate_json(get_blob(engine.store, row.measurement_sha256))
    stopped = racing.look(
        config.racing, config.spec, measured.per_seed, view.ranking.leader(), start.per_seed
    )
    return ScreenLook(is_over=stopped is not None, stopped=stopped)
