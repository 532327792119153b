"""HTTP statuses of model endpoints mapped to faults of a call: one table for every dialect.

`status_kind` sorts statuses and the words beside them into the four kinds of agents.llm.model_call.CallFault.
Words matter because endpoints put different things behind one number: a 400 can be an empty purse,
a prompt that is too long, or an option that a small server does not support.
"""

from __future__ import annotations

from agents.llm.model_call import FaultKind

_TOO_LONG = (
    "prompt is too long",
    "context length",
    "context window",
    "context size",
    "context_length_exceeded",
    "too many tokens",
)
_MONEY = (
    "credit balance",
    "billing",
    "spend limit",
    "spend_limit",
    "insufficient_quota",
    "exceeded your current quota",
)
_TRANSIENT = frozenset({408, 409, 425, 429})
_BLOCKED = frozenset({401, 402, 403, 404, 405})


def status_kind(status: int, message: str, code: str = "", retryable: str | None = None) -> FaultKind:
    """`code` is the endpoint's own error code, `retryable` its x-should-retry header.

    >>> status_kind(529, "Overloaded"), status_kind(400, "Your credit balance is too low")
    ('transient', 'blocked')
    """
    words = message.lower()
    if status in (400, 402, 403, 429) and any(w in words or w in code for w in _MONEY):
        return "blocked"
    if status == 413 or (status in (400, 422) and any(w in words or w in code for w in _TOO_LONG)):
        return "too_long"
    if status in _BLOCKED or (status in _TRANSIENT and retryable == "false"):
        return "blocked"
    if status in _TRANSIENT or status >= 500:
        return "transient"
    return "rejected"


def retry_seconds(value: str | None) -> float | None:
    """A retry-after header in seconds; dates and nonsense count as not said."""
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def advice(status: int, key: str, address: str) -> str:
    """What a person should look at; `key` and `address` are names of environment variables."""
    return {
        401: f"; check {key}",
        402: "; the account has no credit left",
        403: f"; check what {key} is allowed to do",
        404: f"; check the model's name and {address}",
        405: f"; check {address}",
    }.get(status, "")
