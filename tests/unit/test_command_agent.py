"""The `command` proposer with a shell script as its agent, in the real box: how each kind of run ends."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_agent import EDIT, NOTE, USAGE, agent, box, propose

from agents.command.proposer import CommandProposer
from agents.edits.search_replace import apply_edits
from agents.llm.ledger import Cap, Caps, Ledger
from lineage.errors import (
    BudgetSpent,
    ProposerOutage,
    ProposerRefused,
    ProposerUnusable,
    UsageError,
)
from lineage.records import Allowance, Check, Status, Usage
from tests.fakes import lab

KEY = "sk-ant-api03-agent-0123456789abcdefghij"


def exchange(proposal_or_fault: object) -> dict[str, object]:
    raw = getattr(proposal_or_fault, "exchange")  # noqa: B009 - a proposal or a fault
    found: dict[str, object] = json.loads(raw)
    return found


def test_an_edit_and_its_note_become_the_proposal(tmp_path: Path) -> None:
    rows = [lab.row(1, status=Status.KEEP, score=2.2, delta_parent=-0.1, source_sha256="a" * 64)]
    seen = "test -f LINEAGE/t0001.md && grep -q 'Idea number 1' LINEAGE/TRIALS.md && git diff --quiet"
    drafts: list[dict[str, bytes]] = []

    def preflight(files: dict[str, bytes]) -> list[Check]:
        drafts.append(files)
        return [Check(name="smoke", passed=True, seconds=0.2)]

    text = f"{seen} || exit 9\nbakeoff-check && exit 8\n{EDIT}\nbakeoff-check || exit 7\n{NOTE}"
    proposal = propose(tmp_path, text, lab.request(rows, check=preflight))
    assert proposal.hypothesis == "A higher rate" and proposal.expected_delta == -0.1
    assert (proposal.edit_kind, proposal.notes, proposal.operator) == ("number", "Try more.", "agent.sh")
    after = apply_edits(lab.FILES, proposal.edits)
    assert b"LR = 0.05" in after["optim.py"] and drafts == [after]
    facts = proposal.agent
    assert (facts.box, facts.cost, facts.tokens, facts.checks) == ("proven", "unknown", "unknown", 2)
    assert "passed smoke" in str(exchange(proposal)["agent"]["output"])  # type: ignore[index]
    assert "bakeoff-check" in proposal.prompt and "optim.py" in proposal.prompt


def test_without_lineage_there_is_no_lineage_to_read(tmp_path: Path) -> None:
    rows = [lab.row(1, status=Status.DISCARD, score=2.4, hypothesis="a secret idea")]
    text = f"test -e LINEAGE && exit 9\ngrep -rq 'secret idea' . && exit 8\n{EDIT}"
    assert propose(tmp_path, text, lab.request(rows, arm="no_lineage")).edits


def test_without_a_note_the_last_words_are_the_hypothesis(tmp_path: Path) -> None:
    proposal = propose(tmp_path, f"{EDIT}\necho 'A higher rate helps. It was too low.'", lab.request())
    assert proposal.hypothesis == "A higher rate helps"


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("exit 0", ProposerRefused, "ended without a change: (no word)"),
        ("echo 'I would rather not.'", ProposerRefused, "I would rather not."),
        (
            "echo 'Claude AI usage limit reached|1764450000' >&2; exit 1",
            ProposerOutage,
            "usage limit reached",
        ),
        ("echo 'Error: 401 Invalid API key · Please run /login'; exit 1", ProposerOutage, "/login"),
        ("echo 'connect ECONNREFUSED 10.0.0.1:443' >&2; exit 1", ProposerOutage, "ECONNREFUSED"),
        ("echo 'TypeError: x is undefined' >&2; exit 3", ProposerUnusable, "status 3"),
        ("echo 'quota' ; exit 0", ProposerRefused, "quota"),
        ("kill -9 $$", ProposerUnusable, "changed nothing"),
    ],
)
def test_a_run_without_a_change(tmp_path: Path, text: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind) as caught:
        propose(tmp_path, text, lab.request())
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert exchange(caught.value)["fault"]["type"] == kind.__name__  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rm model.py", "model.py: the file was deleted"),
        ("git mv optim.py rate.py", "optim.py: the file was deleted"),
        ("head -c 3000 /dev/urandom > weights.bin", "weights.bin"),
        ("printf 'x\\000y' >> optim.py", "optim.py"),
        ("rm optim.py; ln -s /etc/passwd optim.py", "optim.py: a link"),
        ("ln -s / root", "root: a link"),
        ("mkfifo pipe", "pipe: no regular file"),
        ("head -c 100000000 /dev/zero > big.py", "big.py: too large"),
        ("printf x > \"$(printf 'a\\033[31m\\nb').py\"", "a b.py: a new file"),
        ("i=0; while [ $i -lt 1000 ]; do : > f$i.txt; i=$((i+1)); done", "more than 900 files"),
    ],
)
def test_what_no_edit_can_contain_is_named(tmp_path: Path, text: str, named: str) -> None:
    proposal = propose(tmp_path, f"{EDIT}\n{text}\nbakeoff-check && exit 9\nexit 0", lab.request())
    assert any(named in one for one in proposal.outside), proposal.outside
    assert "root:" not in "".join(e.replace for e in proposal.edits)
    assert proposal.agent.exit_code == 0
    assert "FAILED outside_surface" in str(exchange(proposal)["agent"]["output"])  # type: ignore[index]


def test_what_tools_leave_behind_is_no_part_of_the_edit(tmp_path: Path) -> None:
    text = (
        f"{EDIT}\nmkdir -p __pycache__ .cache && touch __pycache__/a.pyc .cache/x .notes && git commit -qam x"
    )
    proposal = propose(tmp_path, text, lab.request())
    assert proposal.outside == () and [edit.path for edit in proposal.edits] == ["optim.py"]


def test_a_new_file_is_an_ordinary_edit_that_the_surface_decides_on(tmp_path: Path) -> None:
    text = "mkdir deep && echo 'x = 1' > deep/x.py && bakeoff-check && exit 9\nexit 0"
    proposal = propose(tmp_path, text, lab.request())
    assert [edit.path for edit in proposal.edits] == ["deep/x.py"] and not proposal.outside
    output = str(exchange(proposal)["agent"]["output"])  # type: ignore[index]
    assert "FAILED outside_surface: deep/x.py: a new file is outside the surface" in output


def test_line_ends_alone_are_no_change(tmp_path: Path) -> None:
    proposal = propose(tmp_path, f"{EDIT}\nsed -i 's/$/\\r/' optim.py model.py train.py", lab.request())
    after = apply_edits(lab.FILES, proposal.edits)
    assert [edit.path for edit in proposal.edits] == ["optim.py"] and b"\r" not in after["optim.py"]


def test_another_roles_file_is_an_ordinary_edit_that_the_patch_refuses(tmp_path: Path) -> None:
    proposal = propose(tmp_path, "sed -i 's/64/65/' model.py", lab.request())
    assert [edit.path for edit in proposal.edits] == ["model.py"] and not proposal.outside


def test_a_hung_agent_is_ended_with_its_whole_tree(tmp_path: Path) -> None:
    mark = f"hung-{os.urandom(6).hex()}"
    text = f"(setsid sh -c 'sleep 300 # {mark}' > /dev/null 2>&1 &)\ntrap '' TERM\nsleep 300"
    began = time.monotonic()
    with pytest.raises(ProposerUnusable, match=r"ended after \d+ s, the time that a proposal may take"):
        propose(tmp_path, text, lab.request(), seconds=1.5)
    assert time.monotonic() - began < 15
    assert not _alive(mark)


@pytest.mark.parametrize("trusted", [False, True])
def test_a_daemon_does_not_outlive_its_agent(tmp_path: Path, trusted: bool) -> None:
    mark = f"daemon-{os.urandom(6).hex()}"
    text = f"(setsid sh -c 'sleep 300 # {mark}' > /dev/null 2>&1 &)\n{EDIT}\nsleep 0.2"
    proposal = propose(tmp_path, text, lab.request(), trusted=trusted)
    assert proposal.agent.box == ("trusted" if trusted else "proven")
    assert not _alive(mark)


def _alive(mark: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if mark in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_work_done_before_the_time_is_over_is_handed_in(tmp_path: Path) -> None:
    proposal = propose(tmp_path, f"{EDIT}\n{NOTE}\nsleep 300", lab.request(), seconds=1.5)
    assert "the time that a proposal may take" in proposal.notes and proposal.agent.ended == "time"


def test_the_campaigns_stop_ends_it_at_once(tmp_path: Path) -> None:
    cancel = threading.Event()
    threading.Timer(0.7, cancel.set).start()
    began = time.monotonic()
    with pytest.raises(ProposerOutage, match="stopped by the campaign"):
        propose(tmp_path, "sleep 300", lab.request(), cancel=cancel)
    assert time.monotonic() - began < 10


def test_an_agent_that_fills_the_disk_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.command.agent_process.DISK_BYTES", 50_000_000)
    text = "head -c 200000000 /dev/urandom > $HOME/x\nsleep 300"
    with pytest.raises(ProposerUnusable, match="wrote more than a workspace may have"):
        propose(tmp_path, text, lab.request())


def test_secrets_are_in_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_API_KEY", KEY)
    (tmp_path / "home").mkdir()
    text = f'echo $OWN_API_KEY; echo $OWN_API_KEY | rev >&2\n{EDIT}\nprintf -- "---\\nhypothesis: $OWN_API_KEY\\n---\\n$OWN_API_KEY" > PROPOSAL.md'
    environ = {**os.environ, "HOME": str(tmp_path / "home")}
    proposal = propose(tmp_path, text, lab.request(), variables=("OWN_API_KEY",), environ=environ)
    stored = proposal.model_dump_json()
    assert KEY not in stored and KEY[::-1] not in stored
    assert stored.count("[redacted: value of OWN_API_KEY") >= 3, "it was passed on, printed and found"
    with pytest.raises(ProposerUnusable, match="contains a credential") as caught:
        propose(
            tmp_path, f'{EDIT}\necho "# $OWN_API_KEY" >> optim.py', lab.request(), variables=("OWN_API_KEY",)
        )
    assert KEY.encode() not in caught.value.exchange


def test_only_named_variables_reach_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_TOKEN", "not-for-agents-0123456789")
    proposal = propose(tmp_path, f"env | sort\n{EDIT}", lab.request())
    output = str(exchange(proposal)["agent"]["output"])  # type: ignore[index]
    assert "HOME=/home/agent" in output and "OTHER_TOKEN" not in output


# ---- money -----------------------------------------------------------------------------------------

STEP = 'echo \'{"type": "step", "id": "%s", "in": 1000, "out": 100, "usd": 0.4}\''
END = 'echo \'{"type": "end", "said": "Done.", "usd": 0.9, "turns": 3, "failed": false, "model": "m-1"}\''


def test_the_agents_own_report_is_the_cost(tmp_path: Path) -> None:
    text = "\n".join([STEP % 1, STEP % 1, STEP % 2, EDIT, END])
    paid: list[Usage] = []
    proposal = propose(tmp_path, text, lab.request(paid=paid.append), report=USAGE)
    assert proposal.usage.usd == 0.9 and proposal.usage.tokens_in == 2000, "one step was told twice"
    assert (proposal.agent.turns, proposal.agent.cost, proposal.model) == (3, "reported", "m-1")
    assert [round(one.usd, 2) for one in paid] == [0.4, 0.8, 0.9]
    assert proposal.hypothesis == "Done."


def test_a_run_is_ended_at_its_allowance(tmp_path: Path) -> None:
    text = "\n".join([EDIT, STEP % 1, STEP % 2, STEP % 3, "sleep 300"])
    asked = lab.request(allowance=Allowance(usd=1.0, beyond=True))
    proposal = propose(tmp_path, text, asked, report=USAGE)
    assert proposal.agent.ended == "budget" and proposal.usage.usd == pytest.approx(1.2)
    assert "cap on this proposal's cost" in proposal.notes


def test_a_spent_campaign_starts_no_agent(tmp_path: Path) -> None:
    ledger = Ledger(Caps(campaign=Cap(usd=1.0)))
    text = "\n".join([EDIT, STEP % 1, END.replace("0.9", "1.5")])
    asked = agent(tmp_path, text, report=USAGE, ledger=ledger)
    assert asked.propose(lab.request()).usage.usd == 1.5
    with pytest.raises(BudgetSpent, match=r"1\.5000 of 1 USD"):
        asked.propose(lab.request())


@pytest.mark.parametrize(
    "line",
    [
        '{"type": "step"',
        '{"type": "step", "usd": 1e400}',
        '{"type": "step", "usd": -5}',
        '{"type": "step", "usd": "9"}',
        "[" * 5000,
    ],
)
def test_a_report_that_is_garbage_counts_nothing(tmp_path: Path, line: str) -> None:
    proposal = propose(tmp_path, f"echo '{line}'\n{EDIT}", lab.request(), report=USAGE)
    assert proposal.usage.usd == 0 and proposal.agent.cost == "unknown"


# ---- bad input -------------------------------------------------------------------------------------


def test_a_program_that_is_not_there_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agents.command.preset import load_preset

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="npm install -g @anthropic-ai/claude-code"):
        CommandProposer(load_preset("claude"), box())


@pytest.mark.parametrize("host", ["https://example.org", "example.org:", "a b", "example.org:99999"])
def test_a_host_that_is_none_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(UsageError, match="agent's network"):
        agent(tmp_path, EDIT, hosts=(host,))


def test_a_folder_with_a_home_in_it_is_refused(tmp_path: Path) -> None:
    for folder in ("/", str(Path.home()), str(Path.home().parent)):
        with pytest.raises(UsageError, match="whole home"):
            agent(tmp_path, EDIT, folders=(folder,))


# ---- the network -----------------------------------------------------------------------------------


class Answering(http.server.BaseHTTPRequestHandler):
    """A server that says what it was asked; as a proxy it accepts any tunnel and answers in the host's place."""

    seen: list[str] = []

    def log_message(self, *args: object) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.seen.append(f"CONNECT {self.path}")
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"from beyond the proxy")
        self.close_connection = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.seen.append(f"POST {self.path} {body.decode()}")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"heard you")


