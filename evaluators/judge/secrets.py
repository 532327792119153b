"""Does this text or artifact hold a key? A scan before anything is stored.

Use: `scan_secrets(data)` gives one description per finding (never the secret itself); `redact(text)` puts
a mark in place of each. Found are the values of this process's own secret-looking environment
variables, also in base64, hex, reversed or percent-encoded form, and shapes of well-known keys.
Limits: a secret that is compressed, encrypted or split up is not found.
"""

from __future__ import annotations

import base64
import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping

LEAST = 8  # shorter values are words, not keys
NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|AUTH|DSN|PRIVATE)", re.IGNORECASE)
NOT_SECRET = re.compile(r"(^/|^https?://[^@]*$|^\d+$|^(true|false|none|yes|no)$)", re.IGNORECASE)
SHAPES = {
    "Anthropic key": rb"sk-ant-[A-Za-z0-9_-]{20,}",
    "OpenAI key": rb"sk-(?:proj-|svcacct-)?[A-Za-z0-9_-]{20,}",
    "AWS access key": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})",
    "Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}",
    "Google key": rb"\bAIza[0-9A-Za-z_-]{35}",
    "Slack token": rb"\bxox[abposr]-[A-Za-z0-9-]{10,}",
    "Weights & Biases key": rb"(?i)wandb[^\n]{0,20}\b[0-9a-f]{40}\b",
    "Stripe key": rb"\b[rs]k_(?:live|test)_[A-Za-z0-9]{20,}",
    "JSON web token": rb"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "private key": rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "password in an address": rb"[a-z][a-z0-9+.-]{1,20}://[^/\s:@]{1,80}:[^/\s:@]{3,80}@",
}
_SHAPES = {name: re.compile(shape) for name, shape in SHAPES.items()}


def known_secrets(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Name -> value of environment variables that look like secrets."""
    found = os.environ if environ is None else environ
    return {
        name: value
        for name, value in found.items()
        if NAMES.search(name) and len(value) >= LEAST and not NOT_SECRET.search(value)
    }


def _forms(value: str) -> dict[str, bytes]:
    raw = value.encode()
    forms = {
        "": raw,
        " in base64": base64.b64encode(raw).rstrip(b"=")[:-1],
        " in URL-safe base64": base64.urlsafe_b64encode(raw).rstrip(b"=")[:-1],
        " in hex": raw.hex().encode(),
        " reversed": raw[::-1],
        " percent-encoded": urllib.parse.quote(value, safe="").encode(),
    }
    return {how: form for how, form in forms.items() if len(form) >= LEAST}


def _findings(data: bytes, environ: Mapping[str, str] | None) -> Iterator[tuple[str, int, int]]:
    for name, value in known_secrets(environ).items():
        for how, form in _forms(value).items():
            at = data.find(form)
            while at >= 0:
                yield f"value of {name}{how}", at, at + len(form)
                at = data.find(form, at + len(form))
    for name, shape in _SHAPES.items():
        for match in shape.finditer(data):
            yield name, match.start(), match.end()


def scan_secrets(data: bytes, environ: Mapping[str, str] | None = None) -> list[str]:
    """What was found and at which byte; empty when nothing was. The secret itself is not repeated."""
    return sorted({f"{what} at byte {start}" for what, start, _ in _findings(data, environ)})


def redact(text: str, environ: Mapping[str, str] | None = None) -> str:
    """The text with every finding replaced by `[redacted: what]`."""
    data = text.encode("utf-8", "surrogatepass")
    end, parts = 0, []
    for what, start, stop in sorted(_findings(data, environ), key=lambda found: (found[1], -found[2])):
        if start >= end:
            parts += [data[end:start], f"[redacted: {what}]".encode()]
            end = stop
    return b"".join([*parts, data[end:]]).decode("utf-8", "surrogatepass")
