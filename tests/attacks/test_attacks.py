"""Every attack ends as it must: the right cause or an honest score, and nothing changed outside.

On a machine whose sandbox is not `strong` the attacks on what is not held there are expected to find it;
they are skipped by name with the reason, never silently. `BAKEOFF_HIDE_BWRAP=1` tries the path without bubblewrap.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path

import attacks_escape
import attacks_files
import attacks_language
import attacks_protocol
import psutil
import pytest
import workbench as wb
from attack import Attack

from evaluators.judge.judge_client import Bench, judge_server
from evaluators.judge.sandbox.cgroup import PREFIX
from evaluators.judge.sandbox.prove_level import Isolation

ROOT = Path(__file__).resolve().parents[2]
# What these try either cannot be set up where paths are the host's, or is listed as not held there.
NEED_MOUNTS = {
    "look for every array on the machine": "no folder outside the run's own can be listed, so it finds none",
    "resume from a checkpoint left behind": "/tmp and /dev/shm cannot be opened at all",
    "sockets of a network of its own": "such an environment is refused before it starts",
}
ALL = [*attacks_files.ATTACKS, *attacks_escape.ATTACKS, *attacks_protocol.ATTACKS, *attacks_language.ATTACKS]


def everything(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a thief would look for on this host: data, a store, a key, sockets. All decoys."""
    folder = tmp_path_factory.mktemp("host")
    for kind, make in (("blobs", wb.classification), ("markov", wb.language)):
        make(folder / kind)
    store = folder / "store"
    store.mkdir()
    (store / "lineage.jsonl").write_text('{"trial": "0001", "score": 0.5}\n')
    key = f"sk-decoy-{os.urandom(8).hex()}"
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("DECOY_API_KEY", key)
        tcp = stack.enter_context(socket.create_server(("0.0.0.0", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("0.0.0.0", tcp.getsockname()[1]))
        threading.Thread(target=_answer, args=(udp,), daemon=True).start()
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0attack-{os.getpid()}")
        abstract.listen()
        by_path = stack.enter_context(socket.socket(socket.AF_UNIX))
        by_path.bind(str(folder / "s"))
        by_path.listen()
        yield {
            "FOLDER": str(folder),
            "LABELS": str(folder / "blobs/data/public/labels.npy"),
            "SEALED": str(folder / "blobs/data/sealed/labels.npy"),
            "TOKENS": str(folder / "markov/data/public/tokens.npy"),
            "MANIFEST": str(folder / "blobs/data/manifest.json"),
            "LINEAGE": str(store / "lineage.jsonl"),
            "STORE": str(store),
            "SCRATCH": str(folder / "scratch"),
            "SITE": sysconfig.get_path("purelib"),
            "ROOT": str(ROOT),
            "HOME": str(Path.home()),
            "KEY": key,
            "PID": str(os.getpid()),
            "ADDRESS": _own_address(),
            "PORT": str(tcp.getsockname()[1]),
            "ABSTRACT": f"attack-{os.getpid()}",
            "SOCKET": str(folder / "s"),
        }


def _answer(server: socket.socket) -> None:
    """Answers whoever asks, so that reaching it can be told from asking in vain; ends with its socket."""
    with contextlib.suppress(OSError):
        while True:
            server.sendto(b"ok", server.recvfrom(64)[1])


def _own_address() -> str:
    """The address under which other machines see this one; loopback where there is no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return "127.0.0.1"


def fill(text: str, host: dict[str, str]) -> str:
    for name, value in host.items():
        text = text.replace(f"@{name}@", value)
    return text


CASES = [
    pytest.param(a, id=a.name.replace(" ", "-"), marks=[pytest.mark.slow] if a.is_slow else []) for a in ALL
]


@pytest.fixture(params=["as here", pytest.param("started", marks=pytest.mark.slow)])
def isolation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Isolation:
    """Both ways in which a run comes to its process: forked, where this machine can, and started."""
    here = wb.best()
    if request.param == "as here":
        return here
    if not here.prepared:
        pytest.skip(f"every run is started here: {here.prepared_fault}")
    monkeypatch.setenv("BAKEOFF_PREPARED", "0")
    return wb.best()


@pytest.mark.parametrize("attack", CASES)
def test_attack(attack: Attack, host: dict[str, str], tmp_path: Path, isolation: Isolation) -> None:
    if isolation.level == "weak":
        pytest.skip(f"this machine's sandbox is {isolation.level}: not held: {', '.join(isolation.not_held)}")
    if not isolation.tools.bwrap and attack.name in NEED_MOUNTS:
        pytest.skip(f"without bubblewrap: {NEED_MOUNTS[attack.name]}")
    folder = Path(host["FOLDER"])
    kind = "markov" if attack.base is wb.BIGRAM else "blobs"
    spec = (wb.markov if kind == "markov" else wb.blobs)(**attack.changes)
    bench = Bench(spec, folder / kind / "data", isolation, tmp_path / "scratch")
    judge_server(bench)  # the engine's own, which stays
    before = everything(folder)
    processes = {p.pid for p in psutil.Process().children(recursive=True)}
    files = {name: fill(text, host) for name, text in {**attack.base, **attack.files}.items()}

    outcome = wb.run(bench, files, tmp_path)

    assert outcome.run.facts.prepared is isolation.prepared or not outcome.run.facts.started
    assert outcome.cause in attack.causes, (outcome.run, outcome.measurement)
    if outcome.cause is None:
        _scored_as_it_must(attack, outcome)
    if attack.check is not None:
        attack.check(outcome, tmp_path / "artifact")
    assert everything(folder) == before, "something outside the sandbox changed"
    assert {p.pid for p in psutil.Process().children(recursive=True)} <= processes, "a process was left"
    bases = {value for name, value in isolation.tools.cgroup.items() if name != "version"}
    assert not [p for base in bases for p in Path(base).glob(f"{PREFIX}*-{os.getpid()}-*")]
    assert list((tmp_path / "scratch").iterdir()) == []
    assert {name: (tmp_path / "source" / name).read_text() for name in files} == files
    assert {p.name for p in tmp_path.iterdir()} <= {"scratch", "source", "artifact", "judge"}


def _scored_as_it_must(attack: Attack, outcome: wb.Outcome) -> None:
    assert outcome.measurement is not None and outcome.score is not None
    better = outcome.measurement.metric == "accuracy"
    if attack.most is not None:
        assert outcome.score <= attack.most if better else outcome.score >= attack.most
    if attack.least is not None:
        assert outcome.score >= attack.least if better else outcome.score <= attack.least
    assert outcome.measurement.quantities["cpu_seconds"] >= attack.least_cpu


def test_the_suite_is_large_and_every_attack_has_its_own_name() -> None:
    assert len(ALL) >= 50
    assert len({attack.name for attack in ALL}) == len(ALL)
