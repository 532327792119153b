"""`bakeoff calibrate`: how much the start of an environment scatters on this machine, stored and hashed.

Use: `calibrate(environment, ...)` measures the start with seeds that the judge's side draws, `save` keeps it as
`BAKEOFF_HOME/calibrations/<environment>-<origin>.json`, `matching` gives it to a campaign that starts on the same
source, environment, judge, isolation and machine. The file holds the calibration and the sha256 of its
canonical JSON, so that an altered one is refused. Its scores join the start's replicates in every
confirmation (`evaluators.statistics.confirmation_book`). Limits: one calibration per environment and home; the newest wins. Those of earlier versions, which
were found by the name alone, are still read where their hashes are the environment's own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from evaluators.judge import judge_client, merge_measurements
from evaluators.judge.item_scores import Items
from evaluators.judge.judge_client import Bench
from evaluators.statistics.confirmation import plan_for, power_statement
from evaluators.statistics.lawful_measurement import deterministic, run_sentence
from evaluators.statistics.paired_item_test import difference_sd, item_chance
from flows.engine.campaign_config import new_secret, now, seeds_from
from flows.environments.loading import Environment
from flows.machine import machine_speed
from flows.machine.folders import bakeoff_version, home
from flows.machine.machine_speed import what_to_do
from flows.measure.judge_check import has_items
from flows.measure.standalone import Measured, Told, measure, smoke
from flows.report.device_facts import device_columns, device_runs
from lineage.environment_spec import SCORED_COSTS, EnvironmentSpec
from lineage.errors import UsageError
from lineage.ids import canonical_json, sha256, tree_hash
from lineage.records import Check, Finite, Measurement, Record
from lineage.safe_text import one_line


class Calibration(Record):
    """The start's scores on one machine, and everything that has to be the same for them to count."""

    environment: str
    metric: str
    scores: tuple[Finite, ...]
    seeds: tuple[int, ...]
    secret: str
    quantities: tuple[dict[str, Finite], ...]
    gates: tuple[Check, ...]
    cpu_seconds: Finite
    load_start: Finite
    load_end: Finite
    source_sha256: str
    environment_sha256: str
    evaluator_sha256: str
    isolation: str
    machine: str
    accelerator: str
    # fields that an older calibration has not are left out while they are unset, so that it keeps its hash
    throttled_runs: int = Field(0, exclude_if=lambda value: not value)
    bakeoff_version: str
    measured_at: datetime
    deterministic: bool | None = Field(None, exclude_if=lambda value: value is None)
    items: int | None = Field(None, exclude_if=lambda value: value is None)
    item_sd: Finite | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="spread over items of the difference of two runs, at one item",
    )
    reference_s: Finite | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="CPU seconds of a fixed piece of work on this machine",
    )

    @property
    def bytes(self) -> bytes:
        """Canonical JSON: what is hashed, and what a campaign that uses it keeps in its store."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def sha256(self) -> str:
        return sha256(self.bytes)

    @property
    def missed(self) -> tuple[str, ...]:
        """Gates that the start does not pass here, in words."""
        return tuple(f"{gate.name}: {gate.detail}" for gate in self.gates if not gate.passed)


def calibrate(
    bench: Bench,
    files: Mapping[str, bytes],
    runs: int,
    slots: int,
    told: Told | None = None,
    reference_s: float | None = None,
) -> Calibration:
    """Measure the start `runs` times. Raises UsageError when it does not run to a score here.

    `reference_s`: what `flows.machine.machine_speed.measure` gave, to be kept.
    """
    name = bench.spec.name
    check_before_runs(bench, runs)
    check = smoke(bench, files, slots)
    if not check.passed:
        helps = what_to_do(bench.spec, str(check.numbers.get("cause")), check.numbers)
        raise UsageError(
            f"the start of {name} fails its smoke test on this machine: {check.detail}; {helps or 'mend the recipe'}"
        )
    secret, source = new_secret(), tree_hash(files)
    seeds = seeds_from(secret, source, "calibrate", runs)
    done, found = _measured(bench, files, seeds, slots, told)
    return Calibration(
        environment=name,
        metric=found.metric,
        scores=tuple(seed.quantities[found.metric] for seed in found.per_seed),
        seeds=seeds,
        secret=secret,
        quantities=tuple(seed.quantities for seed in found.per_seed),
        gates=(*found.gates, *found.audits),
        cpu_seconds=done.cpu_s,
        load_start=found.load_start,
        load_end=found.load_end,
        source_sha256=found.source_sha256,
        environment_sha256=found.environment_sha256,
        evaluator_sha256=found.evaluator_sha256,
        isolation=found.isolation,
        machine=found.machine,
        accelerator=found.accelerator,
        throttled_runs=device_columns(device_runs((), done.runs, [found])).get("throttled_runs", 0),
        bakeoff_version=bakeoff_version(),
        measured_at=now(),
        deterministic=deterministic(found.per_seed),
        reference_s=reference_s,
        **_item_facts(found.metric, done.items),
    )


def check_before_runs(bench: Bench, runs: int) -> None:
    """Raise UsageError for too few runs, SpecInvalid for a name that the environment's judge does not give."""
    if runs < 2:
        raise UsageError(
            f"--runs {runs}: a spread needs at least 2 runs; the default comes from environment.toml"
        )
    has_items(bench)


