"""A proposer that talks to a model: the session loop behind the Proposer interface.

`SessionProposer(chat, settings, ledger, prices)` with the chat of agents.llm.anthropic_client (Messages API) or
agents.llm.openai_client (chat completions). Thread-safe: every `propose` is a session of its own, and the
chat and the ledger are shared. It keeps no state beside lineage.
"""

from __future__ import annotations

import itertools
import threading

from agents.llm.ledger import Ledger
from agents.llm.model_call import Chat
from agents.llm.prices import Prices, load_prices
from agents.llm.prompt import render
from agents.llm.proposing_session import SessionSettings, run_session
from agents.llm.web_research import RESULT_TOKENS
from agents.protocol import ProposalRequest
from lineage.records import Proposal, Usage

USUAL_INPUT = 30_000  # tokens of a long conversation


class SessionProposer:
    """Raises UnknownName at once when a model that it will use has no price.

    Setting `cancel` ends every running session as a ProposerOutage, without waiting for the endpoint.
    """

    def __init__(
        self,
        chat: Chat,
        settings: SessionSettings | None = None,
        ledger: Ledger | None = None,
        prices: Prices | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        self.chat = chat
        self.settings = settings or SessionSettings()
        self.ledger = ledger or Ledger()
        self.prices = prices or load_prices()
        self._cancel = cancel
        self._numbers = itertools.count(1)
        for model in {self.settings.model, *self.settings.models.values()}:
            self.prices.rate(model, chat.host)

    @property
    def name(self) -> str:
        return self.chat.name

    def propose(self, request: ProposalRequest) -> Proposal:
        """One session. See agents.llm.proposing_session for how it can end."""
        prompt = render(request, self.settings.budgets)
        key = f"{request.role.name}-{request.seed}-{next(self._numbers)}"
        return run_session(
            self.chat, request, prompt, self.settings, self.ledger, self.prices, key, self._cancel
        )

    def worst_call(self) -> Usage:
        """What one call of a usual session costs at most: below this, trials are proposed one at a time."""
        searches = self.settings.searches
        asked = Usage(
            calls=1,
            tokens_in=USUAL_INPUT + searches * RESULT_TOKENS,
            tokens_out=self.settings.max_tokens,
            searches=searches,
        )
        models = {self.settings.model, *self.settings.models.values()}
        ttl = self.settings.cache_ttl
        return max(
            (self.prices.priced(model, asked, host=self.chat.host, cache_ttl=ttl) for model in models),
            key=lambda usage: usage.usd,
        )

    def close(self) -> None:
        close = getattr(self.chat, "close", None)
        if close is not None:
            close()
