"""Campaigns of LLM specialists through the command line: the SDK, sockets, sandbox and judge are real, the model is not."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import pytest
import quick
from llm_run import KEY, Done, labels, opened, prepared, run

from agents.llm.replay_proposer import records_of
from lineage.store.blobs import get_blob
from tests.fakes.brain import Line, prompt_of, team
from tests.fakes.repairs import costly, edit, from_start, repair, submit
from tests.fakes.script import (
    Json,
    refusal,
    text,
    thinking_then,
    tool_use,
    tool_uses,
)

pytestmark = pytest.mark.timeout(900)  # a campaign beside busy neighbours takes minutes
SPARE = '    return {"weight": weight, "bias": np.zeros(10, np.float32)}'
ROWS = 4000  # floats of a parameter that nothing needs: 16 kB where the cap is 10 kB
GOOD: list[Line] = [
    thinking_then(tool_use("view", {"path": "fitting.py", "first": 1, "last": 20})),
    tool_uses([("search", {"text": "LR"}), edit("fitting.py", "LR = 0.7", "LR = 0.3")]),
    tool_uses(
        [
            edit("fitting.py", "LR = 0.1", "LR = 0.3"),
            ("insert", {"path": "fitting.py", "line": 16, "text": "POWER = 1.0  # of the rate's fall"}),
            ("check", {}),
        ]
    ),
    tool_use(*submit("A higher rate settles sooner", notes=f"my key is {KEY}", edit_kind="number")),
]
NO_SUCH_LINE = text(
    "HYPOTHESIS: Slower.\nfitting.py\n<<<<<<< SEARCH\nNO SUCH LINE\n=======\nx\n>>>>>>> REPLACE"
)
OUTSIDE = tool_uses([edit("fitting.py", "STEPS = 300", "STEPS = 250"), submit("Not mine")])
WIDER = edit("model.py", SPARE, SPARE.replace("}", f', "spare": np.arange({ROWS}, dtype=np.float32)}}'))


def narrower(over: float) -> tuple[str, Json]:
    return edit("model.py", f"np.arange({ROWS},", f"np.arange({ROWS - int(over) // 4 - 8},")


PLANS: dict[str, list[list[Line]]] = {
    "training": [
        GOOD,
        [from_start(edit("fitting.py", "LR = 0.1", "LR = 0.0"), submit("No rate at all"))],
        repair("training", "disqualified:gate_missed", "short_by", lambda _: edit("fitting.py", "LR = 0.0", "LR = 0.2"), "Give back"),
        [from_start(edit("fitting.py", "STEPS = 300", "STEPS = 90_000_000"), submit("Train for long"))],
        repair("training", "train_budget_overrun:cpu_cap", "train_cpu_over_s", lambda _: edit("fitting.py", "90_000_000", "350"), "Back under the cap"),
        [NO_SUCH_LINE, NO_SUCH_LINE, costly(NO_SUCH_LINE)],
    ],
    "model": [
        [OUTSIDE],
        [from_start(WIDER, submit("More parameters"))],
        repair("model", "size_blocked:oversize", "bytes_over", narrower, "Narrower"),
        [costly(refusal())],
    ],
}  # fmt: skip
# a program that was measured
SCORED = {"keep", "discard"}
EXPECTED = {
    "training": [
        SCORED, {"disqualified:gate_missed"}, SCORED,
        {"train_budget_overrun:cpu_cap"}, SCORED, {"rejected:bad_edit"}, {"rejected:abandoned"},
    ],
    "model": [
        {"rejected:outside_surface"}, {"size_blocked:oversize"}, SCORED,
        {"rejected:refused"}, {"rejected:abandoned"},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def team_run(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("llm")
    env = prepared(folder)
    config = folder / "campaign.toml"
    config.write_text("[campaign]\nusd_per_role = 1.5\ntrials = 30\n")
    return run(folder, env, team(PLANS), "--config", str(config))


def check_labels(done: Done, expected: dict[str, list[set[str]]]) -> None:
    for role, wanted in expected.items():
        got = labels(done.of(role))
        assert len(got) == len(wanted) and all(a in b for a, b in zip(got, wanted, strict=True)), (role, got)


def test_every_session_ends_in_its_own_status(team_run: Done) -> None:
    check_labels(team_run, EXPECTED)
    names = {
        b["name"]
        for r in team_run.requests
        for m in r["body"]["messages"]
        for b in m["content"]
        if b["type"] == "tool_use"
    }
    sent = {tool["name"] for tool in team_run.requests[0]["body"]["tools"]}
    assert names | {"submit"} == sent, "every tool was used"


def test_tokens_and_dollars_are_those_of_the_replies(team_run: Done) -> None:
    shown = team_run.show()["spent"]
    rows = team_run.view.trials()
    assert shown["usd"] == pytest.approx(sum(row.usd for row in rows)) and shown["usd"] > 4.0
    assert shown["tokens_out"] == sum(row.tokens_out for row in rows) > 200_000
    replies = 0
    for row in rows:
        if row.exchange_sha256 is None:
            continue
        exchange = json.loads(team_run.blob(row.exchange_sha256))
        turns = [turn["reply"] for turn in exchange["turns"] if turn["reply"]]
        assert row.tokens_out == sum(reply["usage"]["tokens_out"] for reply in turns), row.trial
        replies += len(turns)
    assert replies == len(team_run.requests)


def test_the_report_holds_the_hypotheses(team_run: Done) -> None:
    page = next(team_run.folder.glob("r/reports/*/report.html")).read_text("utf-8")
    packed = re.findall(r'<script type="application/x-[a-z]+"[^>]*>([^<]*)</script>', page)
    held = "".join(gzip.decompress(base64.b64decode(part)).decode() for part in packed)
    for row in team_run.of("training")[:5]:
        assert (row.hypothesis or "?") in held


def test_prompts_and_exchanges_are_stored_by_hash(team_run: Done) -> None:
    asked = {prompt_of(request["body"]) for request in team_run.requests}
    for row in team_run.of("training") + team_run.of("model"):
        if row.cause == "abandoned":
            continue
        prompt = team_run.blob(row.prompt_sha256).decode()
        assert any(prompt.endswith(user) for user in asked), row.trial
        assert json.loads(team_run.blob(row.exchange_sha256))["role"] == row.role


def test_the_key_is_nowhere_in_the_record(team_run: Done) -> None:
    secret = KEY.encode()
    files = [path for path in (team_run.folder / "r").rglob("*") if path.is_file()]
    assert len(files) > 50
    assert [path for path in files if secret in path.read_bytes()] == []
    blobs = [
        get_blob(team_run.store, Path(key).name.partition(".")[0]) for key in team_run.store.list("blobs")
    ]
    assert len(blobs) > 30
    assert not any(secret in data for data in blobs)
    assert KEY not in team_run.view.to_pandas(events=True).to_csv()
    assert KEY not in team_run.stdout + team_run.stderr
    assert all(KEY in request["headers"]["authorization"] for request in team_run.requests), "it was used"


@pytest.mark.parametrize(
    ("role", "failed", "number"),
    [
        ("model", "size_blocked:oversize", "bytes_over"),
        ("training", "disqualified:gate_missed", "short_by"),
        ("training", "train_budget_overrun:cpu_cap", "train_cpu_over_s"),
    ],
)
def test_the_number_of_a_failure_is_in_the_roles_next_prompt(
    team_run: Done, role: str, failed: str, number: str
) -> None:
    rows = team_run.of(role)
    at = labels(rows).index(failed)
    value = json.loads(rows[at].numbers_json)[number]
    shown = f"{number}={value:.6g}" if isinstance(value, float) else f"{number}={value}"
    prompt = team_run.blob(rows[at + 1].prompt_sha256).decode()
    assert shown in prompt
    assert shown in (rows[at + 1].hypothesis or ""), "the repair was made from it"
    assert rows[at + 1].parent == rows[at].trial and rows[at + 1].score is not None


def test_what_a_valid_trial_left_unused_is_in_the_next_prompt(team_run: Done) -> None:
    rows = team_run.of("training")
    assert "train_cpu_to_spare_s=" in team_run.blob(rows[1].prompt_sha256).decode()


@pytest.mark.slow
def test_a_replay_without_key_or_server_gives_the_same_programs(team_run: Done) -> None:
    folder, env = team_run.folder, team_run.env
    assert not any("ANTHROPIC" in name for name in env)
    done = quick.bakeoff(
        "run", "quick", "--replay", "r", "--run", "again", "--no-confirm", "--plain", env=env, cwd=folder
    )
    again = opened(folder, env, "again", done.stdout, done.stderr, [])
    for role in PLANS:
        then = [record.row for record in records_of(team_run.view) if record.role == role]
        now = [record.row for record in records_of(again.view) if record.role == role]
        for name in ("source_sha256", "parent_sha256", "ast_sha256", "hypothesis", "expected_delta"):
            assert [getattr(row, name) for row in now] == [getattr(row, name) for row in then], (role, name)
        assert [label.partition(":")[0] for label in labels(now) if "rejected" in label] == ["rejected"] * (
            2 if role == "model" else 1
        )
    assert sum(row.usd for row in again.view.trials()) == 0


# ---- twelve trials on the CPU mini, three roles ---------------------------------------------------

MINI: dict[str, list[list[Line]]] = {
    "opt": [
        [
            thinking_then(tool_use("view", {"path": "optim.py", "first": 1, "last": 40})),
            tool_uses([("search", {"text": "EPOCHS"}), edit("optim.py", "EPOCHS = 82", "EPOCHS = 24")]),
            tool_uses([edit("optim.py", "EPOCHS = 28", "EPOCHS = 26"), ("check", {})]),
            tool_use(*submit("Fewer epochs")),
        ],
        [from_start(edit("optim.py", "EPOCHS = 28", "EPOCHS = 2"), submit("Far fewer epochs"))],
        repair("opt", "disqualified:gate_missed", "short_by", lambda _: edit("optim.py", "EPOCHS = 2 ", "EPOCHS = 30 "), "Give back"),
        [NO_SUCH_LINE, NO_SUCH_LINE, costly(NO_SUCH_LINE)],
    ],
    "arch": [
        [from_start(
            edit("model.py", "        self.drop = regularise.Drop()", "        self.drop = regularise.Drop()\n        self.register_buffer('spare', torch.rand(600_000))"),
            submit("A large table"),
        )],
        repair("arch", "size_blocked:oversize", "bytes_over", lambda over: edit("model.py", "600_000", str(600_000 - int(over) // 4 - 4_000)), "Smaller"),
        [from_start(edit("model.py", "KERNEL = 3", "KERNEL = = 3"), submit("Does not parse")), tool_use(*submit("Does not parse"))],
        [costly(from_start(
            ("insert", {"path": "model.py", "line": 19, "text": "HALF = 2  # of the resolution"}),
            edit("model.py", "nn.MaxPool2d(2)", "nn.MaxPool2d(HALF)"), submit("A name for a number"),
        ))],
    ],
    "aug": [
        [tool_uses([edit("optim.py", "LR = 0.02", "LR = 0.03"), submit("Outside")]), tool_use(*submit("Outside"))],
        [from_start(edit("data.py", "    count = len(images)", "    raise ValueError('no such shift')"), submit("Raises"))],
        [from_start(edit("data.py", "VIEWS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))", "VIEWS = ((0, 0), (0, 1), (1, 0))"), submit("Fewer views"))],
        [costly(refusal())],
    ],
}  # fmt: skip
MINI_EXPECTED = {
    "opt": [SCORED, {"disqualified:gate_missed"}, SCORED, {"rejected:bad_edit"}, {"rejected:abandoned"}],
    "arch": [{"size_blocked:oversize"}, SCORED, {"preflight_crash:syntax"}, SCORED, {"rejected:abandoned"}],
    "aug": [
        {"rejected:outside_surface"}, {"preflight_crash:smoke"}, SCORED, {"rejected:refused"}, {"rejected:abandoned"},
    ],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a quarter of an hour beside busy neighbours
def test_twelve_trials_on_airbench_mini_with_three_roles(tmp_path: Path) -> None:
    env = quick.environ(tmp_path / "home", quick.ROOT / "recipes")
    quick.bakeoff("prepare", "airbench_mini", env=env, cwd=tmp_path)
    config = tmp_path / "campaign.toml"
    config.write_text("[campaign]\nusd_per_role = 1.5\ntrials = 30\n")
    roles = [part for role in MINI for part in ("--role", role)]
    done = run(tmp_path, env, team(MINI), "--config", str(config), *roles, environment="airbench_mini")
    check_labels(done, MINI_EXPECTED)
    assert sum(len(done.of(role)) - 1 for role in MINI) == 12
    test_tokens_and_dollars_are_those_of_the_replies(done)
    test_prompts_and_exchanges_are_stored_by_hash(done)
    test_the_number_of_a_failure_is_in_the_roles_next_prompt(
        done, "opt", "disqualified:gate_missed", "short_by"
    )
    test_the_number_of_a_failure_is_in_the_roles_next_prompt(
        done, "arch", "size_blocked:oversize", "bytes_over"
    )
    crash = done.blob(done.of("aug")[2].prompt_sha256).decode()
    assert "no such shift" in crash, "the exception is in the next prompt of the role"
    assert next(done.folder.glob("r/reports/*/report.html")).stat().st_size > 10_000
    assert quick.bakeoff("verify", "r", env=env, cwd=tmp_path).returncode == 0