def _measured(
    bench: Bench, files: Mapping[str, bytes], seeds: Sequence[int], slots: int, told: Told | None
) -> tuple[Measured, Measurement]:
    """All runs of the start. The first is judged before the second begins: what fails once fails with every seed.

    Raises UsageError when a run has no score.
    """
    parts: list[Measured] = []
    for some in (seeds[:1], seeds[1:]):
        done = measure(
            bench, files, some, trial="start", purpose="calibrate", slots=slots, stop_early=True,
            told=told, before=sum(len(part.runs) for part in parts), of=len(seeds),
        )  # fmt: skip
        _raise_if_failed(bench, done)
        parts.append(done)
    measurements = [part.measurement for part in parts if part.measurement is not None]
    whole, items = merge_measurements.merged(bench.spec, measurements, [part.kept for part in parts])
    runs = tuple(run for part in parts for run in part.runs)
    return Measured(runs, whole, items or b""), whole


def _raise_if_failed(bench: Bench, done: Measured) -> None:
    found = done.measurement
    trained = next((run for run in done.runs if run.cause is not None), None)
    judged = next((seed for seed in (found.per_seed if found else ()) if seed.cause is not None), None)
    failed = trained or judged
    if failed is None and found is not None:
        return
    cause = failed.cause if failed is not None and failed.cause else "no result"
    numbers = dict(failed.numbers) if failed is not None else {}
    said = run_sentence(
        "training" if trained else "prediction", cause, failed.facts if failed else None, numbers
    )
    helps = what_to_do(bench.spec, cause, numbers)
    raise UsageError(
        f"the start of {bench.spec.name} does not run to a score on this machine: {cause}: {one_line(said, 400)}; "
        f"numbers {numbers}; {helps or 'mend the recipe or its limits'}"
    )


def fitted_here(
    environment: Environment, *, again: bool = False, stored_only: bool = False
) -> tuple[Environment, float | None]:
    """The environment with caps for this machine, and the speed that they follow from; None where they stay as they are.

    The speed is the stored calibration's, so that its campaigns have its caps; it is measured `again`, or where
    there is no calibration of this machine, unless `stored_only`: campaigns that are compared have the same caps.
    Raises UsageError for an altered one.
    """
    if environment.spec.budget.fit_to_machine <= 1:
        return environment, None
    held = None if again else load(environment)
    known = held is not None and held.machine == judge_client.machine_identity()
    seconds = held.reference_s if held is not None and known else None
    if seconds is None and not stored_only:
        seconds = machine_speed.measure()
    return replace(environment, spec=machine_speed.fitted(environment.spec, seconds)), seconds


def _item_facts(metric: str, held: Mapping[str, Items]) -> dict[str, Any]:
    """How many test items the public split has, and how far two programs of this kind differ at one.

    From two runs of the start; where they are equal, from two that would be right at items of their own.
    """
    items = held.get(metric)
    if items is None or len(items) < 2:
        return {}
    one, two = (Items(items.weights, values) for values in (items.values[:1], items.values[-1:]))
    sd = difference_sd(item_chance(one, two))
    return {"items": len(items), "item_sd": sd or float(np.sqrt(2) * np.std(items.values[0]))}


