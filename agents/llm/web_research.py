"""Research in the open web with the search tool of the Messages API: its definition, and what a reply found.

`search_tool(uses, blocked)` goes beside a session's own tools; the endpoint runs it. `pages(content)` are the addresses that a reply
was shown. Limits: the open web is not reproducible, so trials of such sessions are marked; not tried with Anthropic's own endpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lineage.safe_text import for_terminal

TYPE, NAME = "web_search_20250305", "web_search"
RESULT_TOKENS = 15_000  # that the results of one search may add to the input, for the reservation of its cost
MOST_PAGES = 40


def search_tool(uses: int, blocked: Sequence[str] = ()) -> dict[str, Any]:
    """The tool for one request, with at most so many searches and without these domains."""
    barred = {"blocked_domains": list(blocked)} if blocked else {}
    return {"type": TYPE, "name": NAME, "max_uses": uses, **barred}


def pages(content: Iterable[Mapping[str, Any]]) -> list[str]:
    """Addresses in the results of a reply, in order; nothing in it can raise."""
    found: list[str] = []
    for block in content:
        results = block.get("content") if block.get("type") == "web_search_tool_result" else None
        for result in results if isinstance(results, list) else ():
            if isinstance(result, Mapping) and isinstance(result.get("url"), str):
                found.append(for_terminal(result["url"], newlines=False)[:300])
    return found
