"""A specialist that reads the environment's notes and searches the web, from the command to the record; lessons of its campaign."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import quick
from llm_run import opened, prepared, run

from tests.fakes.brain import Line, team
from tests.fakes.repairs import edit, submit
from tests.fakes.script import Json, message, tool_use, tool_uses

URL = "https://example.org/warm-up"
FOUND: list[Json] = [
    {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "warm-up"}},
    {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1",
     "content": [{"type": "web_search_result", "url": URL, "title": "Warm-up", "encrypted_content": "EqgfCio", "page_age": None}]},
]  # fmt: skip
SESSION: list[Line] = [
    message(FOUND, stop="pause_turn", usage={"server_tool_use": {"web_search_requests": 1}}),
    tool_use("read_knowledge", {"path": "rates.md"}),
    tool_uses([edit("fitting.py", "LR = 0.1", "LR = 0.3"), submit("A higher rate, as the notes say")]),
]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_notes_and_searches_reach_the_record_and_lessons_the_next_campaign(tmp_path: Path) -> None:
    env = prepared(tmp_path)
    notes = tmp_path / "recipes" / "quick" / "knowledge"
    notes.mkdir()
    (notes / "rates.md").write_text("# Rates\n\nA rate of 0.3 was good elsewhere.\n")
    flags = ("--role", "training", "--trials", "1")
    research = ("--research", "--research-searches", "2", "--research-blocked-domain", "kaggle.com")
    done = run(tmp_path, env, team({"training": [SESSION]}), *flags, *research)
    asked = [request["body"] for request in done.requests]
    tools = [next(t for t in body["tools"] if t["name"] == "web_search") for body in asked]
    assert tools[0] == {
        "type": "web_search_20250305", "name": "web_search", "max_uses": 2, "blocked_domains": ["kaggle.com"],
    }  # fmt: skip
    assert [tool["max_uses"] for tool in tools] == [2, 1, 1]
    assert "- rates.md, 4" in asked[0]["system"][0]["text"]
    assert "A rate of 0.3 was good elsewhere." in json.dumps(asked[2]["messages"])
    (row,) = done.of("training")
    assert json.loads(row.detail_json)["research"] == {"searches": 1, "sources": [URL]}
    assert b"EqgfCio" in done.blob(row.exchange_sha256)
    shown = quick.call("show", "r", str(row.trial), env=env, cwd=tmp_path).stdout
    assert "the open web, 1 searches, not reproducible: " + URL in shown
    assert quick.call("verify", "r", env=env, cwd=tmp_path).returncode == 0

    told = quick.call("learn", "r", "--out", "lessons.md", env=env, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    lessons = (tmp_path / "lessons.md").read_text()
    assert "A higher rate, as the notes say" in lessons and "a:t0001 [training] on t0000: " in lessons
    (tmp_path / "next").mkdir()
    (tmp_path / "r").rename(tmp_path / "next" / "first")  # `run` writes to r
    done = run(tmp_path, env, team({"training": [SESSION[2:]]}), *flags, "--lessons", "lessons.md")
    prompt = done.requests[0]["body"]["messages"][0]["content"][0]["text"]
    assert "## Lessons of earlier campaigns" in prompt and "A higher rate, as the notes say" in prompt
    assert opened(tmp_path, env, "r", "", "", []).view.baseline() is not None
