"""Coding agents from npm, headless in the real box: Claude Code and opencode as the specialists of campaigns, Codex and
the Gemini CLI for one proposal. The model is scripted.

They are installed into a temporary folder; `BAKEOFF_TEST_AGENTS=FOLDER` (with its `node_modules`) saves that.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import quick
from command_agent import box
from llm_run import KEY, Done, labels, opened, prepared

from agents.command.preset import load_preset
from agents.command.proposer import AgentSettings, CommandProposer
from tests.fakes import lab
from tests.fakes.agent_endpoints import SAID, USED, AgentEndpoints
from tests.fakes.messages_server import FakeMessages
from tests.fakes.script import Json, Step, text, tool_use

pytestmark = [pytest.mark.agents, pytest.mark.slow, pytest.mark.timeout(900)]
PACKAGES = ("@anthropic-ai/claude-code", "opencode-ai", "@openai/codex", "@google/gemini-cli")
# the first time a role asks, one good edit; then the same again, which is a duplicate
WORK = r"""
if grep -q '^# Your role: training' BRIEF.md; then sed -i 's/^LR = .*/LR = 0.3/' fitting.py
else sed -i 's/np.zeros(10, np.float32)/np.full(10, 0.01, np.float32)/' model.py; fi
bakeoff-check
printf -- '---\nhypothesis: A better start of the fit\nexpected_delta: 0.02\nedit_kind: number\n---\nNext: more steps.\n' > PROPOSAL.md
"""


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    box()
    if given := os.environ.get("BAKEOFF_TEST_AGENTS"):
        return Path(given) / "node_modules" / ".bin"
    if shutil.which("npm") is None:
        pytest.skip("no npm on this machine, so no coding agent can be installed")
    folder = tmp_path_factory.mktemp("npm")
    command = ["npm", "install", "--no-audit", "--no-fund", *PACKAGES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        pytest.skip(f"npm cannot install the agents here: {done.stderr.strip()[-200:]}")
    return folder / "node_modules" / ".bin"


def model(body: Json) -> Step:
    """The scripted model: one shell command, then a last word. Calls without a shell (a title) get a word."""
    shell = next((t["name"] for t in body.get("tools", []) if t["name"] in ("Bash", "bash")), None)
    if shell is None:
        return text("A title")
    if any(message["role"] == "assistant" for message in body["messages"]):
        return text("Done: a better start of the fit.")
    return tool_use(shell, {"command": WORK, "description": "edit the source"})


def campaign(folder: Path, programs: Path, *arguments: str, roles: bool = False) -> tuple[Done, list[Json]]:
    env = prepared(folder)
    if roles:
        brief = folder / "recipes" / "quick" / "roles" / "features.md"
        brief.write_text('+++\nsurfaces = ["model"]\n+++\n\n# Features\n\nYou own `model.py`.\n')
    with FakeMessages(model, strict=False) as server:
        opencode = {"provider": {"anthropic": {"options": {"baseURL": f"{server.url}/v1"}}}}
        told = {
            **env,
            "PATH": f"{programs}:{env['PATH']}",
            "ANTHROPIC_BASE_URL": server.url,
            "ANTHROPIC_API_KEY": KEY,
            "OPENCODE_CONFIG_CONTENT": json.dumps(opencode),
        }
        fixed = ("run", "quick", "--run", "r", "--no-confirm", "--plain", *arguments)
        done = quick.bakeoff(*fixed, env=told, cwd=folder, timeout=800)
        return opened(folder, env, "r", done.stdout, done.stderr, []), server.requests


@pytest.mark.parametrize("name", ["claude", "opencode"])
def test_two_trials_with_an_agent_one_of_them_a_keep(name: str, programs: Path, tmp_path: Path) -> None:
    done, requests = campaign(tmp_path, programs, "--agent", name, "--trials", "2", "--role", "training")
    first, second = done.of("training")
    assert labels([first]) == ["keep"] and labels([second])[0] in ("rejected:refused", "rejected:duplicate")
    assert first.hypothesis == "A better start of the fit" and first.notes == "Next: more steps."
    assert first.usd > 0 and first.tokens_out > 0
    assert first.model or name == "opencode", "opencode does not say which model it chose"
    agent = json.loads(first.detail_json)["agent"]
    assert (agent["name"], agent["box"], agent["cost"], agent["checks"]) == (name, "proven", "reported", 1)
    shown = quick.call("show", "r", "1", env=done.env, cwd=done.folder).stdout
    assert f"{name} {agent['version']}" in shown or agent["version"] in shown
    assert "in a proven box" in shown and " tokens" in shown and "unknown" not in shown
    assert all(KEY in json.dumps(request["headers"]) for request in requests), "the key was used"
    exchange = done.blob(first.exchange_sha256)
    assert b"passed smoke" in exchange and KEY.encode() not in exchange


def test_two_agents_and_the_embedded_proposer_in_one_campaign(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "campaign.toml").write_text(
        '[campaign]\ntrials = 4\nproposer = "catalogue"\n\n'
        '[roles]\nmodel = "claude:claude-opus-5-5"\ntraining = "opencode"\n'
    )
    done, _ = campaign(tmp_path, programs, "--config", "campaign.toml", roles=True)
    made = {
        role: (done.of(role)[0].proposer, done.of(role)[0].operator)
        for role in ("model", "training", "features")
    }
    assert made["model"] == ("command", "claude") and made["training"] == ("command", "opencode")
    assert made["features"][0] == "catalogue"
    assert next(row.model for row in done.of("model") if row.model) == "claude-opus-5-5"
    names = {one["key"].split()[0]: one for one in done.show()["proposers"]}
    assert {"claude", "opencode", "catalogue"} <= set(names)
    assert names["claude"]["usd"] > 0 and names["catalogue"]["usd"] == 0
    audit = quick.call("audit", "r", env=done.env, cwd=done.folder).stdout
    assert "proposer             opencode" in audit and "proposer             catalogue" in audit


@pytest.mark.parametrize("name", ["codex", "gemini"])
def test_one_proposal_of_an_agent_with_a_protocol_of_its_own(
    name: str, programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = "sed -i 's/^LR = 0.04/LR = 0.05/' optim.py; bakeoff-check; printf -- '---\\nhypothesis: A higher rate\\n---\\n' > PROPOSAL.md"
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with AgentEndpoints(edit) as server:
        environ = {
            **os.environ,
            "HOME": str(tmp_path),
            "OPENAI_API_KEY": "sk-scripted-0123456789abcdef",
            "OPENAI_BASE_URL": f"{server.url}/v1",
            "GEMINI_API_KEY": "scripted-0123456789abcdef",
            "GOOGLE_GEMINI_BASE_URL": server.url,
        }
        made = CommandProposer(load_preset(name), box(), AgentSettings(seconds=120.0), environ=environ)
        proposal = made.propose(lab.request())
    assert proposal.hypothesis == "A higher rate" and [one.path for one in proposal.edits] == ["optim.py"]
    assert (proposal.agent.name, proposal.agent.checks, proposal.agent.exit_code) == (name, 1, 0)
    assert proposal.agent.version and proposal.agent.cost == "unknown" and proposal.agent.tokens == "reported"
    turns = len([one for one in server.seen if one.startswith("POST")])
    assert proposal.usage.tokens_out == USED["out"] * turns
    assert proposal.usage.tokens_cache_read == USED["cached"] * turns
    assert proposal.usage.tokens_in == (USED["in"] - USED["cached"]) * turns
    assert SAID in json.loads(proposal.exchange)["agent"]["output"]
