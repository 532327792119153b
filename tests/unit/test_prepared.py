"""A forked run is what a started run is, and has nothing of another run's; what cannot be forked is started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
import workbench as wb

from evaluators.judge import judge_client, uncounted_time
from evaluators.judge.sandbox import fork_server, fork_server_client, prove_level
from evaluators.judge.sandbox.available_layers import HERE, Layers
from lineage.environment_spec import Budget
from lineage.records import RunFacts


@pytest.fixture
def forked() -> prove_level.Isolation:
    """This machine's isolation; skips where runs are not forked."""
    found = wb.best()
    if not found.prepared:
        pytest.skip(f"runs are not forked here: {found.prepared_fault}")
    return found


# What a process is to the kernel and to its own code; written as JSON.
LOOK = r"""
import json, os, resource, sys
from pathlib import Path

def status():
    wanted = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp:", "Uid", "Gid", "Groups", "SigIgn")
    lines = Path("/proc/self/status").read_text().splitlines()
    return [line.split() for line in lines if line.startswith(wanted)]

def mounts():
    return sorted(line.split(" - ")[0].split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())

def train(data, out, seed):
    import numpy
    found = {
        "status": status(),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")},
        "environment": dict(sorted(os.environ.items())),
        "files": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
        "mounts": mounts(),
        "folder": os.getcwd(),
        "path": sys.path,
        "program": sys.argv[0],
        "main": sys.modules["__main__"].__file__,
        "writes bytecode": not sys.dont_write_bytecode,
        "processes": [int(name) > 2 for name in os.listdir("/proc") if name.isdigit()].count(True),
        "session": os.getsid(0) == os.getpid(),
        "readable": os.access("/proc/self/mem", os.R_OK),
        "mask": os.umask(0o22),
    }
    found["own namespaces"] = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
    found["numbers"] = [float(numpy.random.random()), __import__("random").random(), os.urandom(4).hex()]
    (out / "found.json").write_text(json.dumps(found))
"""


def started(monkeypatch: pytest.MonkeyPatch) -> prove_level.Isolation:
    monkeypatch.setenv("BAKEOFF_PREPARED", "0")
    found = prove_level.best()
    monkeypatch.delenv("BAKEOFF_PREPARED")
    return found


def trained(
    bench: judge_client.Bench, folder: Path, files: dict[str, str], seed: int = 1
) -> tuple[Any, Path]:
    folder.mkdir()
    source = wb.write(folder / "source", {**wb.CLASSIFIER, **files})
    return judge_client.train(bench, source, seed, folder / "artifact"), folder / "artifact"


@pytest.mark.usefixtures("forked")
def test_a_forked_run_is_what_a_started_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for name, isolation in (("forked", wb.best()), ("again", wb.best()), ("started", started(monkeypatch))):
        run, artifact = trained(
            wb.classification(tmp_path / f"{name}.bench", isolation), tmp_path / name, {"train.py": LOOK}
        )
        assert run.cause is None and run.facts.prepared is (name != "started"), run
        found.append(json.loads((artifact / "found.json").read_text()))
    spaces, numbers = [one.pop("own namespaces") for one in found], [one.pop("numbers") for one in found]
    found[2]["processes"] += 1  # the program that keeps the sandbox open
    assert found[0] == found[2]
    assert found[0] == found[1]
    host = {name: str(Path("/proc/self/ns", name).readlink()) for name in spaces[0]}
    shared = {name for name in host if spaces[2][name] == host[name]}  # what bubblewrap does not separate
    for one in spaces[:2]:
        assert {name for name in host if one[name] == host[name]} == shared
    assert shared <= {"time", "time_for_children", "cgroup"}
    assert not set(numbers[0]) & set(numbers[1]), "two runs drew the same unseeded numbers"


