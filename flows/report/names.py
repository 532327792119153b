"""How trials and campaigns are called where a person reads them: flow runs, tags, terminal lines."""

from __future__ import annotations

from lineage.environment_spec import EnvironmentSpec
from lineage.records import Row


def relative_delta(row: Row) -> float | None:
    """Change against the leader as of recording, as a fraction of it; negative means a lower score."""
    if row.delta_best is None or row.score is None:
        return None
    reference = row.score - row.delta_best
    return row.delta_best / abs(reference) if reference else None


def percent(value: float) -> str:
    """`+1.2 %` with a true minus sign, so that columns line up."""
    return f"{value * 100:+.1f} %".replace("-", "−")


def trial_name(row: Row, spec: EnvironmentSpec) -> str:
    """`airbench_mini · opt · t0042 · keep −3.1 %`, or the cause where there is no score."""
    parts = [spec.name, row.role or "-", row.trial or "-"]
    outcome = str(row.status or "open")
    change = relative_delta(row)
    if change is not None:
        outcome += f" {percent(change)}"
    elif row.cause:
        outcome += f" ({row.cause})"
    return " · ".join([*parts, outcome])
