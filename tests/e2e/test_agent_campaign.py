"""Campaigns whose specialists are coding agents, through the command line: what the record then says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import quick
from command_agent import box, script
from llm_run import KEY, Done, labels, opened, prepared

pytestmark = pytest.mark.timeout(600)
# what the agent does is decided by how many trials there are: it keeps nothing from run to run
TURNS = r"""
case $(grep -c '^- t' LINEAGE/TRIALS.md) in
1) sed -i 's/^LR = 0.1/LR = 0.3/' fitting.py
   bakeoff-check || exit 9
   printf -- '---\nhypothesis: A higher rate settles sooner\nexpected_delta: 0.02\nedit_kind: number\n---\nTry 0.5.\n' > PROPOSAL.md
   echo "my key is $ANTHROPIC_API_KEY" ;;
2) echo 'nothing to improve' ;;
3) mv model.py layers.py ;;
4) sed -i 's/^LR = /LR = = /' fitting.py ;;
5) sed -i 's/^STEPS = 300/STEPS = 250/' fitting.py; sleep 300 ;;
*) echo 'TypeError: undefined' >&2; exit 3 ;;
esac
"""
EXPECTED = [
    {"keep"},
    {"rejected:refused"},
    {"rejected:outside_surface"},
    {"preflight_crash:syntax", "rejected:syntax"},
    {"keep", "discard"},
    {"rejected:bad_edit"},
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return prepared(tmp_path_factory.mktemp("environment"))


@pytest.fixture(scope="module")
def run_of_an_agent(tmp_path_factory: pytest.TempPathFactory) -> Done:
    box()  # skips where none can be made
    folder = tmp_path_factory.mktemp("agent")
    env = {**prepared(folder), "ANTHROPIC_API_KEY": KEY}
    program = script(folder, TURNS)
    (folder / "campaign.toml").write_text(
        "[campaign]\ntrials = 6\nroles = ['training']\nin_flight = 1\nconfirm = false\n\n"
        f"[proposer]\ncommand = ['{program}']\nminutes = 0.1\nvariables = ['ANTHROPIC_API_KEY']\n"
    )
    arguments = ("run", "quick", "--run", "r", "--config", "campaign.toml", "--plain")
    done = quick.bakeoff(*arguments, env=env, cwd=folder)
    return opened(folder, env, "r", done.stdout, done.stderr, [])


@pytest.mark.slow
def test_each_run_of_the_agent_is_a_trial_with_its_outcome(run_of_an_agent: Done) -> None:
    rows = run_of_an_agent.of("training")
    got = labels(rows)
    assert len(got) == 6 and all(one in wanted for one, wanted in zip(got, EXPECTED, strict=True)), got
    assert (rows[0].hypothesis, rows[0].expected_delta) == ("A higher rate settles sooner", 0.02)
    assert "model.py: the file was deleted" in (rows[2].error_excerpt or "")
    assert "layers.py" in (rows[2].error_excerpt or "") or "model.py" in (rows[2].error_excerpt or "")
    assert "the time that a proposal may take" in (rows[4].notes or "")
    for row in rows:
        agent = json.loads(row.detail_json)["agent"]
        assert (agent["name"], agent["box"], agent["cost"]) == ("agent.sh", "proven", "unknown"), row.trial
        assert row.proposer == "command"


@pytest.mark.slow
def test_show_says_which_agent_and_that_its_cost_is_unknown(run_of_an_agent: Done) -> None:
    shown = quick.call("show", "r", "1", env=run_of_an_agent.env, cwd=run_of_an_agent.folder).stdout
    assert "agent.sh, in a proven box" in shown and "1 check, ended: status 0" in shown
    assert "dollars unknown, tokens unknown (its time is capped)" in shown
    assert "agent's box proven: data and labels unreadable" in run_of_an_agent.stderr


@pytest.mark.slow
def test_the_key_is_nowhere_in_the_record(run_of_an_agent: Done) -> None:
    held = [path for path in (run_of_an_agent.folder / "r").rglob("*") if path.is_file()]
    assert [path for path in held if KEY.encode() in path.read_bytes()] == []
    exchange = run_of_an_agent.blob(run_of_an_agent.of("training")[0].exchange_sha256)
    assert KEY.encode() not in exchange and b"[redacted: value of ANTHROPIC_API_KEY]" in exchange


@pytest.mark.slow
def test_the_record_verifies(run_of_an_agent: Done) -> None:
    done = quick.call("verify", "r", env=run_of_an_agent.env, cwd=run_of_an_agent.folder)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_usage_limit_is_waited_for_and_ctrl_c_ends_the_agent(tmp_path: Path) -> None:
    box()
    env = {**prepared(tmp_path), "BAKEOFF_OUTAGE_FIRST_S": "0.5"}
    limit = tmp_path / "limits"
    limit.mkdir()
    (limit / "reached").touch()
    mark = f"agent-{os.urandom(6).hex()}"
    text = (
        f"test -e {limit}/reached && {{ echo 'Claude AI usage limit reached' >&2; exit 1; }}\n"
        f"case $(grep -c '^- t' LINEAGE/TRIALS.md) in 1) sed -i 's/^LR = 0.1/LR = 0.3/' fitting.py;; "
        f"*) sh -c 'sleep 300 # {mark}';; esac"
    )
    command = [sys.executable, "-m", "flows.cli", "run", "quick", "--run", "r", "--role", "training"]
    command += ["--in-flight", "1", "--no-confirm", "--plain", "--agent-folder", str(limit)]
    command += ["--command", str(script(tmp_path, text))]
    process = subprocess.Popen(
        command, env={**env, "PYTHONPATH": str(quick.ROOT)}, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line)
            if "waits for its proposer" in line:
                assert "agent agent.sh cannot work: Claude AI usage limit reached" in line
                (limit / "reached").unlink(missing_ok=True)
            if "t0001 training: keep" in line:
                break
        end = time.monotonic() + 60
        while not _alive(mark) and time.monotonic() < end:
            time.sleep(0.2)
        assert _alive(mark), lines
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.stdout.close()
    assert not _alive(mark)
    rows = opened(tmp_path, env, "r", "", "", []).of("training")
    assert labels(rows) == ["keep"], "the outage burnt no trial, the stopped one stays open"


@pytest.mark.slow
def test_a_replay_gives_the_same_programs_without_the_agent(run_of_an_agent: Done) -> None:
    folder, env = run_of_an_agent.folder, run_of_an_agent.env
    arguments = ("run", "quick", "--replay", "r", "--run", "again", "--no-confirm", "--plain")
    done = quick.bakeoff(*arguments, env=env, cwd=folder)
    again = opened(folder, env, "again", done.stdout, done.stderr, []).of("training")
    then = run_of_an_agent.of("training")
    assert [row.source_sha256 for row in again] == [row.source_sha256 for row in then]
    assert [label.partition(":")[0] for label in labels(again)[:3]] == ["keep", "rejected", "rejected"]
    assert "model.py: the file was deleted" in (again[2].error_excerpt or "")


@pytest.mark.slow
def test_a_cap_on_dollars_ends_a_campaign_by_the_agents_own_report(tmp_path: Path) -> None:
    box()
    env = prepared(tmp_path)
    text = (
        "n=$(grep -c '^- t' LINEAGE/TRIALS.md); sed -i \"s/^STEPS = .*/STEPS = 30$n/\" fitting.py\n"
        'echo \'{"type": "end", "said": "More steps.", "usd": 0.4, "model": "m-1"}\''
    )
    (tmp_path / "mine.toml").write_text(
        f"command = ['{script(tmp_path, text)}']\n[report]\nformat = 'lines'\n[[report.final]]\n"
        "match = { type = 'end' }\nmessage = 'said'\nusd = 'usd'\nmodel = 'model'\n"
    )
    arguments = (
        "run",
        "quick",
        "--run",
        "r",
        "--role",
        "training",
        "--trials",
        "9",
        "--no-confirm",
        "--plain",
    )
    done = quick.bakeoff(*arguments, "--agent", "mine.toml", "--usd", "1", env=env, cwd=tmp_path)
    record = opened(tmp_path, env, "r", done.stdout, done.stderr, [])
    assert "1.20 of 1.00 dollars are spent" in done.stdout
    assert [(row.usd, row.model, row.operator) for row in record.of("training")] == [(0.4, "m-1", "mine")] * 3
    assert record.show()["spent"]["usd"] == pytest.approx(1.2)


@pytest.mark.slow
def test_a_trusted_agent_is_marked_in_every_row(tmp_path: Path) -> None:
    env = {
        **prepared(tmp_path),
        "BAKEOFF_HIDE_BWRAP": "1",
        "BAKEOFF_ISOLATION": "weak",
        "BAKEOFF_TRUST_WEAK": "1",
    }
    text = "sed -i 's/^LR = 0.1/LR = 0.3/' fitting.py; bakeoff-check"
    arguments = (
        "run",
        "quick",
        "--run",
        "r",
        "--role",
        "training",
        "--trials",
        "2",
        "--no-confirm",
        "--plain",
    )
    program = ("--command", str(script(tmp_path, text)), "--trust-agent")
    done = quick.bakeoff(*arguments, *program, env=env, cwd=tmp_path)
    assert "agent: trusted, it runs without a box" in done.stderr
    rows = opened(tmp_path, env, "r", "", "", []).of("training")
    assert len(rows) == 2 and rows[0].status == "keep"
    agents = [json.loads(row.detail_json)["agent"] for row in rows]
    assert [(one["box"], one["checks"]) for one in agents] == [("trusted", 1), ("trusted", 1)]
    assert "trusted, without a box" in quick.call("show", "r", "1", env=env, cwd=tmp_path).stdout


def _alive(mark: str) -> bool:
    for process in psutil.process_iter():
        try:
            if mark in " ".join(process.cmdline()) and "flows.cli" not in process.cmdline():
                return True
        except psutil.Error:
            continue
    return False


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--agent", "cluade"), "no agent named 'cluade'; did you mean 'claude'?"),
        (("--agent", "none.toml"), "the preset cannot be read (No such file or directory)"),
        (("--proposer", "command"), "needs an agent: --agent NAME"),
        (("--agent", "claude", "--command", "x"), "agent and command are both given"),
        (("--agent", "claude", "--proposer", "anthropic"), "the proposer is anthropic"),
        (("--command", "/no/such/program"), "no program '/no/such/program'"),
        (("--command", "/bin/true", "--arm", "random"), "arm random"),
        (("--command", "/bin/true", "--agent-host", "http://x"), "is not a name or name:port"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: tuple[str, ...], says: str, environment: dict[str, str], tmp_path: Path
) -> None:
    done = quick.call("run", "quick", "--run", "other", *arguments, env=environment, cwd=tmp_path)
    assert done.returncode == 2 and says in done.stderr + done.stdout, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "other").exists()


def test_without_a_box_the_user_must_trust_the_agent(environment: dict[str, str], tmp_path: Path) -> None:
    env = {
        **environment,
        "BAKEOFF_HIDE_BWRAP": "1",
        "BAKEOFF_ISOLATION": "weak",
        "BAKEOFF_TRUST_WEAK": "1",
    }
    program = script(tmp_path, "exit 0")
    arguments = ("run", "quick", "--run", "other", "--command", str(program))
    done = quick.bakeoff(*arguments, env=env, cwd=tmp_path, check=False)
    assert done.returncode == 6 and "accept it with --trust-agent" in done.stderr, done.stderr