# Leaves what it can, and looks for what the run before it left.
MARKS = r"""
import glob, json, os, re, sys
import numpy
KEY = "MARK-" + "OF-A-RUN-"

def marks():
    found = []
    for line in open("/proc/self/maps"):
        fields = line.split()
        if "r" not in fields[1] or "w" not in fields[1]:
            continue
        low, high = (int(part, 16) for part in fields[0].split("-"))
        with open("/proc/self/mem", "rb", 0) as memory:
            try:
                memory.seek(low)
                found += re.findall(KEY.encode() + rb"(\d+)", memory.read(high - low))
            except (OSError, OverflowError, ValueError):
                continue
    return sorted({int(mark) for mark in found})

def groups():
    found = set()
    for line in open("/proc/self/maps"):
        fields = line.split()
        if "rw" in fields[1]:
            low, high = (int(part, 16) for part in fields[0].split("-"))
            with open("/proc/self/mem", "rb", 0) as memory:
                try:
                    memory.seek(low)
                    found |= set(re.findall(rb"bakeoff-\d{6,}-(\d+)-\d+", memory.read(high - low)))
                except (OSError, OverflowError, ValueError):
                    continue
    return len(found)

def files():
    mounts = [line.split()[4] for line in open("/proc/self/mountinfo")]  # a checkout under /tmp is mounted there
    places = glob.glob("/tmp/*") + glob.glob("/dev/shm/*") + glob.glob("/out/*")
    return sorted(p for p in places if not any(m.startswith(p + "/") for m in mounts))

def train(data, out, seed):
    found = {
        "files": files(),
        "environment": os.environ.get("MARK"), "module": hasattr(numpy, "mark"), "groups": groups(),
        "random": getattr(sys, "mark", None), "marks": [mark for mark in marks() if mark != seed],
    }
    held = (KEY + str(seed)) * 1000
    numpy.mark = sys.mark = os.environ["MARK"] = held
    for place in ("/tmp/mark", "/dev/shm/mark"):
        open(place, "w").write(held)
    (out / "found.json").write_text(json.dumps(found))
    if seed == 1:
        os.fork() or [os.setsid(), __import__("time").sleep(60)]
"""


@pytest.mark.usefixtures("forked")
def test_a_run_finds_nothing_of_the_run_before(tmp_path: Path) -> None:
    bench = wb.classification(tmp_path / "bench")
    for seed in (1, 2):
        run, artifact = trained(bench, tmp_path / str(seed), {"train.py": MARKS}, seed)
        assert run.cause is None and run.facts.prepared, run
        found = json.loads((artifact / "found.json").read_text())
        assert found.pop("groups") <= 1, "the server kept requests of other runs"
        assert not any(found.values()), found


@pytest.mark.usefixtures("forked")
def test_a_file_of_the_recipe_goes_before_a_module_that_was_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`secrets` is imported by numpy.random: by the server, or by the recipe's own import of numpy."""
    files = {
        "secrets.py": "from random import SystemRandom\nrandbits = SystemRandom().getrandbits\nOURS = 1\n",
        "train.py": "import secrets\nimport numpy.random\n"
        + wb.CLASSIFIER["train.py"]
        + "assert secrets.OURS\n",
    }
    for name, isolation in (("forked", wb.best()), ("started", started(monkeypatch))):
        run, _ = trained(wb.classification(tmp_path / f"{name}.bench", isolation), tmp_path / name, files)
        assert run.cause is None, (name, run)


def children(word: str) -> list[psutil.Process]:
    found = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in found if word in " ".join(child.cmdline())]


@pytest.mark.usefixtures("forked")
def test_a_server_that_dies_ends_no_run_and_is_replaced(tmp_path: Path) -> None:
    slow = "import time\ndef train(data, out, seed, report):\n    report(1, 1.0)\n    time.sleep(1)\n    (out / 'x').write_bytes(b'1')\n"
    bench = wb.classification(tmp_path / "bench")
    first = judge_client.judge_server(bench)
    assert first is not None
    source = wb.write(tmp_path / "source", {**wb.CLASSIFIER, "train.py": slow})
    servers = {child.pid for child in children("entry.py")}

    def kill_servers(step: int, value: float) -> None:
        for pid in servers:
            os.kill(pid, signal.SIGKILL)

    run = judge_client.train(bench, source, 1, tmp_path / "out", on_progress=kill_servers)
    assert (run.cause, run.facts.prepared) == (None, True)
    run = judge_client.train(bench, source, 2, tmp_path / "out2")
    assert (run.cause, run.facts.prepared) == (None, True)
    assert {child.pid for child in children("entry.py")}.isdisjoint(servers)


def test_what_makes_a_fork_unsafe_is_named() -> None:
    """In a process each: a thread, an open file, shared memory; and one that is fit."""
    code = (
        "import sys, threading, time, mmap, tempfile; sys.path.insert(0, {root!r})\n"
        "from evaluators.judge.sandbox.fork_server import _unfit\n{what}\nprint(_unfit(-1))"
    )
    for what, said in {
        "pass": "",
        "threading.Thread(target=time.sleep, args=(5,), daemon=True).start()": "the imports started 1 threads",
        "f = tempfile.TemporaryFile()": "the imports left open files",
        "m = mmap.mmap(-1, 4096)": "the imports left writable shared memory",
    }.items():
        text = code.format(root=str(HERE.parents[2]), what=what)
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
        assert done.stdout.strip().startswith(said) and bool(done.stdout.strip()) is bool(said), (what, done)
    assert "does not exist" not in fork_server._import(["no_such_module_here"])