@pytest.fixture
def server() -> Iterator[tuple[int, list[str]]]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as running:
        Answering.seen = []
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.server_address[1], Answering.seen
        running.shutdown()


ASK = """python3 - <<'X'
import urllib.request
print(urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:%d/v1?a=b", data=b"hello", method="POST")).read())
X
"""
TUNNEL = """python3 - <<'X'
import socket
s = socket.create_connection(("127.0.0.1", 8911)); s.sendall(b"CONNECT %s HTTP/1.1\\r\\n\\r\\n")
while part := s.recv(999): print(part)
X
"""


def test_a_host_that_is_named_can_be_reached(tmp_path: Path, server: tuple[int, list[str]]) -> None:
    port, seen = server
    text = "unset NO_PROXY no_proxy\n" + ASK % port + EDIT
    proposal = propose(tmp_path, text, lab.request(), hosts=(f"127.0.0.1:{port}",))
    assert "heard you" in str(exchange(proposal)["agent"]["output"])  # type: ignore[index]
    assert seen == ["POST /v1?a=b hello"] and proposal.agent.hosts == (f"127.0.0.1:{port}",)
    refused = propose(tmp_path, text, lab.request())
    assert len(seen) == 1 and refused.agent.refused_hosts == (f"127.0.0.1:{port}",)


