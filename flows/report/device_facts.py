"""Device figures of a trial: from its runs to the columns of its row and to text.

Use: `device_columns(checks, runs, measurements)` for a Row, `throttle_text(row)`, `devices_text(row)` for people. Pure.
Limits: columns sum over the runs; each single run is in `detail_json.device_runs`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from flows.report.formatting import count, percent, size
from lineage.records import Check, DeviceUse, Measurement, Row, TrainRun

Run = tuple[str, int | None, DeviceUse]


def device_runs(
    checks: Sequence[Check], runs: Sequence[TrainRun], measurements: Sequence[Measurement]
) -> list[Run]:
    """(stage, seed, what the driver said) of every run that had devices, in order."""
    found: list[tuple[str, int | None, DeviceUse | None]] = [
        ("build", None, check.device) for check in checks
    ]
    found += [("train", run.seed, run.facts.device) for run in runs]
    found += [
        ("evaluate", seed.seed, seed.facts.device if seed.facts else None)
        for measurement in measurements
        for seed in measurement.per_seed
    ]
    return [(stage, seed, use) for stage, seed, use in found if use is not None]


def device_columns(runs: Iterable[Run]) -> dict[str, Any]:
    """The columns of a row; empty without devices, so that rows of CPU trials do not change."""
    listed = list(runs)
    if not listed:
        return {}
    uses = [use for _, _, use in listed]
    timed = [use for stage, _, use in listed if stage != "build"]  # the runs behind a score or a cap
    shares: dict[str, float] = {}
    for use in timed:
        for reason, share in use.throttled.items():
            shares[reason] = max(shares.get(reason, 0.0), round(share, 4))
    peaks = [use.peak_bytes for use in uses if use.peak_bytes is not None]
    energy = [use.energy_j for use in uses if use.energy_j is not None]
    busy = [use.utilisation for use in timed if use.utilisation is not None]
    return {
        "accelerator": next((use.name for use in uses if use.name), None),
        "devices": list(dict.fromkeys(uuid for use in uses for uuid in use.uuids)),
        "throttled_runs": len({seed for stage, seed, use in listed if stage != "build" and use.throttled}),
        "throttle_json": json.dumps(shares, sort_keys=True),
        "device_peak_bytes": max(peaks, default=None),
        "energy_j": sum(energy) if energy else None,
        "utilisation": sum(busy) / len(busy) if busy else None,
    }


def as_detail(runs: Iterable[Run]) -> list[dict[str, Any]]:
    return [{"stage": stage, "seed": seed, **use.model_dump(mode="json")} for stage, seed, use in runs]


def throttle_text(row: Row) -> str:
    """`2 runs, thermal up to 12.0 % of a run`; empty for a trial whose clocks were never lowered."""
    if not row.throttled_runs:
        return ""
    shares = json.loads(row.throttle_json or "{}")
    reasons = ", ".join(
        f"{name} up to {percent(share, 1, sign=False)} of a run" for name, share in shares.items()
    )
    return f"{count(row.throttled_runs, 'run')}, {reasons}" if reasons else count(row.throttled_runs, "run")


def devices_text(row: Row) -> list[tuple[str, str]]:
    """Name and value of everything that is known of the devices of a trial; empty without any."""
    if not row.devices:
        return []
    pairs = [("accelerator", row.accelerator or ""), ("devices", ", ".join(row.devices))]
    if row.device_peak_bytes is not None:
        pairs.append(("peak memory of a device", size(row.device_peak_bytes)))
    if row.energy_j is not None:
        pairs.append(
            ("energy", f"{row.energy_j / 1000:,.1f} kJ" if row.energy_j >= 1000 else f"{row.energy_j:.0f} J")
        )
    if row.utilisation is not None:
        pairs.append(("mean utilisation", percent(row.utilisation, 0, sign=False)))
    return [*pairs, ("clocks lowered", throttle_text(row))]
