"""Nothing of a candidate outlives its run, its supervisor, its judge or its engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import workbench as wb

from evaluators.judge import judge_client
from evaluators.judge.sandbox.bubblewrap import PLACEHOLDER
from evaluators.judge.sandbox.cgroup import PREFIX

ROOT = Path(__file__).resolve().parents[2]

# Ignores signals, leaves a child and a daemon in a session of its own, then waits.
CLINGING = """
import os, signal, time
import numpy

def train(data, out, seed):
    for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(s, signal.SIG_IGN)
    if os.fork() == 0:
        time.sleep(300)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(300)
        os._exit(0)
    open(out / "here", "w").close()
    time.sleep(300)
"""
WAITING_PREDICTOR = "import time\ndef load(a): time.sleep(300)\ndef predict(m, x): pass\n"

ENGINE = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from pathlib import Path
import workbench as wb
from evaluators.judge import judge_client
from evaluators.judge.sandbox.prove_level import Isolation
bench = wb.classification(Path({folder!r}), Isolation.model_validate_json({isolation!r}))
source = wb.write(Path({folder!r}) / "source", {files!r})
if {stage!r} == "train":
    judge_client.train(bench, source, 1, Path({folder!r}) / "out")
else:
    run = judge_client.train(bench, source, 1, Path({folder!r}) / "out")
    print("trained", flush=True)
    judge_client.judge(bench, source, [(run, Path({folder!r}) / "out")], trial="t", purpose="screen")
"""


