"""What an environment's judge gives, found before any seed is spent: the names that environment.toml relies on, and items.

Use: `has_items(bench)` runs the judge function on stand-in answers (`evaluators.judge.judge_rehearsal`) and says whether
the metric comes item by item. Limits: a judge that refuses stand-in answers shows its names at the first run.
"""

from __future__ import annotations

from evaluators.judge import judge_client, judge_program
from evaluators.judge.judge_client import Bench
from lineage.environment_spec import ASKING, COSTS, SCORED_COSTS
from lineage.errors import SpecInvalid


def has_items(bench: Bench) -> bool:
    """Raises SpecInvalid for a name that the judge does not give, JudgeFault, DataMissing."""
    spec = bench.spec
    if spec.task.kind not in ASKING:
        return spec.score.metric not in SCORED_COSTS
    found = judge_client.rehearse(bench)
    for name in judge_program.wanted(spec) if found.quantities is not None else ():
        if name not in (*(found.quantities or ()), *COSTS):
            raise SpecInvalid(judge_program.unknown(spec, name, found.quantities or ()))
    return spec.score.metric in found.items
