"""`bakeoff replay`: a recorded trial run again, from the record alone, and compared figure by figure.

Use: `replay_trial(store, config, view, row, bench)`. Source snapshot, seeds and the judge's figures come
from the store; environment, data and judge must be the recorded ones and are checked first. What is
repeated is the measurement that labelled the trial (the screening, or the start's calibration), on the public split.
Limits: nothing is written into the store; a trial without a measurement cannot be replayed; on another
kind of machine the last bits may differ, which the notes say.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from evaluators.judge import judge_client
from evaluators.judge.judge_client import Bench
from evaluators.statistics.lawful_measurement import fault_of
from evaluators.statistics.replay_verdict import Figure, Replay, compare
from flows.engine.campaign_config import BASELINE, CampaignConfig
from flows.engine.confirmation_state import must_depend
from flows.measure.standalone import Told, beside_start, check_world, measure
from lineage.errors import StoreCorrupt, UsageError
from lineage.queries import View
from lineage.records import Measurement, Row, Status
from lineage.store.blobs import get_blob, get_tree
from lineage.store.objects import Store

LEADING = (Status.BASELINE, Status.KEEP)


@dataclass(frozen=True)
class Replayed:
    """One trial, measured again: the verdict with its figures, and what a reader must know beside it."""

    trial: str
    result: Replay
    recorded: Measurement
    replayed: Measurement
    notes: tuple[str, ...]

    @property
    def line(self) -> str:
        """One line for a list: trial, verdict, score then and now."""
        then, again = _text(self.recorded.score), _text(self.replayed.score)
        why = f"; {self.result.reasons[0]}" if self.result.reasons else ""
        metric = self.recorded.metric
        return f"{self.trial}  {self.result.verdict:12}  {metric} was {then}, is {again}{why}"

    def as_json(self) -> dict[str, Any]:
        return {
            "trial": self.trial,
            "verdict": self.result.verdict,
            "reasons": list(self.result.reasons),
            "notes": list(self.notes),
            "seeds": [seed.seed for seed in self.recorded.per_seed],
            "score": {"recorded": self.recorded.score, "replayed": self.replayed.score},
            "figures": [_figure(figure) for figure in self.result.figures],
        }


def _figure(figure: Figure) -> dict[str, Any]:
    return {
        "name": figure.name,
        "recorded": figure.recorded,
        "replayed": figure.replayed,
        "verdict": figure.verdict,
    }


def _text(score: float | None) -> str:
    return "none" if score is None else f"{score:.6g}"


def replay_trial(
    store: Store, config: CampaignConfig, view: View, row: Row, bench: Bench, told: Told | None = None
) -> Replayed:
    """Measure the trial's program again on its recorded seeds and compare.

    Raises UsageError for a trial without a measurement, or another environment or judge than recorded;
    StoreCorrupt when the record does not hold together.
    """
    recorded = recorded_measurement(store, row)
    whose = f"trial {row.trial} of {config.id}"
    version = row.bakeoff_version or ""
    check_world(bench, recorded.environment_sha256, recorded.evaluator_sha256, whose, version)
    files = get_tree(store, recorded.source_sha256)
    known = bench if row.trial == BASELINE else beside_start(bench, store, config, view)
    again = measure(
        known,
        files,
        [seed.seed for seed in recorded.per_seed],
        trial=recorded.trial,
        purpose="replay",
        slots=config.settings.slots,
        told=told,
    ).measurement
    assert again is not None  # only `stop_early` leaves a program unjudged
    deciding = {config.spec.score.metric, *(gate.quantity for gate in config.spec.gates)}
    result = compare(recorded, again, noise_of(store, view), deciding)
    seeded = must_depend(config, view, row.parent)
    broken = fault_of(again, config.spec, seeded=seeded)
    if broken is not None and fault_of(recorded, config.spec, seeded=seeded) is None:
        reason = f"the repeated measurement breaks a rule ({broken.cause}): {broken.text}"
        result = replace(result, verdict="differs", reasons=(reason, *result.reasons))
    return Replayed(recorded.trial, result, recorded, again, _notes(recorded, again))


def recorded_measurement(store: Store, row: Row) -> Measurement:
    """The stored measurement that a trial's row names, checked against the row."""
    if row.measurement_sha256 is None:
        why = f"{row.status}, {row.cause}" if row.cause else f"{row.status}"
        raise UsageError(
            f"trial {row.trial} was never measured ({why}), so there is nothing to compare with; "
            "replay a trial that has a score"
        )
    try:
        found = Measurement.model_validate_json(get_blob(store, row.measurement_sha256))
    except ValueError as error:
        raise StoreCorrupt(f"blob {row.measurement_sha256} is not a measurement: {error}") from None
    if (found.trial, found.source_sha256) != (row.trial, row.source_sha256):
        raise StoreCorrupt(
            f"trial {row.trial}: its row is about source {row.source_sha256}, its measurement about trial "
            f"{found.trial} and source {found.source_sha256}; see what `bakeoff verify` says"
        )
    return found


def noise_of(store: Store, view: View) -> Mapping[str, float]:
    """Sd of one run per quantity, from the start's calibration runs; empty without at least two of them."""
    start = view.trial(BASELINE)
    if start is None or start.measurement_sha256 is None:
        return {}
    seeds = recorded_measurement(store, start).per_seed
    names = set.intersection(*(set(seed.quantities) for seed in seeds)) if len(seeds) > 1 else set()
    return {name: statistics.stdev([seed.quantities[name] for seed in seeds]) for name in sorted(names)}


def _notes(recorded: Measurement, again: Measurement) -> tuple[str, ...]:
    notes = []
    if recorded.machine != judge_client.machine_identity():
        notes.append(f"another machine: recorded on {recorded.machine}; this is {again.machine}")
    if recorded.isolation != again.isolation:
        notes.append(
            f"another isolation: recorded under {recorded.isolation}, replayed under {again.isolation}"
        )
    return tuple(notes)


def replayable(view: View, most: int) -> list[Row]:
    """Up to `most` measured trials: first those that claims rest on (start and keeps), then the others, oldest first."""
    measured = [row for row in view.trials() if row.measurement_sha256 is not None]
    return sorted(measured, key=lambda row: row.status not in LEADING)[:most]
