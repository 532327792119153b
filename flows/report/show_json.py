"""The facts of `bakeoff show`, for machines: `campaign_json(view, spec)` and `trial_json(view, row)`.

Limits: plain dicts of JSON types; missing is None. Candidate text is as stored, not made safe for a terminal.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flows.report import formatting as w
from flows.report.figures import digest, headline, in_sds, loads
from lineage.records import Row

if TYPE_CHECKING:
    from lineage.environment_spec import EnvironmentSpec
    from lineage.queries import View


def campaign_json(view: View, spec: EnvironmentSpec) -> dict[str, Any]:
    """The facts of `campaign_view`, for machines."""
    d = digest(view, spec)
    base = d.baseline.score if d.baseline else None

    def brief(row: Row | None) -> dict[str, Any] | None:
        if row is None:
            return None
        return {
            "trial": row.trial,
            "role": row.role,
            "score": row.score,
            "fresh_score": d.means.get(row.trial or ""),
            "gain": w.relative(spec, d.score_of(row), base),
            "noise_sds": in_sds(spec, d.score_of(row), base, d.noise_sd),
            "p_value": row.p_value,
            "sealed_score": row.sealed_score,
            "sealed_gain": row.sealed_gain,
            "sealed_interval": [row.sealed_low, row.sealed_high],
            "sealed_verdict": row.sealed_verdict,
            "hypothesis": row.hypothesis,
        }

    return {
        "campaign": d.campaign,
        "environment": spec.name,
        "metric": spec.score.metric,
        "direction": spec.score.direction,
        "unit": spec.score.unit,
        "headline": headline(spec, d),
        "trials": d.trials,
        "open": d.open_trials,
        "statuses": dict(d.statuses),
        "confirmed": d.confirmed,
        "improved": d.improved,
        "baseline": brief(d.baseline),
        "incumbent": brief(d.incumbent),
        "leader": brief(d.leader),
        "champions": [brief(row) for row in d.champions],
        "champions_not_sealed": list(d.unsealed),
        "noise_sd": d.noise_sd,
        "noise_runs": d.noise_runs,
        "noise_throttled": d.noise_throttled,
        "roles": [{**asdict(g), "hit_rate": g.hit_rate} for g in d.roles],
        "failures": [
            {"status": f.status, "cause": f.cause, "n": f.n, "last": f.example.trial} for f in d.failures
        ],
        "spent": {**asdict(d.spent), "tokens": d.spent.tokens},
        "forecasts": asdict(d.forecasts),
        "pruning": asdict(d.prunes),
        "isolation": dict(d.isolation),
        "evaluators": dict(d.evaluators),
        "started": d.started.isoformat() if d.started else None,
        "finished": d.finished.isoformat() if d.finished else None,
        "ended": d.ended_why,
        "forked_from": d.forked_from or None,
    }


def trial_json(view: View, row: Row) -> dict[str, Any]:
    """The row as stored, its JSON columns opened, with its place in the lineage."""
    values = row.model_dump(mode="json")
    for name in ("numbers", "quantities", "detail"):
        values[name] = loads(values.pop(f"{name}_json"))
    values["chain"] = [r.trial for r in view.chain(row.trial or "")]
    values["children"] = [r.trial for r in view.children(row.trial or "")]
    return values
