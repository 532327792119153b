"""One proposing session: the conversation between a model and the tools that ends in a Proposal.

`run_session(chat, request, ...)` renders the prompt, asks, runs the tools that the model calls,
answers, and so on until the model submits. A model that writes its edit as text (agents.edits.text_protocol) is
understood too. Limits: turns and seconds here, tokens and dollars in the ledger. How it can end:

    submitted                                  a Proposal
    out of turns, time or budget, with edits   a Proposal whose notes mention it
    the model declines                         ProposerRefused
    nothing usable                             ProposerUnusable
    endpoint unreachable, or a person must act        ProposerOutage (nothing is recorded as a trial)
    campaign or role budget used up            BudgetSpent, NothingLeft

A reply that was cut off is never acted on: one without a stop_reason is asked for again, and tool
calls in one that reached max_tokens are answered with an error instead of being run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from agents.edits.text_protocol import TextAnswer, parse_answer
from agents.llm.ledger import Ledger, TrialCapReached
from agents.llm.messages_stream import chars_in
from agents.llm.model_call import (
    STOPPED_BY_CAMPAIGN,
    CallFault,
    Chat,
    ContentBlock,
    ModelCall,
    Reply,
    RetryPolicy,
    ask,
)
from agents.llm.prices import Prices
from agents.llm.prompt import Prompt
from agents.llm.tools import (
    Scratch,
    SubmittedEdit,
    ToolError,
    faults,
    hand_in,
    open_scratch,
    tool_names,
    tool_specs,
    use,
)
from agents.llm.transcript import Turn, exchange_json
from agents.llm.web_research import MOST_PAGES, RESULT_TOKENS, pages, search_tool
from agents.protocol import ProposalRequest
from agents.roles import GENERALIST, is_generalist
from lineage.errors import (
    BudgetSpent,
    NothingLeft,
    ProposerFault,
    ProposerOutage,
    ProposerRefused,
    ProposerUnusable,
)
from lineage.records import Proposal, Usage
from lineage.safe_text import for_prompt, for_terminal, redact

DEFAULT_MODEL = "claude-opus-5-5"
MAX_NUDGES, MAX_CUT_REPLIES = 2, 2
_NUDGE = (
    "No edit has been handed in. Use the tools (replace, then submit), or answer with HYPOTHESIS: and "
    "SEARCH/REPLACE blocks as described."
)
_CUT = "Your reply reached its length limit and was cut off; nothing in it was executed. Be briefer."


@dataclass(frozen=True)
class SessionSettings:
    """`models` overrides `model` by role name. `max_tokens` is per reply, `seconds` per session."""

    model: str = DEFAULT_MODEL
    models: Mapping[str, str] = field(default_factory=dict)
    max_turns: int = 40
    max_tokens: int = 16_000
    seconds: float = 1800.0
    thinking: bool = True
    effort: str = ""
    cache_ttl: str = "5m"
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    budgets: Mapping[str, int] = field(default_factory=dict)
    searches: int = 0
    blocked_domains: tuple[str, ...] = ()

    def model_for(self, role: str) -> str:
        return self.models.get(role) or self.models.get(GENERALIST if is_generalist(role) else "", self.model)


@dataclass
class ProposingSession:
    """The state of one conversation. Used by one thread; `run` once."""

    chat: Chat
    request: ProposalRequest
    prompt: Prompt
    settings: SessionSettings
    ledger: Ledger
    prices: Prices
    key: str
    cancel: threading.Event = field(default_factory=threading.Event)
    usage: Usage = field(default_factory=Usage)
    turns: list[Turn] = field(default_factory=list)
    nudges: int = 0
    cuts: int = 0
    last_text: str = ""
    problem: str = ""

    def __post_init__(self) -> None:
        self.model = self.settings.model_for(self.request.role.name)
        self.scratch: Scratch = open_scratch(self.request, self.prompt.parent)
        self.messages: list[ContentBlock] = [
            {"role": "user", "content": [{"type": "text", "text": self.prompt.user}]}
        ]
        end = time.monotonic() + self.settings.seconds
        self.deadline = end if self.request.deadline is None else min(end, self.request.deadline)

    # ---- the loop ------------------------------------------------------------------------------

    def run(self) -> Proposal:
        for number in range(self.settings.max_turns):
            if self.cancel.is_set():
                raise self._fault(ProposerOutage, STOPPED_BY_CAMPAIGN)
            if time.monotonic() >= self.deadline:
                return self._finish(f"the session's time is over after {number} replies")
            try:
                reply = self._ask()
            except CallFault as fault:
                return self._endpoint(fault)
            except (TrialCapReached, BudgetSpent, NothingLeft) as spent:
                return self._finish(str(spent), type(spent))
            if reply.stop_reason == "refusal":
                raise self._fault(ProposerRefused, f"the model declined: {_details(reply)}")
            if reply.stop_reason == "model_context_window_exceeded":
                return self._finish("the conversation no longer fits the model's context")
            self.last_text = reply.text or self.last_text
            sent = self._answer(reply, self.settings.max_turns - number - 1)
            self.turns[-1].sent = sent
            if self.scratch.submission is not None:
                return self._proposal(self.scratch.submission)
            if sent is None:
                return self._finish(f"the replies held no usable edit{self.problem}")
            if sent:
                shown = list(reply.content) or [{"type": "text", "text": "(empty reply)"}]
                self.messages += [{"role": "assistant", "content": shown}, {"role": "user", "content": sent}]
            elif reply.content:  # pause_turn: the model continues its own text
                self.messages.append({"role": "assistant", "content": list(reply.content)})
        return self._finish(f"all {self.settings.max_turns} turns are used")

    def _ask(self) -> Reply:
        call = ModelCall(
            model=self.model,
            system=self.prompt.system,
            messages=self.messages,
            tools=[*tool_specs(self.scratch.lineage, self.scratch.knowledge), *self._search_tools()],
            max_tokens=self.settings.max_tokens,
            thinking=self.settings.thinking,
            effort=self.settings.effort,
            cache_ttl=self.settings.cache_ttl,
        )
        turn = Turn()
        self.turns.append(turn)
        began = time.monotonic()
        try:
            reply = ask(
                self.chat,
                call,
                deadline=self.deadline,
                policy=self.settings.retry,
                admit=self._admit,
                on_fault=lambda fault: turn.faults.append(redact(str(fault))[:400]),
                cancel=self.cancel,
            )
        finally:
            turn.seconds = round(time.monotonic() - began, 3)
        turn.reply = reply
        return reply

    def _searches_left(self) -> int:
        left = self.settings.searches - self.usage.searches
        last = next((turn.reply for turn in reversed(self.turns) if turn.reply is not None), None)
        if last is not None and last.stop_reason == "pause_turn" and self.settings.searches:
            return max(1, left)  # it continues a reply in whose middle a search may stand
        return max(0, left)

    def _search_tools(self) -> list[ContentBlock]:
        left = self._searches_left()
        return [search_tool(left, self.settings.blocked_domains)] if left else []

    @contextmanager
    def _admit(self) -> Iterator[Callable[[Usage], None]]:
        """One attempt: reserved at its worst case, billed at its price when the reply is known."""
        asked = chars_in([self.prompt.system, self.messages]) // 3
        searches = self._searches_left()
        found = searches * RESULT_TOKENS
        worst = self._priced(
            Usage(calls=1, tokens_in=asked + found, tokens_out=self.settings.max_tokens, searches=searches)
        )
        role = self.request.role.name
        with self.ledger.admitted(
            role=role,
            session=self.key,
            worst=worst,
            deadline=self.deadline,
            allowance=self.request.allowance,
        ) as bill:

            def priced(usage: Usage) -> None:
                known = self._priced(usage)
                self.usage = self.usage + known
                bill(known)
                if self.request.paid is not None:
                    self.request.paid(self.usage)

            yield priced

    def _priced(self, usage: Usage) -> Usage:
        ttl = self.settings.cache_ttl
        return self.prices.priced(self.model, usage, host=self.chat.host, cache_ttl=ttl)

    # ---- answering a reply ---------------------------------------------------------------------

    def _answer(self, reply: Reply, turns_left: int) -> list[ContentBlock] | None:
        """Content of the next user message; [] to let the model continue; None to end the session."""
        if reply.stop_reason == "pause_turn":
            return []
        if reply.stop_reason == "max_tokens":
            self.cuts += 1
            if self.cuts > MAX_CUT_REPLIES:
                return None
            return [*(_result(use_, _CUT, True) for use_ in reply.tool_uses), {"type": "text", "text": _CUT}]
        sent = self._run_tools(reply) if reply.tool_uses else self._read_text(reply)
        if sent is not None and self.scratch.submission is None and turns_left <= 2:
            sent.append(
                {"type": "text", "text": f"{turns_left} replies are left: submit now, or nothing is kept."}
            )
        return sent

    def _run_tools(self, reply: Reply) -> list[ContentBlock]:
        results: list[ContentBlock] = []
        for use_ in reply.tool_uses:
            if self.scratch.submission is not None:
                text, failed = "not run: the edit was handed in already", True
            elif use_["id"] in reply.bad_inputs:
                text, failed = "the input was not a JSON object; call the tool again with one", True
            else:
                text, failed = use(self.scratch, use_["name"], use_["input"])
            results.append(_result(use_, text, failed))
        return results

    def _read_text(self, reply: Reply) -> list[ContentBlock] | None:
        """A reply without tool calls: edits or calls written as text, else a reminder."""
        answer = parse_answer(
            reply.text, sorted(self.scratch.now), tool_names(self.scratch.lineage, self.scratch.knowledge)
        )
        said: list[str] = []
        for name, given in answer.calls:
            text, failed = use(self.scratch, name, given)
            said.append(f"{name} {'failed' if failed else 'answered'}: {text}")
            if self.scratch.submission is not None:
                return [{"type": "text", "text": text}]
        if answer.edits:
            done, problems = self._text_edits(answer, reply.text)
            if done:
                return [{"type": "text", "text": done}]
            said += problems
        if not answer.calls:
            self.nudges += 1
            if self.nudges > MAX_NUDGES:
                return None
        if not said:
            said = [f"The diff cannot be read: {answer.problem}" if answer.problem else _NUDGE]
        self.problem = f"; the last problem: {said[-1][:300]}"
        return [{"type": "text", "text": "\n\n".join(said)[:12_000]}]

    def _text_edits(self, answer: TextAnswer, text: str) -> tuple[str, list[str]]:
        """Apply all blocks or none, then submit. Gives what was said: done, or the problems."""
        kept, problems = self.scratch.now, list[str]()
        for edit in answer.edits:
            told, failed = use(self.scratch, "replace", edit.model_dump())
            if failed and edit.search.endswith("\n"):
                # the newline before the ======= mark is the format's, not always the author's
                part = {key: value.removesuffix("\n") for key, value in edit.model_dump().items()}
                _, failed = use(self.scratch, "replace", part)
            if failed:
                problems.append(f"edit of {for_prompt(edit.path, 80)} failed: {told}")
        if problems:
            self.scratch.now = kept
            return "", [*problems, "None of the blocks was applied; send all of them again."]
        hypothesis = answer.hypothesis or _first_sentence(text)
        given = {"hypothesis": hypothesis, "expected_delta": answer.expected_delta}
        told, failed = use(self.scratch, "submit", given)
        return ("", [told]) if failed else (told, [])

    # ---- endings -------------------------------------------------------------------------------

    def _proposal(self, handed: SubmittedEdit) -> Proposal:
        proposal = Proposal(
            role=self.request.role.name,
            proposer=self.chat.name,
            parent=self.scratch.parent,
            hypothesis=handed.hypothesis,
            expected_delta=handed.expected_delta,
            edits=handed.edits,
            edit_kind=handed.edit_kind,
            operator="session",
            notes=handed.notes,
            model=self.model,
            usage=self.usage,
            prompt=self.prompt.text,
            sources=self._sources(),
        )
        return proposal.model_copy(update={"exchange": self._exchange(proposal=proposal)})

    def _sources(self) -> tuple[str, ...]:
        shown = [page for turn in self.turns if turn.reply is not None for page in pages(turn.reply.content)]
        return tuple(dict.fromkeys(shown))[:MOST_PAGES]

    def _finish(self, why: str, fault: type[ProposerFault] = ProposerUnusable) -> Proposal:
        """Ended without a submit: hand in edits that would be accepted, else raise the fault of `why`.

        Paid work is not discarded; the notes record that the model did not submit it.
        """
        if self.scratch.changed and not faults(self.scratch):
            hypothesis = _first_sentence(self.last_text) or "(none given: the session ended before submit)"
            try:
                note = f"Handed in by the engine: {why}."
                return self._proposal(hand_in(self.scratch, hypothesis, None, note))
            except ToolError as e:
                why = f"{why}; {e}"
        kind = ProposerUnusable if fault is TrialCapReached else fault
        raise self._fault(kind, why)

    def _endpoint(self, fault: CallFault) -> Proposal:
        """What a failed call means: later in a session some faults are the conversation's own."""
        begun = any(turn.reply is not None for turn in self.turns)
        if self.cancel.is_set():
            raise self._fault(ProposerOutage, STOPPED_BY_CAMPAIGN) from fault
        if begun and (fault.kind in ("rejected", "too_long") or time.monotonic() >= self.deadline):
            return self._finish(str(fault))
        hint = "; the prompt does not fit this model, choose another" if fault.kind == "too_long" else ""
        raised = ProposerOutage(redact(f"{fault}{hint}"), retry_after=fault.retry_after, usage=self.usage)
        raised.exchange = self._exchange(fault=raised).encode()
        raise raised from fault

    def _fault(self, kind: type[ProposerFault], message: str) -> ProposerFault:
        raised: ProposerFault = kind(redact(message), usage=self.usage)
        raised.exchange = self._exchange(fault=raised).encode()
        return raised

    def _exchange(self, proposal: Proposal | None = None, fault: ProposerFault | None = None) -> str:
        return exchange_json(
            proposer=self.chat.name,
            host=self.chat.host,
            model=self.model,
            request=self.request,
            prompt=self.prompt,
            turns=self.turns,
            usage=self.usage,
            proposal=proposal,
            fault=fault,
        )


def _result(use_: ContentBlock, text: str, failed: bool) -> ContentBlock:
    block: ContentBlock = {"type": "tool_result", "tool_use_id": use_["id"], "content": text}
    return {**block, "is_error": True} if failed else block


def _details(reply: Reply) -> str:
    category = reply.stop_details.get("category") or "no category given"
    return f"{for_terminal(str(category))[:60]} {for_prompt(reply.stop_details.get('explanation') or reply.text, 300)}"


def _first_sentence(text: str) -> str:
    flat = " ".join(text.split("```")[0].split("<<<")[0].split())
    return flat.split(". ")[0][:400]


def run_session(
    chat: Chat,
    request: ProposalRequest,
    prompt: Prompt,
    settings: SessionSettings,
    ledger: Ledger,
    prices: Prices,
    key: str,
    cancel: threading.Event | None = None,
) -> Proposal:
    """The whole session; see the module docstring for how it ends. `cancel` ends it as an outage at once."""
    stop = cancel or threading.Event()
    try:
        return ProposingSession(chat, request, prompt, settings, ledger, prices, key, stop).run()
    finally:
        ledger.forget_session(key)
