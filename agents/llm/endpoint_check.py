"""Checks before a campaign, without a call, that a model endpoint is configured.

`require_key(chat)` raises UsageError when the endpoint needs a key and none was found. Limits: whether
a key that is there is also accepted only a call can tell (`bakeoff ask`).
"""

from __future__ import annotations

from agents.llm.model_call import Chat
from lineage.errors import UsageError

# proposer -> (where its key is looked for, the variable with its address)
_LOOKED_IN = {
    "anthropic": (
        "neither ANTHROPIC_API_KEY nor ANTHROPIC_AUTH_TOKEN is set and no profile names one",
        "ANTHROPIC_BASE_URL",
    ),
    "openai": ("OPENAI_API_KEY is not set", "OPENAI_BASE_URL"),
}


def require_key(chat: Chat) -> None:
    """Raises UsageError that names the endpoint and the variables; a server on this machine needs no key."""
    if getattr(chat, "key_source", "") != "none":
        return
    missing, address = _LOOKED_IN[chat.name]
    raise UsageError(
        f"no key for {chat.host}: {missing}; set it, or point {address} at a server of your own, "
        "or run without a model: --proposer catalogue"
    )