def test_where_a_fork_is_not_possible_the_run_is_started_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fork_server_client.unfit(Layers(landlock=7, seccomp=True)).startswith("only bubblewrap")
    if wb.best().tools.bwrap:
        assert "control group" in fork_server_client.unfit(wb.best().tools.model_copy(update={"cgroup": {}}))
    isolation = started(monkeypatch)
    assert (isolation.prepared, isolation.prepared_fault) == (False, "BAKEOFF_PREPARED=0")
    run, _ = trained(wb.classification(tmp_path / "bench", isolation), tmp_path / "run", {})
    assert (run.cause, run.facts.prepared, run.facts.prepared_cpu_s) == (None, False, 0.0)
    assert "prepared" not in run.model_dump_json()  # the bytes of older records stay what they are


def facts(start: float, imported: float = 0.0) -> RunFacts:
    return RunFacts(end="exit", cpu_s=1, start_cpu_s=start, prepared=imported > 0, prepared_cpu_s=imported)


def test_free_start_up_is_the_same_whether_forked_or_started() -> None:
    budget = Budget(
        train_cpu_s=9, train_wall_s=9, predict_cpu_s=9, predict_wall_s=9, memory_mb=9, artifact_bytes=9
    )
    cold = uncounted_time.Reference(
        train_start_cpu=2.2,
        predict_start_cpu=2.1,
        predict_cpu=1,
        train_start_wall=3,
        predict_start_wall=3,
        predict_wall=1,
    )
    warm = cold.model_copy(
        update={
            "train_start_cpu": 0.2,
            "predict_start_cpu": 0.1,
            "train_prepared_cpu": 2.0,
            "predict_prepared_cpu": 2.0,
        }
    )

    def owed(known: uncounted_time.Reference, run: RunFacts) -> float:
        return round(uncounted_time.bill(budget, known, run, [facts(0.1, 2.0)]).start_cpu, 3)

    # 1.5 times 2.2 is free, so 1.1 beyond the start's own, in all four combinations
    assert (
        owed(warm, facts(1.3, 2.0))
        == owed(cold, facts(1.3, 2.0))
        == owed(warm, facts(3.3))
        == owed(cold, facts(3.3))
        == 0
    )
    assert (
        owed(warm, facts(2.3, 2.0))
        == owed(cold, facts(2.3, 2.0))
        == owed(warm, facts(4.3))
        == owed(cold, facts(4.3))
        == 1
    )
    assert owed(warm, facts(1.3, 9.0)) == 0, "a server that was slow to import is not the run's to pay for"


@pytest.mark.usefixtures("forked")
def test_a_cancelled_run_does_not_wait_for_the_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server_client, "_running", type(fork_server_client._running)())
    bench = wb.classification(tmp_path / "bench", packages=["torch", "numpy"])
    cancel = threading.Event()
    cancel.set()
    assert judge_client.judge_server(bench, cancel=cancel) is None
    assert [server.report for server in fork_server_client._running.values()] == [None]
    source = wb.write(tmp_path / "source", wb.CLASSIFIER)
    assert judge_client.train(bench, source, 1, tmp_path / "out", cancel).cause == "abandoned"
    fork_server_client.close_all()


# What a seed decides: initialisation, order, dropout, the optimizer's steps, numpy's and Python's numbers.
SEEDED = """
import json, random
import numpy as np
import torch

def warm_up(fake):
    torch.optim.AdamW(torch.nn.Linear(4, 4).parameters())

def train(data, out, seed):
    torch.manual_seed(seed), np.random.seed(seed % 2**32), random.seed(seed)
    x, y = torch.from_numpy(np.load(data / "images.npy")), torch.from_numpy(np.load(data / "labels.npy"))
    net = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.GELU(), torch.nn.Dropout(0.1), torch.nn.Linear(64, 3))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    for _ in range(60):
        rows = torch.randperm(len(x))[:32]
        loss = torch.nn.functional.cross_entropy(net(x[rows]), y[rows])
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    np.save(out / "net.npy", torch.cat([p.detach().flatten() for p in net.parameters()]).numpy())
    (out / "numbers.json").write_text(json.dumps([float(np.random.random()), random.random()]))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("forked")
def test_the_same_seed_trains_the_same_network_on_both_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = {**wb.BUDGET, "memory_mb": 1024, "start_cpu_s": 60, "train_wall_s": 200}
    found = {}
    for name, isolation in (("forked", wb.best()), ("started", started(monkeypatch))):
        bench = wb.classification(
            tmp_path / f"{name}.bench", isolation, packages=["torch", "numpy"], budget=budget
        )
        run, _ = trained(bench, tmp_path / name, {"train.py": SEEDED}, seed=7)
        assert run.cause is None and run.facts.prepared is (name == "forked"), run
        assert run.artifact is not None
        found[name] = run.artifact.sha256
        print(name, run.facts.start_cpu_s, run.facts.cpu_s, run.facts.prepared_cpu_s)
    assert found["forked"] == found["started"]
