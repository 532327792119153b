"""`bakeoff propose --dry-run` and `bakeoff ask`: what they print, and one sentence when something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import quick
from typer.testing import CliRunner, Result

from agents.llm.prompt import size_limit
from flows.cli import app
from lineage.errors import BakeoffError, ProposerOutage, UnknownName, UsageError
from tests.fakes.messages_server import FakeMessages
from tests.fakes.script import status, text
from tests.fakes.sessions import point_at

REMOTE = "https://models.invalid"


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    quick.make(tmp_path / "recipes")
    monkeypatch.setenv("BAKEOFF_RECIPES", str(tmp_path / "recipes"))
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path / "home" / "bakeoff"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def without_key(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """The environment of a person who has set up no key and no profile."""
    point_at(monkeypatch, REMOTE, key="")
    monkeypatch.delenv("ANTHROPIC_CONFIG_DIR")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


def bakeoff(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def error_of(*arguments: str) -> BakeoffError:
    """The error that a person would read as one sentence."""
    raised = bakeoff(*arguments).exception
    assert isinstance(raised, BakeoffError), raised
    assert "\n" not in str(raised)
    return raised


@pytest.mark.parametrize("arm", ["specialists", "no_lineage"])
def test_propose_prints_the_prompt_and_its_size(recipes: Path, arm: str) -> None:
    shown = bakeoff("propose", "quick", "--role", "training", "--arm", arm, "--dry-run").stdout
    prompt, _, sizes = shown.rpartition("\n--- ")
    assert "Your role: training" in prompt and "LR = 0.1" in prompt
    assert f"{len(prompt)} characters" in sizes and f"limit {size_limit()}" in sizes
    parts = {line.split()[1]: int(line.split()[0]) for line in sizes.splitlines()[1:]}
    assert ("own" in parts) == (arm != "no_lineage")
    assert 0 < sum(parts.values()) <= len(prompt)


def test_propose_names_the_roles_and_asks_for_dry_run(recipes: Path) -> None:
    assert isinstance(error_of("propose", "quick", "--role", "trainin", "--dry-run"), UnknownName)
    assert "--dry-run" in str(error_of("propose", "quick", "--role", "training"))
    assert isinstance(
        error_of("propose", "quick", "--role", "training", "--run", "none", "--dry-run"), UnknownName
    )


def test_ask_tells_what_one_call_says_and_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeMessages([text("ready")]) as server:
        point_at(monkeypatch, server.url)
        told = bakeoff("ask").stdout
        facts = json.loads(bakeoff("ask", "--json").stdout)
    assert "endpoint: 127.0.0.1" in told and "reply: ready" in told and "dollars: " in told
    assert (
        facts["host"] == "127.0.0.1"
        and facts["usd"] > 0
        and facts["tokens_out"] > 0
        and facts["seconds"] >= 0
    )
    assert len(server.requests) == 2


def test_ask_without_a_key_says_which_and_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_key(monkeypatch, tmp_path)
    error = error_of("ask")
    assert isinstance(error, UsageError) and error.exit_code == 2
    for part in ("models.invalid", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "--proposer catalogue"):
        assert part in str(error)


def test_ask_of_a_model_nobody_priced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    point_at(monkeypatch, REMOTE)
    error = error_of("ask", "--model", "claude-nobody-9")
    assert isinstance(error, UnknownName) and "prices" in str(error)
    with FakeMessages([text("ready")]) as server:
        point_at(monkeypatch, server.url)
        config = tmp_path / "campaign.toml"
        config.write_text('[campaign]\nmodel = "mine"\n[campaign.prices.mine]\ninput = 1.0\noutput = 2.0\n')
        assert "model: mine" in bakeoff("ask", "--config", str(config)).stdout


def test_ask_of_an_endpoint_that_is_away_or_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeMessages([status(401, message="invalid x-api-key")]) as server:
        point_at(monkeypatch, server.url)
        refused = error_of("ask")
    assert isinstance(refused, UsageError) and "ANTHROPIC_API_KEY" in str(refused)
    away = error_of("ask")  # the server is gone
    assert isinstance(away, ProposerOutage) and away.exit_code == 5
    assert "ANTHROPIC_BASE_URL" in str(away) and "ask again" in str(away)


def test_ask_of_chat_completions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "--model" in str(error_of("ask", "--proposer", "openai"))
    with FakeMessages([text("ready")]) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        assert "reply: ready" in bakeoff("ask", "--proposer", "openai", "--model", "qwen").stdout
    monkeypatch.setenv("OPENAI_BASE_URL", REMOTE)
    assert "OPENAI_API_KEY" in str(error_of("ask", "--proposer", "openai", "--model", "gpt"))


def test_a_campaign_without_a_key_writes_nothing(recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_key(monkeypatch, recipes)
    monkeypatch.setenv("OPENAI_BASE_URL", REMOTE)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config = recipes / "campaign.toml"
    config.write_text('[campaign]\nfree_models = ["m"]\n')
    env = quick.environ(recipes / "home", recipes / "recipes")
    quick.bakeoff("prepare", "quick", env=env, cwd=recipes)
    for proposer in (("anthropic",), ("openai", "--model", "m")):
        error = error_of("run", "quick", "--run", "r", "--config", str(config), "--proposer", *proposer)
        assert isinstance(error, UsageError) and "no key for models.invalid" in str(error)
        assert not (recipes / "r").exists()
