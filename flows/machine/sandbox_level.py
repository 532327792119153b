"""The sandbox level of this machine, proven once per process and compared with the campaign's policy."""

from __future__ import annotations

from functools import lru_cache

from evaluators.judge.sandbox.prove_level import Isolation, prove
from lineage.errors import IsolationRefused

ORDER = ("weak", "medium", "strong")


@lru_cache(maxsize=8)
def proven(policy: str, trust_weak: bool = False, loopback: bool = False) -> Isolation:
    """Prove the sandbox of this machine and return its level. Raises IsolationRefused when that is below the policy.

    `weak` needs `trust_weak` on each run, whatever the policy says; `loopback` is `spec.budget.loopback`.
    """
    isolation = prove(policy, loopback=loopback)
    if isolation.level == "weak" and not trust_weak:
        raise IsolationRefused(
            "isolation proven here is weak: candidates could read labels or touch files outside; "
            "see `bakeoff doctor`, or accept it for this run with --i-trust-this-code"
        )
    return isolation
