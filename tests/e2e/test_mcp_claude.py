"""Claude Code as the MCP client of a running campaign: it reads, submits a trial and waits for it. Its model is scripted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import quick
from llm_run import KEY
from test_installed_agents import programs  # noqa: F401  (the fixture that installs Claude Code)
from test_mcp_campaign import process, rate, rows, wait_for

from tests.fakes.messages_server import FakeMessages
from tests.fakes.script import Json, Step, text, tool_use

pytestmark = [pytest.mark.agents, pytest.mark.slow, pytest.mark.timeout(900)]
OURS = "mcp__bakeoff__"


def answers_of(body: Json) -> list[str]:
    """What our tools have answered so far, as text."""
    blocks = [b for turn in body["messages"] if isinstance(turn["content"], list) for b in turn["content"]]
    ours = {b["id"] for b in blocks if b.get("type") == "tool_use" and b["name"].startswith(OURS)}
    return [json.dumps(b).replace("\\", "") for b in blocks if b.get("tool_use_id") in ours]


def model(body: Json) -> Step:
    names = {tool["name"] for tool in body.get("tools", [])}
    if (
        f"{OURS}submit" not in names
    ):  # a title; or the server has not started yet, which Claude Code does not wait for
        said = len(body["messages"])
        return (
            tool_use("Bash", {"command": "sleep 3"}, identity=f"toolu_sleep_{said}")
            if "Bash" in names
            else text("A title")
        )
    answers = answers_of(body)
    if not answers:
        return tool_use(f"{OURS}status", {})
    if len(answers) == 1:
        return tool_use(f"{OURS}submit", rate("0.2"))
    if '"state":"done"' in answers[-1].replace(" ", ""):
        return text("The trial is done.")
    proposal = "p-" + answers[1].split('"p-')[1].split('"')[0]
    return tool_use(
        f"{OURS}wait", {"proposal": proposal, "seconds": 20}, identity=f"toolu_wait_{len(answers)}"
    )


def test_claude_code_submits_a_trial(programs: Path, tmp_path: Path) -> None:  # noqa: F811
    quick.make(tmp_path / "recipes")
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    quick.bakeoff("prepare", "quick", env=env, cwd=tmp_path)
    server = {
        "command": sys.executable,
        "args": ["-m", "flows.cli", "mcp", str(tmp_path / "r")],
        "env": {**env, "PYTHONPATH": str(quick.ROOT)},
    }
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": {"bakeoff": server}}))
    flags = ("--proposer", "mcp", "--run", "r", "--trials", "1", "--no-confirm", "--plain")
    with process(env, tmp_path, tmp_path / "out.log", "run", "quick", *flags) as campaign:
        wait_for(tmp_path / "out.log", "t0000: baseline")
        with FakeMessages(model, strict=False) as endpoint:
            command = [
                *(
                    str(programs / "claude"),
                    "-p",
                    "Continue this research with one trial.",
                    "--output-format",
                    "json",
                ),
                *(
                    "--mcp-config",
                    "mcp.json",
                    "--strict-mcp-config",
                    "--allowedTools",
                    f"{OURS.rstrip('_')},Bash(sleep 3)",
                ),
            ]
            told = {
                **env,
                "ANTHROPIC_BASE_URL": endpoint.url,
                "ANTHROPIC_API_KEY": KEY,
                "MCP_TIMEOUT": "120000",
                "ENABLE_TOOL_SEARCH": "false",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            }
            done = subprocess.run(
                command,
                env=told,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=400,
                stdin=subprocess.DEVNULL,
            )
        assert done.returncode == 0 and "The trial is done." in done.stdout, done.stdout + done.stderr
        assert campaign.wait(120) == 0, (tmp_path / "out.log").read_text()
    (row,) = rows(tmp_path / "r", "trial").query("proposer == 'mcp'").itertuples()
    assert row.model.startswith("claude-code ") and row.hypothesis == "a rate of 0.2"
    assert row.status in ("keep", "discard")