def test_the_models_endpoint_has_its_port_inside(tmp_path: Path, server: tuple[int, list[str]]) -> None:
    port, seen = server
    asked = agent(tmp_path, ASK % port + EDIT)
    asked.endpoint = ("127.0.0.1", port)
    assert "heard you" in str(exchange(asked.propose(lab.request()))["agent"]["output"])  # type: ignore[index]
    assert seen == ["POST /v1?a=b hello"]


def test_the_users_own_proxy_is_the_way_out(tmp_path: Path, server: tuple[int, list[str]]) -> None:
    port, seen = server
    environ = {**os.environ, "HTTPS_PROXY": f"http://127.0.0.1:{port}"}
    text = TUNNEL % "model.example:443" + TUNNEL % "other.example:443" + EDIT
    proposal = propose(tmp_path, text, lab.request(), hosts=("model.example",), environ=environ)
    output = str(exchange(proposal)["agent"]["output"])  # type: ignore[index]
    assert "from beyond the proxy" in output and "403 Forbidden" in output
    assert seen == ["CONNECT model.example:443"] and proposal.agent.refused_hosts == ("other.example:443",)


def test_a_name_that_stands_for_this_machine_is_refused(
    tmp_path: Path, server: tuple[int, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, seen = server
    real = socket.getaddrinfo

    def rebound(host: object, *more: Any, **named: Any) -> Any:
        return real("127.0.0.1" if host == "model.example" else host, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    text = TUNNEL % f"model.example:{port}" + EDIT
    proposal = propose(tmp_path, text, lab.request(), hosts=(f"model.example:{port}",))
    assert "stands for an address of this machine" in str(exchange(proposal)["agent"]["output"])  # type: ignore[index]
    assert seen == []


def test_a_killed_engine_leaves_no_agent_and_its_copy_of_a_login_is_removed(tmp_path: Path) -> None:
    from agents.command.proposer import PREFIX

    mark = f"orphan-{os.urandom(6).hex()}"
    box()
    child = (
        "import os; from pathlib import Path; from command_agent import propose; from tests.fakes import lab\n"
        f"propose(Path({str(tmp_path)!r}), 'sh -c \"sleep 300 # ' + os.environ['MARK'] + '\"', lab.request())"
    )
    tests = Path(__file__).resolve().parents[1]
    env = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}", "TMPDIR": str(tmp_path), "MARK": mark}
    process = subprocess.Popen([sys.executable, "-c", child], env=env)
    try:
        end = time.monotonic() + 60
        while not _alive(mark) and time.monotonic() < end:
            time.sleep(0.1)
        assert _alive(mark)
    finally:
        process.kill()
        process.wait()
    end = time.monotonic() + 10
    while _alive(mark) and time.monotonic() < end:
        time.sleep(0.1)
    assert not _alive(mark)
    left = list(tmp_path.glob(f"{PREFIX}{process.pid}-*"))
    assert left
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path))
        agent(tmp_path, EDIT)
    assert not any(folder.exists() for folder in left)
