"""Hard rules of an environment, judged on the runs' quantities. Pure.

Use: `judge_gate(gate, values)` per gate; `out_of_reach` says that more runs will hardly mend a miss. A rule
passes only if it is shown to hold: with too few runs for a bound, with a missing or non-finite value, it does
not pass. Limits: the bound assumes roughly normal run-to-run noise (one-sided Student t,
`mean -+ t(confidence, n-1) * sd / sqrt(n)`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lineage.environment_spec import Gate
from lineage.records import Check, Number


def bound_against(values: Sequence[float], confidence: float, *, lower: bool) -> float | None:
    """One-sided confidence bound of the mean on the unfavourable side; None with fewer than two runs."""
    n = len(values)
    if n < 2:
        return None
    from scipy.special import stdtrit  # scipy.stats costs a second to import, this a tenth

    mean = math.fsum(values) / n
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    reach = float(stdtrit(n - 1, confidence)) * math.sqrt(variance / n)
    return mean - reach if lower else mean + reach


def out_of_reach(gate: Gate, values: Sequence[float], confidence: float) -> bool:
    """Is the rule missed so clearly that further runs will hardly change it?

    For `each`, one run that misses is enough. Otherwise the one-sided bound of the mean on the favourable side,
    at `confidence`, still misses the limit.
    """
    check = judge_gate(gate, values)
    if check.passed or gate.on == "each":
        return not check.passed
    least = gate.at_least is not None
    best = bound_against(values, confidence, lower=not least)
    if best is None or not math.isfinite(best):
        return False
    limit = float(check.numbers["limit"])
    return best < limit if least else best > limit


def judge_gate(gate: Gate, values: Sequence[float]) -> Check:
    """The check of one gate. `numbers`: mean, bound, worst, limit, short_by (0 when it passes), runs."""
    least = gate.at_least is not None
    limit = float(gate.at_least if gate.at_least is not None else gate.at_most or 0.0)
    name = f"{gate.quantity} {'>=' if least else '<='} {limit:g} ({gate.on})"
    if not values or not all(math.isfinite(v) for v in values):
        detail = f"no finite {gate.quantity} for every run"
        return Check(name=name, passed=False, numbers={"limit": limit, "runs": len(values)}, detail=detail)
    mean = math.fsum(values) / len(values)
    worst = min(values) if least else max(values)
    bound = bound_against(values, gate.confidence, lower=least)
    numbers: dict[str, Number] = {"mean": mean, "worst": worst, "limit": limit, "runs": len(values)}
    if bound is not None:
        numbers["bound"] = bound
    seen = {"mean": mean, "each": worst, "bound": bound}[gate.on]
    if seen is None:
        detail = f"a bound needs at least 2 runs, there is {len(values)}"
        return Check(name=name, passed=False, numbers=numbers, detail=detail)
    passed = seen >= limit if least else seen <= limit
    numbers["short_by"] = 0.0 if passed else abs(limit - seen)
    detail = f"{gate.on} {seen:.6g} over {len(values)} runs, limit {limit:g}"
    return Check(name=name, passed=passed, numbers=numbers, detail=detail)
