"""Keys are found by value in several forms and by shape; ordinary text is not."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.judge.secrets import known_secrets, redact, scan_secrets

ENVIRON = {
    "MY_API_KEY": "tr0ub4dor&3-horse",
    "HOME": "/root",
    "KEYBOARD": "us",
    "AUTH_URL": "https://a.example/",
}


@pytest.mark.parametrize(
    "form",
    [
        lambda v: v,
        lambda v: base64.b64encode(v),
        lambda v: base64.urlsafe_b64encode(v),
        lambda v: v.hex().encode(),
        lambda v: v[::-1],
        lambda v: b"tr0ub4dor%263-horse",
    ],
)
def test_value_of_an_environment_variable_in_any_form(form: Callable[[bytes], bytes]) -> None:
    data = b"noise\x00\xff" + form(b"tr0ub4dor&3-horse") + b"tail"
    found = scan_secrets(data, ENVIRON)
    assert found and all("MY_API_KEY" in line for line in found)
    assert not any("horse" in line for line in found)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Anthropic key", "sk-ant-api03-" + "a1B2" * 10),
        ("OpenAI key", "sk-proj-" + "a1B2" * 10),
        ("AWS access key", "AKIA" + "ABCDEFGH12345678"),
        ("GitHub token", "ghp_" + "a" * 36),
        ("Hugging Face token", "hf_" + "a" * 34),
        ("private key", "-----BEGIN OPENSSH PRIVATE KEY-----"),
        ("password in an address", "postgresql://user:hunter22@db/x"),
        ("JSON web token", "eyJ" + "a" * 20 + ".eyJ" + "b" * 20 + "." + "c" * 20),
    ],
)
def test_shapes_of_known_keys(name: str, text: str) -> None:
    assert any(line.startswith(name) for line in scan_secrets(f"x = '{text}'".encode(), {}))


def test_ordinary_variables_are_not_secrets() -> None:
    assert list(known_secrets(ENVIRON)) == ["MY_API_KEY"]


def test_ordinary_logs_are_clean() -> None:
    log = 'step 100 loss 0.123 lr 6e-3\nFile "/recipe/train.py", line 3\nhttps://a.example/x?y=1 sk-learn skip-connection'
    assert scan_secrets(log.encode(), ENVIRON) == []


def test_redaction_leaves_the_rest() -> None:
    text = "before tr0ub4dor&3-horse between sk-ant-api03-" + "x" * 30 + " after é"
    assert (
        redact(text, ENVIRON)
        == "before [redacted: value of MY_API_KEY] between [redacted: Anthropic key] after é"
    )


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_value_is_found_wherever_it_stands(before: bytes, after: bytes) -> None:
    assert scan_secrets(before + b"tr0ub4dor&3-horse" + after, ENVIRON)


@given(st.text(max_size=200), st.text(max_size=200))
def test_after_redaction_nothing_is_found(before: str, after: str) -> None:
    assert scan_secrets(redact(f"{before}tr0ub4dor&3-horse{after}", ENVIRON).encode(), ENVIRON) == []