def tree(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def wait_for_tree(pid: int, count: int, name: str = "") -> list[psutil.Process]:
    """Until the candidate's own processes are there too."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            found = tree(pid)
        except psutil.NoSuchProcess:
            break
        if len(found) >= count and any(name in " ".join(_line(p)) for p in found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"the run did not get going: {[(_line(p)) for p in found]}")


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def gone(processes: list[psutil.Process], within_s: float = 5) -> list[psutil.Process]:
    """Those still alive after a while."""
    return psutil.wait_procs(processes, timeout=within_s)[1]


def own_groups(tools: dict[str, str]) -> set[str]:
    bases = {value for key, value in tools.items() if key != "version"}
    return {str(p) for base in bases for p in Path(base).glob(f"{PREFIX}*-{os.getpid()}-*")}


def start_engine(folder: Path, files: dict[str, str], stage: str) -> subprocess.Popen[bytes]:
    code = ENGINE.format(
        root=str(ROOT), folder=str(folder), isolation=wb.best().model_dump_json(), files=files, stage=stage
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


def full_tree() -> int:
    """Processes of an engine whose candidate runs CLINGING, which are the last three."""
    if wb.best().prepared:  # fork server, supervisor, bubblewrap twice, cat, the one that reports the end
        return 6 + 3
    return 6 if wb.best().tools.bwrap else 4  # supervisor, bubblewrap twice


@pytest.mark.parametrize("path", ["as here", "started"])
@pytest.mark.parametrize("victim", ["engine", "supervisor", "bwrap", "cat"])
def test_killing_any_link_of_a_training_leaves_nothing(
    tmp_path: Path, victim: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path == "started":
        monkeypatch.setenv("BAKEOFF_PREPARED", "0")
    if victim == "cat" and not wb.best().prepared:
        pytest.skip("only a forked run has one")
    with start_engine(tmp_path, {**wb.CLASSIFIER, "train.py": CLINGING}, "train") as engine:
        found = wait_for_tree(engine.pid, full_tree())
        target = {
            "engine": engine.pid,
            "cat": next((p.pid for p in found if _line(p) == [PLACEHOLDER]), 0),
            "supervisor": next(p.pid for p in found if "sandbox.supervisor" in " ".join(_line(p))),
            "bwrap": next((p.pid for p in found if "--args" in _line(p)), 0),
        }[victim]
        if not target:
            pytest.skip("no bubblewrap here")
        os.kill(target, signal.SIGKILL)
        left = gone(found)
        assert [p for p in left if victim == "engine" or not is_server(p, engine.pid)] == []
        engine.kill()
        assert gone(left) == []


def is_server(process: psutil.Process, engine: int) -> bool:
    """Is it the fork server, which ends with its engine? The runs forked from it have its command line, not its parent."""
    return process.ppid() == engine and "entry.py" in " ".join(_line(process))


def test_killing_the_engine_ends_judge_and_predictor(tmp_path: Path) -> None:
    files = {**wb.CLASSIFIER, "predict.py": WAITING_PREDICTOR}
    with start_engine(tmp_path, files, "judge") as engine:
        assert engine.stdout is not None and engine.stdout.readline() == b"trained\n"
        found = wait_for_tree(engine.pid, full_tree() - 2 if wb.best().prepared else 4, "entry.py")
        os.kill(engine.pid, signal.SIGKILL)
        assert gone(found) == []


def test_a_killed_engine_leaves_no_scratch_folder(tmp_path: Path) -> None:
    with start_engine(tmp_path, {**wb.CLASSIFIER, "train.py": CLINGING}, "train") as engine:
        found = wait_for_tree(engine.pid, full_tree())
        os.kill(engine.pid, signal.SIGKILL)
        assert gone(found) == []
    until = time.monotonic() + 3
    while list((tmp_path / "scratch").iterdir()) and time.monotonic() < until:
        time.sleep(0.05)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("stage", ["smoke", "train", "judge"])
def test_cancel_ends_a_run_within_a_second(tmp_path: Path, stage: str) -> None:
    bench = wb.classification(tmp_path)
    source = wb.write(tmp_path / "source", {**wb.CLASSIFIER, "predict.py": WAITING_PREDICTOR})
    cancel = threading.Event()
    judge_client.judge_server(bench)  # the engine's own, which stays
    if stage == "judge":
        run = judge_client.train(bench, source, 1, tmp_path / "out")
    else:
        wb.write(source, {"train.py": CLINGING})
    before = {p.pid for p in tree(os.getpid())}
    set_at: list[float] = []

    def set_when_started() -> None:
        wait_for_tree(os.getpid(), len(before) + (6 if bench.isolation.prepared else 4), "entry.py")
        time.sleep(0.3)
        set_at.append(time.monotonic())
        cancel.set()

    thread = threading.Thread(target=set_when_started)
    thread.start()
    if stage == "smoke":
        assert judge_client.smoke(bench, source, cancel).numbers["cause"] == "abandoned"
    elif stage == "train":
        result = judge_client.train(bench, source, 1, tmp_path / "out", cancel)
        assert (result.cause, result.facts.end) == ("abandoned", "infra")
    else:
        measured = judge_client.judge(
            bench, source, [(run, tmp_path / "out")], trial="t", purpose="screen", cancel=cancel
        )
        assert (measured.score, measured.per_seed[0].cause) == (None, "abandoned")
    assert time.monotonic() - set_at[0] < 1.0
    thread.join()
    assert {p.pid for p in tree(os.getpid())} <= before
    assert own_groups(wb.best().tools.cgroup) == set()


def test_groups_of_dead_supervisors_are_swept(tmp_path: Path) -> None:
    tools = wb.best().tools
    if not tools.cgroup:
        pytest.skip("no control groups here")
    with start_engine(tmp_path, {**wb.CLASSIFIER, "train.py": CLINGING}, "train") as engine:
        found = wait_for_tree(engine.pid, full_tree())
        supervisor = next(p for p in found if "sandbox.supervisor" in " ".join(_line(p)))
        left = list(Path(tools.cgroup["cpu"]).glob(f"{PREFIX}*-{supervisor.pid}-*"))
        assert left
        os.kill(supervisor.pid, signal.SIGKILL)  # it cannot clean up after itself
        assert [p for p in gone(found) if not is_server(p, engine.pid)] == []
        engine.kill()
        assert gone(found) == []
    assert wb.run(wb.classification(tmp_path / "next"), wb.CLASSIFIER, tmp_path / "r").cause is None
    assert not any(path.exists() for path in left)


def test_progress_is_heard_and_can_prune(tmp_path: Path) -> None:
    curve = """
import time
def train(data, out, seed, report):
    for step in range(100):
        report(step, 1.0 / (step + 1))
        time.sleep(0.21)
"""
    bench = wb.classification(tmp_path)
    source = wb.write(tmp_path / "source", {**wb.CLASSIFIER, "train.py": curve})
    heard: list[tuple[int, float]] = []

    def listen(step: int, value: float) -> bool:
        heard.append((step, value))
        return len(heard) == 3

    run = judge_client.train(bench, source, 1, tmp_path / "out", on_progress=listen)
    assert (run.cause, run.facts.end) == ("pruned", "pruned")
    assert heard[:3] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert json.loads(run.model_dump_json())["artifact"] is None
