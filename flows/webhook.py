"""A message to the URL that a person gave: `{"text": ...}` as JSON, what chat services take."""

from __future__ import annotations

import json
import urllib.request

WEBHOOK_SECONDS = 20


def post(url: str, text: str) -> str:
    """POST {"text": text} as JSON; a sentence when it did not arrive, empty when it did."""
    request = urllib.request.Request(
        url, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=WEBHOOK_SECONDS):
            return ""
    except (OSError, ValueError) as error:
        return f"webhook: a message did not arrive ({error})"