def advice(calibration: Calibration, spec: EnvironmentSpec) -> list[str]:
    """What a person should know before a campaign: a start without randomness, a split that is too small."""
    told = []
    if spec.task.kind == "script":
        if len(calibration.scores) > 2 and len(set(calibration.scores)) == 1:
            told.append("the seed changes nothing: {seed} is not used, or the recipe is deterministic")
        return told
    if calibration.deterministic:
        told.append(
            "the start gives the same answers for every seed: it counts as one run, and edits of it are judged by the "
            "test items alone"
            if calibration.items
            else "the start gives the same answers for every seed"
            if spec.score.metric in SCORED_COSTS
            else "the start gives the same answers for every seed, and the judge gives no test items: no gain can be "
            "confirmed; take randomness from the seed, or return an array of one value per item from judge.py"
        )
    score = sum(calibration.scores) / len(calibration.scores)
    power = power_statement(
        plan_for(spec, has_items=bool(calibration.items)),
        0.0,
        calibration.item_sd or 0.0,
        calibration.items or 0,
        score,
    )
    least = max(spec.evaluation.min_gain * abs(score), spec.evaluation.min_units)
    if "items_gain" in power and least > 0 and power["items_gain"] > least:
        told.append(
            f"{power['items']:,.0f} test items show gains above {power['items_gain']:.4g}; your min_gain is {least:.4g}, "
            f"which needs about {power['items_needed']:,.0f}: add items to the public split, or raise min_gain"
        )
    return told


def calibration_path(environment: Environment) -> Path:
    return home() / "calibrations" / f"{environment.spec.name}-{environment.origin}.json"


def save(calibration: Calibration, environment: Environment) -> Path:
    """Put it in the place of an earlier one, whole or not at all."""
    path = calibration_path(environment)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    held = {"sha256": calibration.sha256, "calibration": calibration.model_dump(mode="json")}
    staging.write_text(json.dumps(held, indent=2, sort_keys=True, allow_nan=False) + "\n", "utf-8")
    staging.replace(path)
    return path


def load(environment: Environment, environment_sha256: str = "") -> Calibration | None:
    """The stored calibration; None without one. Raises UsageError when it is not what was written.

    One that was stored by the name alone counts only if it is of `environment_sha256`: another environment may have
    had the name.
    """
    path = calibration_path(environment)
    if path.exists():
        return _read(path, environment)
    earlier = home() / "calibrations" / f"{environment.spec.name}.json"
    found = _read(earlier, environment) if environment_sha256 and earlier.exists() else None
    return found if found is not None and found.environment_sha256 == environment_sha256 else None


def _read(path: Path, environment: Environment) -> Calibration:
    again = f"measure it again with: bakeoff calibrate {environment.called}"
    try:
        held = json.loads(path.read_bytes())
        calibration = Calibration.model_validate(held["calibration"])
        wanted = held["sha256"]
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        short = str(error).splitlines()[0]
        raise UsageError(f"{path}: not a calibration as it was written ({short}); {again}") from None
    if calibration.sha256 != wanted:
        raise UsageError(
            f"{path}: was altered: its contents hash to {calibration.sha256[:12]}, it names {wanted!s:.12}; {again}"
        )
    return calibration


def matching(
    chosen: Environment,
    *,
    source_sha256: str,
    environment_sha256: str,
    isolation: str,
    accelerator: str,
    told: Told,
) -> Calibration | None:
    """The calibration that holds for a campaign started here and now; None when there is none.

    One of another source, environment, judge, isolation or accelerator is passed over with a note. Raises UsageError
    for an altered one, one of another machine, and one whose start missed a gate.
    """
    found, environment = load(chosen, environment_sha256), chosen.called
    if found is None:
        return None
    here = {
        "source": (found.source_sha256, source_sha256),
        "environment": (found.environment_sha256, environment_sha256),
        "judge": (found.evaluator_sha256, judge_client.evaluator_sha256()),
        "isolation": (found.isolation, isolation),
        "accelerator": (found.accelerator, accelerator),
    }
    other = [name for name, (then, again) in here.items() if then != again]
    again = f"bakeoff calibrate {environment}"
    if other:
        told(
            f"the calibration of {environment} is of another {', '.join(other)} and is not used; renew it with: {again}"
        )
        return None
    if found.machine != judge_client.machine_identity():
        raise UsageError(
            f"the calibration of {environment} was measured on another machine ({found.machine}) than this one "
            f"({judge_client.machine_identity()}), where the noise may be another; measure it here with: {again}"
        )
    if found.missed:
        raise UsageError(
            f"the start of {environment} does not pass its own rules on this machine: {'; '.join(found.missed)}; "
            f"mend the recipe or its limits, or measure again with: {again}"
        )
    return found


def summary(calibration: Calibration) -> dict[str, Any]:
    """Figures for people and programs: noise floor with 95 % intervals, seeds, cost, gates."""
    from evaluators.statistics.noise import noise_floor

    return {
        **asdict(noise_floor(calibration.scores)),
        **calibration.model_dump(mode="json", exclude={"secret"}),
        "sha256": calibration.sha256,
        "passed": not calibration.missed,
    }
