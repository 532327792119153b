"""The ledger of a campaign's model calls: tokens and dollars, with caps on dollars and tokens.

A call is admitted before it is made and settled when its reply is known:

    with ledger.admitted(role="opt", session="opt-17", worst=estimate) as bill:
        reply = ...
        bill(reply.usage)

A call is admitted while what is spent, plus the worst case of every call in flight, is below the
cap; so a cap is passed by at most the one reply that reached it, however many threads ask. A call
that must wait for others to settle waits (until `deadline`). Caps exist per trial, per role and for
the campaign, in dollars and in tokens. Reaching the trial's ends the session (TrialCapReached),
the role's ends that role (NothingLeft), the campaign's ends the campaign (BudgetSpent).

The account is derived: `rebuilt(rows)` gives the same sums from lineage after a restart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lineage.errors import BudgetSpent, NothingLeft, ProposerUnusable
from lineage.records import Allowance, Row, Usage


class TrialCapReached(ProposerUnusable):
    """This session may not make another call; the campaign continues."""


@dataclass(frozen=True)
class Cap:
    """Limits of one account; None means no limit. Tokens are all kinds added up."""

    usd: float | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Caps:
    campaign: Cap = Cap()
    role: Cap = Cap()
    trial: Cap = Cap()


def all_tokens(usage: Usage) -> int:
    return usage.tokens_in + usage.tokens_out + usage.tokens_cache_read + usage.tokens_cache_write


def row_usage(row: Row) -> Usage:
    return Usage(
        tokens_in=row.tokens_in,
        tokens_out=row.tokens_out,
        tokens_cache_read=row.tokens_cache_read,
        tokens_cache_write=row.tokens_cache_write,
        usd=row.usd,
    )


@dataclass
class _Account:
    spent: Usage = field(default_factory=Usage)
    reserved: Usage = field(default_factory=Usage)
    open: int = 0

    def reached(self, cap: Cap, *, with_open: bool) -> str:
        """Which limit leaves no room for a further call, as words with both numbers; '' if none does."""
        known = self.spent + self.reserved if with_open else self.spent
        if cap.usd is not None and known.usd >= cap.usd:
            return f"{known.usd:.4f} of {cap.usd:g} USD"
        if cap.tokens is not None and all_tokens(known) >= cap.tokens:
            return f"{all_tokens(known):,} of {cap.tokens:,} tokens"
        return ""


class Ledger:
    """Thread-safe. `clock` is monotonic seconds."""

    def __init__(self, caps: Caps | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.caps = caps or Caps()
        self._clock = clock
        self._change = threading.Condition()
        self._campaign = _Account()
        self._roles: dict[str, _Account] = {}
        self._sessions: dict[str, _Account] = {}

    def rebuilt(self, rows: Iterable[Row]) -> Ledger:
        """Adds everything that lineage records as spent to this ledger, and returns it.

        Trial rows carry the usage of their proposal, campaign rows that of proposals which an outage
        cut off; later facts about a trial (confirmation, sealed) repeat nothing.
        """
        with self._change:
            for row in rows:
                if row.event in ("trial", "campaign"):
                    usage = row_usage(row)
                    for account in (self._campaign, self._role(row.role or "")):
                        account.spent = account.spent + usage
        return self

    def spent(self, role: str | None = None) -> Usage:
        with self._change:
            return self._campaign.spent if role is None else self._role(role).spent

    def forget_session(self, session: str) -> None:
        """Drop a finished session's own account; its money stays on the role and the campaign."""
        with self._change:
            self._sessions.pop(session, None)

    def status(self) -> dict[str, object]:
        """What the report and `bakeoff status` show."""
        with self._change:
            return {
                "spent": self._campaign.spent.model_dump(),
                "in_flight": self._campaign.open,
                "roles": {name: a.spent.model_dump() for name, a in sorted(self._roles.items()) if name},
                "caps": {"usd": self.caps.campaign.usd, "tokens": self.caps.campaign.tokens},
            }

    @contextmanager
    def admitted(
        self,
        *,
        role: str,
        session: str,
        worst: Usage,
        deadline: float | None = None,
        allowance: Allowance = Allowance(),
    ) -> Iterator[Callable[[Usage], None]]:
        """Admission for one call. Call the yielded function once for each reply, whole or cut off."""
        accounts = self._enter(role, session, worst, deadline, allowance)
        billed: list[Usage] = []
        try:
            yield billed.append
        finally:
            with self._change:
                for account in accounts:
                    account.open -= 1
                    # with nothing open the reserve is exactly zero, without a rest of rounding
                    account.reserved = _less(account.reserved, worst) if account.open else Usage()
                    for usage in billed:
                        account.spent = account.spent + usage
                self._change.notify_all()

    def _role(self, role: str) -> _Account:
        return self._roles.setdefault(role, _Account())

    def _enter(
        self, role: str, session: str, worst: Usage, deadline: float | None, allowance: Allowance
    ) -> list[_Account]:
        with self._change:
            own = self._sessions.setdefault(session, _Account())
            levels = (
                (self._campaign, self.caps.campaign, BudgetSpent, "the campaign"),
                (self._role(role), self.caps.role, NothingLeft, f"role {role!r}"),
                (own, self.caps.trial, TrialCapReached, "this proposal"),
            )
            while True:
                for account, cap, fault, who in levels:
                    if words := account.reached(cap, with_open=False):
                        hint = "raise the cap in campaign.toml to go on"
                        raise fault(f"{who} has used {words}; {hint}", usage=own.spent)
                _check_allowance(own, worst, allowance)
                if not any(account.reached(cap, with_open=True) for account, cap, _, _ in levels):
                    break
                left = None if deadline is None else deadline - self._clock()
                if left is not None and left <= 0:
                    raise TrialCapReached("no room under a cap before the deadline", usage=own.spent)
                self._change.wait(timeout=left)
            accounts = [account for account, *_ in levels]
            for account in accounts:
                account.reserved = account.reserved + worst
                account.open += 1
            return accounts


def _check_allowance(own: _Account, worst: Usage, allowance: Allowance) -> None:
    """Refuse the call that could pass the trial's allowance: the session's end, the role's when it is the first call."""
    known = own.spent if allowance.beyond else own.spent + worst
    limits = (
        (allowance.usd, known.usd, own.spent.usd, "dollars"),
        (allowance.tokens, all_tokens(known), all_tokens(own.spent), "tokens"),
    )
    for limit, could, used, word in limits:
        full = limit is not None and (could >= limit if allowance.beyond else could > limit)
        if full:
            text = f"{used:,.4g} of the {limit:,.4g} {word} allowed to this proposal are used"
            fault = TrialCapReached if used else BudgetSpent
            raise fault(f"{text}, and the next call may cost more than is left", usage=own.spent)


def _less(a: Usage, b: Usage) -> Usage:
    return Usage(
        tokens_in=a.tokens_in - b.tokens_in,
        tokens_out=a.tokens_out - b.tokens_out,
        tokens_cache_read=a.tokens_cache_read - b.tokens_cache_read,
        tokens_cache_write=a.tokens_cache_write - b.tokens_cache_write,
        usd=max(0.0, a.usd - b.usd),
        price_table=a.price_table,
    )
