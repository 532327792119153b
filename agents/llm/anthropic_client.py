"""The Anthropic SDK, and the only module that imports it.

`AnthropicChat().send(...)` asks any server that speaks the Messages API: Anthropic's, a gateway, or
llama.cpp, vLLM, Ollama, LM Studio on this machine. Address and key come from the SDK's own
environment variables (ANTHROPIC_BASE_URL, ANTHROPIC_API_KEY, ANTHROPIC_AUTH_TOKEN, profiles); no
other place, and nothing here prints them. A loopback server needs no key.

One wrapper, `_faults`, turns every exception of the SDK, its transport or a broken server into one
`CallFault`; the SDK's own retries are off, because they honour a retry-after of any length
(measured: up to 49 days) and `agents.llm.model_call.ask` has a deadline. A server that answers 400 to
`thinking`, `effort`, `cache_control`, `tools` or `stream` is asked once more without, and that is
remembered for the model.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anthropic
import httpx2

from agents.llm.http_status import advice, retry_seconds, status_kind
from agents.llm.messages_stream import Assembly, chars_in, reply_from
from agents.llm.model_call import CallFault, FaultKind, ModelCall, Reply
from agents.llm.prices import is_loopback
from agents.llm.web_research import NAME
from lineage.errors import UsageError
from lineage.records import Usage
from lineage.safe_text import for_prompt, redact

# Options that a server may not support, and the words by which its refusal names them.
_OPTIONAL: dict[str, tuple[str, ...]] = {
    "thinking": ("thinking",),
    "effort": ("effort", "output_config"),
    "cache_control": ("cache_control", "caching"),
    "tools": ("tools", "tool use", "tool_use", "function calling"),
    "stream": ("stream",),
}
_STREAM_ERROR_STATUS = {
    "overloaded_error": 529,
    "api_error": 500,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
}


class AnthropicChat:
    """Thread-safe. Reads the environment when it is made; make it once and `close` it at the end."""

    name = "anthropic"

    def __init__(self) -> None:
        client, self.key_source = _open_client()
        self._host = client.base_url.host
        self._client = client
        self._without: dict[str, frozenset[str]] = {}
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        return self._host

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> AnthropicChat:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def send(self, call: ModelCall, seconds: float, stop: threading.Event) -> Reply:
        """One answer; asked again, with less, of a server that refuses an option."""
        known = self._without.get(call.model)
        without = known or frozenset()
        while True:
            try:
                reply = self._once(call, without, seconds, stop)
                break
            except CallFault as fault:
                if _no_web_search(fault, call):
                    text = f"{fault}; this endpoint or model has no web search: leave out --research"
                    raise CallFault("blocked", text, usage=fault.usage) from fault
                refused = _refused_options(fault, call, without, proven=known is not None)
                if not refused or stop.is_set():
                    raise
                without |= refused
        with self._lock:
            self._without[call.model] = self._without.get(call.model, frozenset()) | without
        return reply

    def _once(self, call: ModelCall, without: frozenset[str], seconds: float, stop: threading.Event) -> Reply:
        body = request_body(call, without)
        asked = chars_in([body.get("system"), body["messages"], body.get("tools")])
        assembly = Assembly(asked)
        timeout = httpx2.Timeout(seconds, connect=min(seconds, 10.0))
        with _faults(self._host, assembly):
            with self._client.messages.with_streaming_response.create(**body, timeout=timeout) as raw:
                if "event-stream" not in raw.headers.get("content-type", ""):
                    return reply_from(_json_body(raw.read()), asked)
                for event in raw.parse():
                    if stop.is_set():
                        raise CallFault("transient", "stopped", usage=assembly.partial_usage())
                    assembly.feed(event.to_dict(mode="json") if hasattr(event, "to_dict") else event)
            return assembly.reply()


def _open_client() -> tuple[anthropic.Anthropic, str]:
    """The SDK's client and where its key came from (a name, never the key).

    For a server on this machine a missing key is no fault, and no profile on disk is looked for.
    """
    host = httpx2.URL(os.environ.get("ANTHROPIC_BASE_URL", "")).host
    named = [
        n for n in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE") if os.environ.get(n)
    ]
    if not named and is_loopback(host):
        client = anthropic.Anthropic(max_retries=0, open_telemetry=False, api_key="local")
        return client, "none needed: local endpoint"
    try:
        client = anthropic.Anthropic(max_retries=0, open_telemetry=False)
    except anthropic.AnthropicError as e:
        raise UsageError(f"the credentials for the model endpoint cannot be read: {redact(str(e))}") from e
    return client, named[0] if named else ("profile" if client.credentials is not None else "none")


def request_body(call: ModelCall, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The body of one request, without the options that the server refused."""
    cache = {"type": "ephemeral", "ttl": call.cache_ttl} if call.cache_ttl == "1h" else {"type": "ephemeral"}
    caching = "cache_control" not in without
    system: dict[str, Any] = {"type": "text", "text": call.system}
    body: dict[str, Any] = {
        "model": call.model,
        "max_tokens": call.max_tokens,
        "messages": list(call.messages),
        "stream": "stream" not in without,
    }
    if call.system:
        body["system"] = [{**system, "cache_control": cache} if caching else system]
    if call.tools and "tools" not in without:
        body["tools"] = list(call.tools)
    if call.thinking and "thinking" not in without:
        body["thinking"] = {"type": "adaptive"}
    if call.effort and "effort" not in without:
        body["output_config"] = {"effort": call.effort}
    if caching and len(call.messages) > 0:
        body["cache_control"] = cache  # the last block: each turn of a session reads the one before
    return body


