"""The error tree. Every message says what is wrong, where, which value, and what to do next.

    BakeoffError                    exit code 1
    ├── UsageError                  2   the person asked for something that cannot be done as asked
    │   ├── UnknownName             2   a name that does not exist; the nearest ones are listed
    │   ├── SpecInvalid             2   environment.toml or campaign.toml is invalid
    │   ├── DataMissing             2   prepared data absent or different from the manifest
    │   └── RunBusy                 2   the run directory already has a live owner
    ├── StoreError                  4   the lineage store
    │   ├── ObjectExists            4   create-if-absent found other bytes under the key
    │   ├── ObjectMissing           4   no such object
    │   ├── StoreUnavailable        4   network, server or disk; worth trying again later
    │   ├── StoreDenied             4   credentials, bucket or permissions; trying again will not help
    │   ├── StoreCorrupt            4   stored bytes do not match their hash, checksum or chain
    │   └── Superseded              4   another process owns the campaign now; this one writes nothing more
    ├── IsolationRefused            6   the sandbox level proven on this machine is below the policy
    ├── EditRefused                 -   an edit that never became a program (a trial outcome, not an exit)
    ├── InfraFault                  5   a fault of the machine or of Bakeoff: retried, never shown to agents as theirs
    │   └── JudgeFault              5   a fault of an environment's judge.py: not retried
    └── ProposerFault               5   the proposer gave no edit
        ├── ProposerRefused         5   the model declined: a recorded outcome
        ├── ProposerUnusable        5   the reply contained no usable edit: a recorded outcome
        ├── ProposerOutage          5   endpoint down or throttled: the campaign pauses
        ├── BudgetSpent             0   the next call would pass a cap: the campaign ends normally
        └── NothingLeft             0   the proposer has no untried edit for this role

`ObjectExists` and `ObjectMissing` are also `FileExistsError` and `FileNotFoundError`, so that
generic handlers keep working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class BakeoffError(Exception):
    """Base of all errors raised on purpose; `str(error)` is the one sentence a person reads."""

    exit_code = 1


class UsageError(BakeoffError):
    exit_code = 2


class UnknownName(UsageError):
    """A name that does not exist.

    >>> str(UnknownName("environment", "airbench_mni", ["airbench_mini", "golf_mini"]))
    "no environment named 'airbench_mni'; did you mean 'airbench_mini'? known: airbench_mini, golf_mini"
    """

    def __init__(self, kind: str, value: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
        guess = f"did you mean {near[0]!r}? " if near else ""
        listed = ", ".join(names[:20]) if names else "none"
        tail = f"; {hint}" if hint else ""
        super().__init__(f"no {kind} named {value!r}; {guess}known: {listed}{tail}")


class SpecInvalid(UsageError):
    pass


class DataMissing(UsageError):
    pass


class RunBusy(UsageError):
    pass


class StoreError(BakeoffError):
    exit_code = 4


class ObjectExists(StoreError, FileExistsError):
    pass


class ObjectMissing(StoreError, FileNotFoundError):
    pass


class StoreUnavailable(StoreError):
    pass


class StoreDenied(StoreError):
    pass


class StoreCorrupt(StoreError):
    pass


class Superseded(StoreError):
    """A later epoch of the campaign has been claimed; the message names its owner."""


class IsolationRefused(BakeoffError):
    exit_code = 6


class EditRefused(BakeoffError):
    """An edit that never became a program; becomes `rejected` with this cause and these numbers."""

    def __init__(
        self, cause: str, message: str, numbers: Mapping[str, float | int | str] | None = None
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.numbers = dict(numbers or {})


class InfraFault(BakeoffError):
    """A fault of the machine or of the engine; `what` is the word after `infra:` in the cause."""

    exit_code = 5

    def __init__(self, what: str, message: str) -> None:
        super().__init__(message)
        self.what = what


class JudgeFault(InfraFault):
    """A fault of an environment's judge.py: never the candidate's, and the same however often it is tried."""

    def __init__(self, message: str) -> None:
        super().__init__("judge_program", message)


class ProposerFault(BakeoffError):
    """The proposer gave no edit. `usage` is the Usage spent on the way (None if nothing was spent)."""

    exit_code = 5

    def __init__(self, message: str, usage: object | None = None, exchange: bytes | None = None) -> None:
        super().__init__(message)
        self.usage = usage
        self.exchange = exchange


class ProposerRefused(ProposerFault):
    pass


class ProposerUnusable(ProposerFault):
    pass


class ProposerOutage(ProposerFault):
    """`retry_after` is in seconds, as the endpoint asked; None when it named none."""

    def __init__(self, message: str, retry_after: float | None = None, usage: object | None = None) -> None:
        super().__init__(message, usage)
        self.retry_after = retry_after


class BudgetSpent(ProposerFault):
    exit_code = 0


class NothingLeft(ProposerFault):
    exit_code = 0


class Interrupted(Exception):
    """The campaign was stopped while a stage ran; the trial stays open and a resume continues it."""
