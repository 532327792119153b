"""The control run of a future champion: training on permuted data, before the title is recorded.

Use: `check = await control_run(engine, ref, patched, real)` in a confirmation whose test is decided. The outcome is a
stored result, so a killed attempt does not run it again. `evaluators.judge.permuted_data_control` judges it. Limits: where the
training data cannot be permuted there is no control run; the check passes and says so.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping

from evaluators.judge.permuted_data_control import Unpermuted, control
from flows.engine.campaign_config import draw_seeds
from flows.engine.engine import Engine
from flows.engine.stage_records import Patched, TrialRef
from flows.measure.standalone import beside_start
from flows.trial import stages
from lineage.errors import InfraFault
from lineage.records import Check
from lineage.store.results import get_result, put_result

NAME = "confirm-control"


async def control_run(engine: Engine, ref: TrialRef, patched: Patched, real: Mapping[str, float]) -> Check:
    """Return the check, stored or new. Raises InfraFault when the machine fails, Interrupted when the campaign ends."""
    return await asyncio.to_thread(_run, engine, ref, patched, dict(real))


def _run(engine: Engine, ref: TrialRef, patched: Patched, real: Mapping[str, float]) -> Check:
    raw = get_result(engine.store, ref.campaign, ref.trial, NAME)
    if raw is not None:
        return Check.model_validate_json(raw)
    place = engine.scratch(stages.confirm_place(ref.trial))
    source, out = stages.write_source(engine, place, patched), place / "control"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    bench = beside_start(engine.bench, engine.store, engine.config, engine.view())
    seed = draw_seeds(engine.config, patched.source_sha256, f"control-{ref.trial}", 1)[0]
    try:
        with engine.place(stages.confirm_place(ref.trial), "control run", stages.CONFIRM_RANK) as devices:
            check, measured = control(
                bench, source, seed, real, out, trial=ref.trial, cancel=engine.cancel, keep=engine.blob, devices=devices,
            )  # fmt: skip
    except Unpermuted as fault:
        check, measured = Check(name="control", passed=True, numbers={"made": 0}, detail=str(fault)), None
    finally:
        shutil.rmtree(out, ignore_errors=True)
    engine.raise_if_cancelled()
    if str(check.numbers.get("ended", "")).startswith(("infra", "abandoned")):
        raise InfraFault("control", f"{ref.trial}: the control run ended with {check.numbers['ended']}")
    if measured is not None:
        sha = engine.blob(measured.model_dump_json().encode())
        check = check.model_copy(update={"numbers": {**check.numbers, "measurement_sha256": sha or ""}})
    put_result(engine.store, ref.campaign, ref.trial, NAME, check.model_dump_json().encode())
    return check