def _no_web_search(fault: CallFault, call: ModelCall) -> bool:
    """A refusal that speaks of tools, of a call with the search tool: servers without it name only its missing schema."""
    asked = any(tool.get("name") == NAME for tool in call.tools)
    return asked and fault.kind == "rejected" and fault.status in (400, 422) and "tool" in str(fault).lower()


def _refused_options(
    fault: CallFault, call: ModelCall, without: frozenset[str], *, proven: bool
) -> frozenset[str]:
    """Options to leave out after a 400 or 422: those it names; when it names none, all but tools.

    `proven`: the model has answered with these options before, so an unnamed reason is another one.
    """
    if fault.kind != "rejected" or fault.status not in (400, 422):
        return frozenset()
    # once tools have been used in a conversation it cannot continue without them
    used = {"cache_control", "stream"} | ({"tools"} if call.tools and len(call.messages) == 1 else set())
    used |= ({"thinking"} if call.thinking else set()) | ({"effort"} if call.effort else set())
    words = str(fault).lower()
    named = {option for option in used - without if any(w in words for w in _OPTIONAL[option])}
    unnamed = set() if proven else used - without - {"tools", "stream"}
    return frozenset(named or unnamed)


def _json_body(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError as e:
        shown = for_prompt(data[:400].decode("utf-8", "replace"), 160)
        raise CallFault("transient", f"answer is not JSON (begins {shown})") from e


def _status_fault(error: anthropic.APIStatusError, host: str, assembly: Assembly) -> CallFault:
    status, kind_word = error.status_code, str(error.type or "")
    if status == 200:  # an `error` event inside a stream that had begun well
        status = _STREAM_ERROR_STATUS.get(kind_word, 500)
    message = str(error.api_message or error.message)
    headers: Mapping[str, str] = error.response.headers
    code = str(error.error_code or "")
    kind = status_kind(status, message, code, headers.get("x-should-retry"))
    shown = f" ({code})" if code else ""
    hint = advice(status, "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL")
    return CallFault(
        kind,
        redact(f"{host} answered {status} {kind_word}{shown}: {for_prompt(message, 300)}{hint}"),
        retry_after=retry_seconds(headers.get("retry-after")),
        usage=assembly.partial_usage() if assembly.started else None,
        status=status,
    )


@contextmanager
def _faults(host: str, assembly: Assembly) -> Iterator[None]:
    """Everything that can come out of the SDK and its transport, as one CallFault."""

    def paid() -> Usage | None:
        return assembly.partial_usage() if assembly.started else None

    try:
        yield
    except anthropic.APIStatusError as e:
        raise _status_fault(e, host, assembly) from e
    except anthropic.APITimeoutError as e:
        raise CallFault("transient", f"{host} did not answer in time", usage=paid()) from e
    except anthropic.APIConnectionError as e:
        cause = redact(str(e.__cause__ or e))[:200]
        raise CallFault("transient", f"no connection to {host}: {cause}", usage=paid()) from e
    except httpx2.HTTPError as e:
        raise CallFault("transient", f"{host} broke off: {redact(str(e))[:200]}", usage=paid()) from e
    except anthropic.AnthropicError as e:
        text = f"{type(e).__name__}: {redact(str(e))[:300]}"
        kind: FaultKind = "blocked" if isinstance(e, anthropic.CredentialsError) else "transient"
        raise CallFault(kind, text, usage=paid()) from e
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        if "authentication method" in str(e):
            raise CallFault("blocked", f"no key for {host}; set ANTHROPIC_API_KEY", status=401) from e
        said = for_prompt(f"{type(e).__name__}: {e}", 200)
        raise CallFault("transient", f"answer of {host} cannot be read: {said}", usage=paid()) from e
