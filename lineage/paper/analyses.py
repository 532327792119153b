"""`audit`: the paper's analyses for any campaign, beside the paper's own figures where it has them.

Use: `result = audit(view)` gives a dict ready for JSON; `lines(result)` the same for a terminal.
Counts leave the baseline row out. Shares are fractions of 1. "Architecture" counts, as in the paper, a
submission whose specialist or logged domain is architecture, independent of its diff and outcome.
Limits: one campaign; the diversity figures rest on choices that the paper does not give (see `diversity`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from lineage.paper.diversity import METHOD, diversity
from lineage.queries import View, cost_unknown, made_by
from lineage.records import Row, Status

ROOTS = (Status.BASELINE,)
SECONDS = ("propose_s", "patch_s", "build_s", "train_s", "evaluate_s", "label_s", "queue_s")
MARKS = (100, 200, 400, 600, 900)
# What the paper prints (Tables 1 and 3, sections 3.4 and 4.2-4.3), by environment, trials and best score.
PAPER: dict[tuple[str, int, float], dict[str, Any]] = {
    ("parameter_golf", 900, 1.072210): {"effective_clusters": 439.6, "cross_role_parents": 32, "crossable_keeps": 33},
    ("parameter_golf", 200, 1.073142): {
        "effective_clusters": 134.8, "top_cluster_share": 0.035, "near_duplicate_share": 0.020,
        "cross_role_parents": 10, "crossable_keeps": 12, "trials_per_hour": 18.15, "eta": 0.80,
    },
    ("parameter_golf", 200, 1.074495): {
        "effective_clusters": 41.1, "top_cluster_share": 0.120, "near_duplicate_share": 0.015,
        "cross_role_parents": 7, "crossable_keeps": 9, "trials_per_hour": 16.79, "eta": 0.74,
    },
    ("parameter_golf", 200, 1.075384): {
        "effective_clusters": 61.9, "top_cluster_share": 0.175, "near_duplicate_share": 0.101, "trials_per_hour": 2.26,
    },
    ("parameter_golf", 200, 1.077413): {
        "effective_clusters": 121.7, "top_cluster_share": 0.025, "near_duplicate_share": 0.020,
        "cross_role_parents": 0, "crossable_keeps": 1,
    },
}  # fmt: skip


def audit(view: View) -> dict[str, Any]:
    """All analyses of a campaign."""
    rows = view.trials()
    trials = [row for row in rows if row.status not in ROOTS]
    keeps = [row for row in trials if row.status is Status.KEEP]
    steps = view.best_so_far()
    baseline = view.baseline()
    words = diversity([row.hypothesis or "" for row in trials])
    environment = next((row.environment for row in rows if row.environment), "")
    result: dict[str, Any] = {
        "campaign": view.campaign,
        "environment": environment,
        "direction": "max" if view.sign > 0 else "min",
        "trials": len(trials),
        "keeps": len(keeps),
        "statuses": _counted(row.status.value for row in trials if row.status),
        "causes": _counted(row.cause for row in trials if row.cause),
        "keeps_by_role": _counted(row.role or "" for row in keeps),
        "trials_by_role": _counted(row.role or "" for row in trials),
        "proposers": _makers(trials),
        "baseline_score": baseline.score if baseline else None,
        "best_score": steps[-1][2] if steps else None,
        "best_trial": steps[-1][1] if steps else None,
        "confirmed_trial": view.ranking.champions[-1] if view.ranking.champions else None,
        "confirmed": len(view.ranking.champions),
        "best_so_far": _best_at(steps, len(trials)),
        "last_keep_after": steps[-1][0] if steps else 0,
        **_architecture(trials),
        **_parents(rows, keeps),
        **_forecasts(trials),
        **_throughput(trials),
        "failure_mix_per_quarter": _quarters(trials),
        "repaired_rows": sum("repaired" in _detail(row) for row in trials),
        "clusters": words.clusters,
        "effective_clusters": words.effective_clusters,
        "top_cluster_share": words.top_cluster_share,
        "near_duplicate_share": words.near_duplicate_share,
        "text_method": METHOD,
    }
    best = result["best_score"]
    key = (environment, len(trials), round(best, 6) if best is not None else 0.0)
    result["paper"] = PAPER.get(key, {})
    return result


def _counted(words: Iterable[str]) -> dict[str, int]:
    """Word -> count, most frequent first."""
    return dict(sorted(Counter(words).items(), key=lambda item: (-item[1], item[0])))


def _detail(row: Row) -> dict[str, Any]:
    try:
        detail = json.loads(row.detail_json)
    except ValueError:
        return {}
    return detail if isinstance(detail, dict) else {}


def _best_at(steps: Sequence[tuple[int, str, float]], trials: int) -> dict[str, float]:
    """Best score after 100, 200, ... trials, and at the end."""
    marks = sorted({*(mark for mark in MARKS if mark <= trials), *range(1000, trials, 1000), trials})
    found: dict[str, float] = {}
    for mark in marks:
        upto = [score for number, _, score in steps if number <= mark]
        if upto:
            found[str(mark)] = upto[-1]
    return found


def _makers(trials: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """What made the proposals, with keeps and dollars; `usd_per_keep` is None where a keep or a cost is missing."""
    found: dict[str, dict[str, Any]] = {}
    for row in trials:
        one = found.setdefault(
            made_by(row) or "unknown", {"trials": 0, "keeps": 0, "usd": 0.0, "unpriced": 0}
        )
        one["trials"] += 1
        one["keeps"] += row.status is Status.KEEP
        one["usd"] += row.usd
        one["unpriced"] += cost_unknown(row)
    for one in found.values():
        one["usd_per_keep"] = one["usd"] / one["keeps"] if one["keeps"] and not one["unpriced"] else None
    return dict(sorted(found.items(), key=lambda item: (-item[1]["keeps"], item[0])))


def _cost_text(one: Mapping[str, Any]) -> str:
    unknown = f", cost of {one['unpriced']} unknown" if one["unpriced"] else ""
    each = f", {one['usd_per_keep']:.2f} USD a keep" if one["usd_per_keep"] else ""
    return (f", {one['usd']:.2f} USD" if one["usd"] else "") + each + unknown


def _architecture(trials: Sequence[Row]) -> dict[str, Any]:
    def domain(row: Row) -> str:
        released = _detail(row).get("released", {})
        return str(released.get("domain", "")) if isinstance(released, dict) else ""

    chosen = [row for row in trials if any(word.startswith("arch") for word in (row.role or "", domain(row)))]
    return {
        "architecture_trials": len(chosen),
        "architecture_share": len(chosen) / len(trials) if trials else 0.0,
        "architecture_statuses": _counted(row.status.value for row in chosen if row.status),
    }


def _parents(rows: Sequence[Row], keeps: Sequence[Row]) -> dict[str, Any]:
    """Of the keeps that build on somebody's trial (not on the baseline), how many build on another role's."""
    by_id = {row.trial: row for row in rows}
    found = [(row, by_id[row.parent]) for row in keeps if row.parent in by_id]
    on_trials = [(row, parent) for row, parent in found if parent.status not in ROOTS]
    return {
        "cross_role_parents": sum(row.role != parent.role for row, parent in on_trials),
        "crossable_keeps": len(on_trials),
        "roles_with_a_keep": len({row.role for row in keeps}),
        "roles": len({row.role for row in rows if row.role and row.status not in ROOTS}),
    }


def _forecasts(trials: Sequence[Row]) -> dict[str, Any]:
    """How often a numeric forecast had the sign of what came out (against the best when it was recorded).

    Rows that had to be repaired are counted apart: a forecast that hung on a broken text is weaker evidence.
    """
    forecasts = [
        (row, (row.expected_delta < 0) == (row.delta_best < 0))
        for row in trials
        if row.status in (Status.KEEP, Status.DISCARD)
        and row.expected_delta is not None
        and row.delta_best is not None
    ]
    whole = [hit for row, hit in forecasts if "repaired" not in _detail(row)]
    return {
        "forecasts": len(whole),
        "forecast_hits": sum(whole),
        "forecast_hit_rate": sum(whole) / len(whole) if whole else None,
        "forecasts_with_repaired": len(forecasts),
        "forecast_hits_with_repaired": sum(hit for _, hit in forecasts),
    }


def _throughput(trials: Sequence[Row]) -> dict[str, Any]:
    """Trials per hour from the first to the last record, and eta = rate x mean trial time / roles (paper, Eq. 1).

    The paper's trial time includes queueing and logging that its records do not have, so its eta is higher.
    """
    times = sorted(row.t_finished for row in trials if row.t_finished)
    hours = (times[-1] - times[0]).total_seconds() / 3600 if len(times) > 1 else 0.0
    rate = len(trials) / hours if hours else None
    seconds = [s for s in map(_seconds, trials) if s]
    roles = len({row.role for row in trials if row.role}) or 1
    mean = fmean(seconds) if seconds else None
    return {
        "hours": hours,
        "trials_per_hour": rate,
        "mean_trial_s": mean,
        "eta": rate * mean / 3600 / roles if rate and mean else None,
    }


def _seconds(row: Row) -> float:
    released = _detail(row).get("released")
    if isinstance(released, dict):
        return (row.t_finished - row.t_started).total_seconds() if row.t_finished and row.t_started else 0.0
    return sum(getattr(row, name) or 0.0 for name in SECONDS)


def _quarters(trials: Sequence[Row]) -> list[dict[str, int]]:
    """Status counts in each quarter of the trials, in order."""
    size = len(trials)
    cuts = [size * at // 4 for at in range(5)]
    return [_counted(row.status.value for row in trials[a:b] if row.status) for a, b in pairwise(cuts)]


def lines(result: Mapping[str, Any]) -> list[str]:
    """The audit as text, beside the paper's own figures where it has them."""
    trials, paper = result["trials"], result["paper"]

    def beside(key: str, text: str) -> str:
        return f"{text}  (paper: {paper[key]:g})" if key in paper else text

    statuses = ", ".join(f"{word} {n} ({n / trials:.1%})" for word, n in result["statuses"].items())
    quarters = [
        " ".join(f"{word} {n}" for word, n in quarter.items())
        for quarter in result["failure_mix_per_quarter"]
    ]
    marks = ", ".join(f"{score:.6g} @{mark}" for mark, score in result["best_so_far"].items())
    rate, eta, hit = result["trials_per_hour"], result["eta"], result["forecast_hit_rate"]
    text = [
        f"campaign             {result['campaign']} ({result['environment']}, {result['direction']} is better)",
        f"trials               {trials} ({result['repaired_rows']} damaged rows repaired)",
        f"statuses             {statuses}",
        f"keeps by role        {', '.join(f'{role} {n}' for role, n in result['keeps_by_role'].items()) or 'none'}",
        *(
            f"proposer             {name}: {one['keeps']} keeps of {one['trials']}{_cost_text(one)}"
            for name, one in (result["proposers"].items() if len(result["proposers"]) > 1 else ())
        ),
        f"score                {result['baseline_score']} -> {result['best_score']} (trial {result['best_trial']})",
        f"best so far          {marks}",
        f"architecture         {result['architecture_trials']} of {trials} ({result['architecture_share']:.1%})",
        beside(
            "cross_role_parents",
            f"cross-role parents   {result['cross_role_parents']} of {result['crossable_keeps']}",
        ),
        f"forecasts            {result['forecast_hits']} of {result['forecasts']} had the right sign"
        + (f" ({hit:.1%})" if hit is not None else ""),
        beside("effective_clusters", f"effective clusters   {result['effective_clusters']:.1f}"),
        beside("top_cluster_share", f"top cluster share    {result['top_cluster_share']:.3f}"),
        beside("near_duplicate_share", f"near-duplicate share {result['near_duplicate_share']:.3f}"),
        beside(
            "trials_per_hour", f"trials per hour      {rate:.2f}" if rate else "trials per hour      unknown"
        ),
        beside("eta", f"eta                  {eta:.2f}" if eta else "eta                  unknown"),
    ]
    text += [f"quarter {at}            {mix}" for at, mix in enumerate(quarters, 1)]
    return [*text, f"text measured by     {result['text_method']}"]
