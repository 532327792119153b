"""One call to a model and its reply, for every kind of endpoint; retries.

A `Chat` sends a `ModelCall` and gives a `Reply`, both in the shape of the Messages API (text,
thinking, tool_use and tool_result blocks as plain dictionaries). Everything that can go wrong on the
way is one exception, `CallFault`, of one of four kinds:

    transient   throttled, overloaded, cut off, silent, garbled: asking again may help
    blocked     key, money, permission, model name or address: a person must act; the campaign waits
    rejected    the endpoint will not take this very request
    too_long    the conversation no longer fits

`ask` is the only place that retries: transient faults, with the endpoint's own retry-after, within
the deadline. Limits: a reply is waited for in a helper thread, so that a server which drips bytes for
ever cannot delay a proposal past its deadline; that thread itself ends at its next event or socket
timeout.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from lineage.records import Usage

ContentBlock = dict[str, Any]
STOPPED_BY_CAMPAIGN = "stopped by the campaign"
FaultKind = Literal["transient", "blocked", "rejected", "too_long"]
STOP_REASONS = frozenset(
    {
        "end_turn",
        "max_tokens",
        "stop_sequence",
        "tool_use",
        "pause_turn",
        "refusal",
        "model_context_window_exceeded",
    }
)


@dataclass(frozen=True)
class ModelCall:
    """`system` is the part that stays the same from call to call and is worth caching."""

    model: str
    system: str
    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    max_tokens: int = 16_000
    thinking: bool = True
    effort: str = ""
    cache_ttl: str = "5m"


@dataclass(frozen=True)
class Reply:
    """A whole answer: `stop_reason` is always one of STOP_REASONS. `usage` has no dollars yet."""

    content: tuple[ContentBlock, ...]
    stop_reason: str
    usage: Usage
    model: str = ""
    request_id: str = ""
    stop_details: Mapping[str, Any] = field(default_factory=dict)
    usage_estimated: bool = False
    bad_inputs: Mapping[str, str] = field(default_factory=dict)  # tool_use id -> input that was no object

    @property
    def text(self) -> str:
        return "\n".join(str(b.get("text", "")) for b in self.content if b.get("type") == "text").strip()

    @property
    def tool_uses(self) -> list[ContentBlock]:
        return [b for b in self.content if b.get("type") == "tool_use"]


class CallFault(Exception):
    """No usable answer. `usage` is what a cut-off answer has cost already, as far as it is known."""

    def __init__(
        self,
        kind: FaultKind,
        message: str,
        *,
        retry_after: float | None = None,
        usage: Usage | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: FaultKind = kind
        self.retry_after = retry_after
        self.usage = usage
        self.status = status


class Chat(Protocol):
    """An endpoint. `host` is its host name, for messages and for prices; never its whole address."""

    @property
    def name(self) -> str: ...

    @property
    def host(self) -> str: ...

    def send(self, call: ModelCall, seconds: float, stop: threading.Event) -> Reply:
        """One attempt, at most about `seconds` long; gives up early when `stop` is set. Raises CallFault."""
        ...


@dataclass(frozen=True)
class RetryPolicy:
    """Waits of `base` doubling to `ceiling` seconds with jitter; a retry-after takes their place.

    A retry-after above `longest` is not slept through here: the caller gets it (capped at `cap`)
    with the fault and can pause a whole campaign instead of one thread.
    """

    attempts: int = 4
    base: float = 0.5
    ceiling: float = 8.0
    longest: float = 30.0
    cap: float = 3600.0

    def wait(self, attempt: int, retry_after: float | None) -> float:
        if retry_after is not None:
            return min(retry_after, self.cap)
        step = min(self.ceiling, self.base * 2.0**attempt)
        return step * (0.75 + random.random() / 4)


_LOOK_EVERY = 0.05  # seconds between looks at `cancel` while a reply is waited for


def within(
    seconds: float,
    work: Callable[[threading.Event], Reply],
    what: str,
    cancel: threading.Event | None = None,
) -> Reply:
    """The result of `work(stop)`, or a transient CallFault when it is not there in `seconds`, or on `cancel`."""
    stop, done, box = threading.Event(), threading.Event(), list[Reply | BaseException]()

    def target() -> None:
        try:
            box.append(work(stop))
        except BaseException as e:
            box.append(e)
        done.set()

    threading.Thread(target=target, daemon=True, name="model-call").start()
    end = time.monotonic() + seconds
    while not done.is_set() and not (cancel and cancel.is_set()) and time.monotonic() < end:
        done.wait(min(_LOOK_EVERY, max(0.0, end - time.monotonic())))
    if not box:
        stop.set()
        if cancel and cancel.is_set():
            raise CallFault("transient", STOPPED_BY_CAMPAIGN)
        raise CallFault("transient", f"{what} gave no whole answer within {seconds:.1f} s")
    if isinstance(box[0], BaseException):
        raise box[0]
    return box[0]


Admission = Callable[[], AbstractContextManager[Callable[[Usage], None]]]


def ask(
    chat: Chat,
    call: ModelCall,
    *,
    deadline: float,
    policy: RetryPolicy,
    admit: Admission,
    on_fault: Callable[[CallFault], None] = lambda fault: None,
    cancel: threading.Event | None = None,
) -> Reply:
    """The answer to one call, after as many attempts as the policy and the deadline allow.

    Every attempt is admitted by `admit` and billed to it, a cut-off one as far as its cost is known.
    `on_fault` is called with every failed attempt; setting `cancel` ends the wait.
    """
    cancel = cancel or threading.Event()
    for attempt in range(policy.attempts):
        try:
            with admit() as bill:
                return _attempt(chat, call, deadline - time.monotonic(), bill, cancel)
        except CallFault as fault:
            on_fault(fault)
            pause = policy.wait(attempt, fault.retry_after)
            last = attempt == policy.attempts - 1
            late = time.monotonic() + pause >= deadline
            if fault.kind != "transient" or last or late or pause > policy.longest or cancel.is_set():
                if fault.retry_after is not None:
                    fault.retry_after = min(fault.retry_after, policy.cap)
                raise
            cancel.wait(pause)
    raise ValueError(f"a retry policy needs at least one attempt, not {policy.attempts}")


def _attempt(
    chat: Chat, call: ModelCall, seconds: float, bill: Callable[[Usage], None], cancel: threading.Event
) -> Reply:
    if seconds <= 0:
        raise CallFault("transient", f"no time left to ask {chat.host}")
    try:
        reply = within(seconds, lambda stop: chat.send(call, seconds, stop), chat.host, cancel)
    except CallFault as fault:
        if fault.usage is not None:
            bill(fault.usage)
        raise
    bill(reply.usage)
    return reply
