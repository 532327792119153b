"""Notes that come with an environment, and lessons of earlier campaigns: in prompts, tools, workspaces, and in the record."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

import pytest
import quick

from agents.command.workspace import make_workspace, read_changes
from agents.llm.prompt import WORKSPACE, render, size_limit
from agents.llm.prompt_sizes import ROUND_BUDGETS
from agents.llm.tools import open_scratch, tool_names, tool_specs, use
from flows.campaign.run_on_this_machine import create_campaign
from flows.engine.engine import close_engine, engine_for
from flows.engine.settings import load_settings
from flows.environments.loading import load_environment, made_of
from flows.environments.prepared_data import prepare
from flows.report.lessons import Record, change_of, lessons
from lineage.errors import SpecInvalid, UsageError
from lineage.queries import View
from lineage.records import Row, Status
from tests.fakes import lab

NOTE = "# Warm-up\n\n" + "A rate that grows over the first steps. " * 40 + "\n## Who says so\n\nnobody\n"
FILES = {"rates/warm.md": NOTE.encode(), "links.md": b"# Links\n\nnone\n"}


# ---- in prompts, tools and workspaces --------------------------------------------------------------


@pytest.mark.parametrize("arm", ["specialists", "no_lineage"])
def test_contents_are_in_the_prompt_of_every_arm_and_pages_in_a_tool(arm: str) -> None:
    asked = lab.request(arm=arm, knowledge=FILES)
    prompt = render(asked)
    assert "- rates/warm.md, 1,6" in prompt.system and ": Warm-up / Who says so" in prompt.system
    assert "grows over the first steps" not in prompt.text
    scratch = open_scratch(asked, "t0000")
    text, failed = use(scratch, "read_knowledge", {"path": "rates/warm.md"})
    assert not failed and text.count("grows") == 40 and "of 10" in text
    text, failed = use(scratch, "read_knowledge", {"path": "rates/warm.md", "first": 9})
    assert not failed and "nobody" in text and "grows" not in text
    text, failed = use(scratch, "read_knowledge", {"path": "../secret"})
    assert failed and "links.md, rates/warm.md" in text


def test_without_knowledge_there_is_neither_section_nor_tool() -> None:
    assert "Knowledge" not in render(lab.request()).text
    assert "read_knowledge" not in tool_names(True)
    assert "read_knowledge" in {tool["name"] for tool in tool_specs(True, True)}
    text, failed = use(open_scratch(lab.request(), "t0000"), "read_knowledge", {"path": "a.md"})
    assert failed and "no tool" in text


def test_prompts_are_bounded_whatever_the_folder_and_the_lessons_hold() -> None:
    many = {f"{number:03d}.md": (f"# Head {number}\n" * 20).encode() for number in range(200)}
    prompt = render(lab.request(knowledge=many, lessons="- one lesson of many\n" * 5_000))
    assert len(prompt.text) <= size_limit()
    assert " of 200 shown)" in prompt.system and prompt.sections["lessons"] <= ROUND_BUDGETS["lessons"]
    assert 100 < prompt.user.count("one lesson of many") < 5_000 and " more lines" in prompt.user


def test_an_agents_workspace_has_the_files_and_they_are_no_part_of_its_edit(tmp_path: Path) -> None:
    asked = lab.request(knowledge=FILES)
    prompt, source = render(asked, template=WORKSPACE), asked.files_of("t0000")
    make_workspace(tmp_path, asked, prompt, source)
    assert (tmp_path / "KNOWLEDGE" / "rates" / "warm.md").read_bytes() == NOTE.encode()
    assert "`KNOWLEDGE/`" in (tmp_path / "BRIEF.md").read_text()
    (tmp_path / "KNOWLEDGE" / "mine.md").write_text("x")
    changed = read_changes(tmp_path, source)
    assert changed.now == dict(source) and not changed.outside


# ---- from the folder to the campaign ---------------------------------------------------------------


def test_a_campaign_keeps_the_knowledge_that_it_began_with(tmp_path: Path) -> None:
    folder = quick.make(tmp_path / "recipes")
    bare = made_of(folder)
    (folder / "knowledge" / "rates").mkdir(parents=True)
    for path, data in FILES.items():
        (folder / "knowledge" / path).write_bytes(data)
    (tmp_path / "lessons.md").write_text("- momentum lost 3 %\n")
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    with mock.patch.dict(os.environ, {**env, "ANTHROPIC_API_KEY": "sk-ant-none"}):
        prepare(load_environment("quick"), quiet=True)
        chosen, _ = load_settings(
            {"environment": "quick", "proposer": "mcp", "lessons": str(tmp_path / "lessons.md")}, env={}
        )
        root = str(tmp_path / "run")
        config = create_campaign(root, chosen)
        (folder / "knowledge" / "links.md").write_text("# Other\n")
        (tmp_path / "lessons.md").unlink()
        assert load_environment("quick").spec.knowledge_sha256 != config.spec.knowledge_sha256 != ""
        assert made_of(folder) == bare, "notes are no input of the data"
        engine = engine_for(root, config.id)
        try:
            assert engine.knowledge() == FILES
            assert engine.lessons() == "- momentum lost 3 %\n"
        finally:
            close_engine(root, config.id)
        shown = quick.call(
            "propose", "quick", "--role", "training", "--run", root, "--dry-run", env=env, cwd=tmp_path
        )
        assert "links.md, 14 bytes: Links" in shown.stdout and "momentum lost 3 %" in shown.stdout
        fresh = quick.call("propose", "quick", "--role", "training", "--dry-run", env=env, cwd=tmp_path)
        assert "links.md, 8 bytes: Other" in fresh.stdout and "momentum lost" not in fresh.stdout


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("paper.pdf", b"%PDF", "only Markdown files"),
        ("bad.md", b"\xff\xfe", "not UTF-8 at byte 0"),
        ("odd\tname.md", b"x", "name it with letters"),
        ("large.md", b"x" * 4_000_001, "4,000,000 bytes"),
    ],
)
def test_what_is_no_note_is_named(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    folder = quick.make(tmp_path)
    (folder / "knowledge").mkdir()
    (folder / "knowledge" / name).write_bytes(data)
    with pytest.raises(SpecInvalid, match=said):
        load_environment(str(folder))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"proposer": "mcp", "arm": "no_lineage"}, "no_lineage"),
        ({"proposer": "anthropic", "arm": "no_lineage"}, "sees nothing of earlier trials"),
        ({"proposer": "catalogue"}, "reads no text"),
    ],
)
def test_lessons_are_refused_where_they_would_be_lineage_or_nothing(
    tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    quick.make(tmp_path / "recipes")
    (tmp_path / "l.md").write_text("- x\n")
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    with mock.patch.dict(os.environ, {**env, "ANTHROPIC_API_KEY": "sk-ant-none"}):
        prepare(load_environment("quick"), quiet=True)
        flags = [f"--{key}={value}" for key, value in settings.items()]
        refused = quick.call(
            "run", "quick", "--run", "r", "--lessons", "l.md", *flags, env=dict(os.environ), cwd=tmp_path
        )
    assert refused.returncode == 2 and said in refused.stderr, refused.stderr
    assert not (tmp_path / "r").exists()


# ---- lessons from records --------------------------------------------------------------------------


def diff(old: str, new: str, at: int) -> bytes:
    return f"--- a/optim.py\n+++ b/optim.py\n@@ -{at} +{at} @@\n-{old}\n+{new}\n".encode()


def record(name: str, *rows: dict[str, object]) -> Record:
    blobs = {
        "d1": diff("LR = 1", "LR = 2", 3),
        "d2": diff("LR = 1", "LR = 2", 9),
        "d3": diff("A = 1", "A = 2", 3),
    }
    start = Row(
        event="trial", campaign=f"c-{name}", trial="t0000", status=Status.BASELINE, score=10.0, scores=[10.0]
    )
    made = [
        Row(
            event="trial",
            campaign=f"c-{name}",
            sealed_score=77.125,
            scores=[row["score"]] if row.get("score") else [],
            **row,
        )
        for row in rows
    ]  # type: ignore[arg-type]
    return Record(name, View.from_rows([start, *made], "min"), lab.SPEC, "e" * 64, blobs.__getitem__)


def test_lessons_have_gains_failures_and_what_changes_sign() -> None:
    keep = {"role": "opt", "status": Status.KEEP, "parent": "t0000", "hypothesis": "double the rate"}
    a = record(
        "a",
        {**keep, "trial": "t0001", "score": 9.0, "diff_sha256": "d1"},
        {**keep, "trial": "t0002", "score": 8.1, "parent": "t0001", "diff_sha256": "d3", "hypothesis": "more of A"},
        {"trial": "t0003", "role": "arch", "status": Status.SIZE_BLOCKED, "cause": "oversize", "parent": "t0002",
         "hypothesis": "wider", "numbers_json": '{"bytes_over": 2056}'},
        {"trial": "t0004", "role": "arch", "status": Status.HARNESS_ABORT, "cause": "infra:lost", "hypothesis": "gone"},
    )  # fmt: skip
    b = record(
        "b",
        {"trial": "t0001", "role": "opt", "status": Status.KEEP, "score": 5.0, "parent": "t0000", "diff_sha256": "d3",
         "hypothesis": "more of A"},
        {"trial": "t0002", "role": "opt", "status": Status.DISCARD, "score": 5.5, "parent": "t0001", "diff_sha256": "d2",
         "hypothesis": "double the rate"},
    )  # fmt: skip
    text = lessons([a, b])
    assert text == lessons([a, b])
    assert "a:t0001 [opt] on t0000: +10.00 %" in text
    assert "a:t0002: t0001 [opt] +10.00 % then t0002 [opt] +10.00 %" in text
    assert "a:t0001 = b:t0002: +10.00 % on a:t0000, -10.00 % on b:t0001; its sign changes" in text
    assert "size_blocked:oversize: 1 trial" in text and "bytes_over=2056" in text
    assert "role opt: 3 of 4 kept, 0 failed" in text
    assert "gone" not in text and "77.125" not in text
    assert text.index("b:t0001 [opt] on t0000: +50.00 %") < text.index("a:t0001 [opt] on t0000: +10.00 %")
    assert max(len(line) for line in text.split("\n")) < 400


def test_the_same_change_elsewhere_is_the_same_change() -> None:
    assert change_of(diff("LR = 1", "LR = 2", 3).decode()) == change_of(
        diff("LR = 1", "LR  = 2", 90).decode()
    )
    assert change_of(diff("LR = 1", "LR = 2", 3).decode()) != change_of(diff("LR = 1", "LR = 3", 3).decode())


def test_lessons_are_of_one_environment() -> None:
    other = record("b")
    changed = Record("b", other.view, lab.SPEC.model_copy(update={"name": "golf"}), "e" * 64, other.blob)
    with pytest.raises(UsageError, match="these campaigns are of golf, toy"):
        lessons([record("a"), changed])
