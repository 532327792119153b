"""A recipe in its own Python: other versions, packages of its own, an editable install, a compiler at run time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from unittest import mock

import git_lab
import pytest
import quick

from evaluators.judge.judge_client import Bench, judge, smoke, train
from evaluators.judge.sandbox import interpreters, visible_packages
from evaluators.judge.sandbox.prove_level import best
from flows.environments.loading import read_environment
from flows.environments.prepared_data import prepare
from flows.environments.repository_data import prepare_in_place
from lineage.errors import SpecInvalid
from lineage.records import Edit, Proposal, TrainRun

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
NEWER_AND_OLDER = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
TOML = """\
schema_version = 1
name = "NAME"
title = "A small script"
description = "Prints how far a number is from a target."
packages = PACKAGES

[runtime]
python = ".venv/bin/python"
BUILD
[score]
metric = "loss"
direction = "min"
unit = ""

[budget]
train_cpu_s = 20
train_wall_s = 60
predict_cpu_s = 10
predict_wall_s = 60
memory_mb = 1024
artifact_bytes = 100_000
source_bytes = 100_000
processes = 32

[evaluation]
runs = 1
confirm_runs = 2
max_confirm_runs = 2
calibrate_runs = 3

[[surfaces]]
name = "all"
title = "everything"
units = UNITS

[task]
kind = "script"
train = "python train.py {seed}"

[[task.metrics]]
name = "loss"
pattern = 'loss ([0-9.]+)'
"""
TRAIN = """\
import random
import sys
from concurrent.futures import ThreadPoolExecutor

RATE = 0.5

pool = ThreadPoolExecutor(2)  # nobody ends it: the interpreter does
pool.submit(sys.getrefcount, pool)
rng = random.Random(int(sys.argv[1]))
print("python", ".".join(map(str, sys.version_info[:2])), "of", sys.implementation.name)
print(f"loss {abs(RATE - 0.3) + 0.01 * rng.random():.6f}")
"""


def found(version: str) -> str:
    """An interpreter of that version on this machine; empty without one."""
    places = [*Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), shutil.which(f"python{version}")]
    places += list(Path.home().glob(f".local/share/uv/python/cpython-{version}*/bin/python3"))
    return next((str(place) for place in places if place), "")


def environment(folder: Path, base: str, name: str = "own", packages: str = "[]", units: str = "", build: bool = False,
                files: dict[str, str] | None = None) -> Path:  # fmt: skip
    """An environment with a virtual environment beside it, made from `base` and with nothing installed."""
    place = folder / name
    for path, text in (files or {"train.py": TRAIN}).items():
        target = place / "source" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
    text = TOML.replace("NAME", name).replace("PACKAGES", packages).replace("BUILD", "build = true\n" * build)
    (place / "environment.toml").write_text(text.replace("UNITS", units or '{ "train.py" = ["*"] }'), "utf-8")
    (place / "roles").mkdir()
    (place / "roles/all.md").write_text('+++\nsurfaces = ["all"]\n+++\nBetter.\n', "utf-8")
    subprocess.run([base, "-m", "venv", "--without-pip", str(place / ".venv")], check=True)
    return place


def run(place: Path, folder: Path) -> TrainRun:
    """One training of the start, as a trial's."""
    made = read_environment(place)
    prepare_in_place(made.spec.name, made.spec.task, place / "source", folder / "data")
    bench = Bench(made.spec, folder / "data", best(), folder / "scratch", start=made.source())
    return train(bench, place / "source", 7, folder / "artifact")


@pytest.mark.parametrize("version", NEWER_AND_OLDER)
def test_a_recipe_runs_in_the_python_that_it_names(version: str, tmp_path: Path) -> None:
    base = found(version) if version != HERE else sys.executable
    if not base:
        pytest.skip(f"no Python {version} on this machine")
    place = environment(tmp_path, base)
    assert read_environment(place).spec.runtime.version.startswith(f"{version}.")
    done = run(place, tmp_path)
    assert done.cause is None, done.facts.log_tail
    assert f"python {version} of cpython" in done.facts.log_tail


def other() -> str:
    """Another Python than this one, or this one where there is no other."""
    return next(
        (base for version in NEWER_AND_OLDER if version != HERE and (base := found(version))), sys.executable
    )


def site(place: Path) -> Path:
    return next((place / ".venv/lib").glob("python*/site-packages"))


def editable(place: Path, library: Path) -> None:
    """What `pip install -e` leaves: a .pth file, and metadata that name it."""
    (library / "src/toolkit").mkdir(parents=True)
    (library / "src/toolkit/__init__.py").write_text("TARGET = 0.3\n")
    (library / "src/unrelated.txt").write_text("not a module\n")
    folder = site(place)
    (folder / "__editable__.toolkit-1.0.pth").write_text(f"{library / 'src'}\n")
    info = folder / "toolkit-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toolkit\nVersion: 1.0\n")
    (info / "RECORD").write_text("__editable__.toolkit-1.0.pth,,\ntoolkit-1.0.dist-info/METADATA,,\n")
    (info / "top_level.txt").write_text("toolkit\n")


NEEDS = (
    TRAIN.replace(
        "import sys\n", "import sys\nfrom importlib.metadata import version\n\nimport toolkit\n"
    ).replace("0.3)", "toolkit.TARGET)")
    + 'print("toolkit", version("toolkit"))\n'
)


@pytest.mark.slow  # a minute: a campaign
@pytest.mark.parametrize("maker", ["venv", "uv"])
def test_from_a_clone_with_its_own_python_to_a_branch_of_it(maker: str, tmp_path: Path) -> None:
    """adopt, run, apply --git: the repository's virtual environment is used, an editable install in it included."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "train.py").write_text(NEEDS)
    (project / ".gitignore").write_text(".venv/\n")
    git_lab.commit(project)
    make = [other(), "-m", "venv", "--without-pip"]
    if maker == "uv":
        uv = shutil.which("uv")
        if uv is None:
            pytest.skip("no uv on PATH: pip install uv")
        make = [uv, "venv", "--quiet", "--python", other()]
    subprocess.run([*make, str(project / ".venv")], check=True)
    editable(project, tmp_path / "library")
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    told = (
        "--train",
        "python train.py {seed}",
        "--metric",
        "loss ([0-9.]+)",
        "--direction",
        "min",
        "--runs",
        "2",
        "--yes",
    )
    adopted = quick.bakeoff("adopt", str(project), *told, env=env, cwd=tmp_path)
    assert "python     .venv/bin/python" in adopted.stdout and "packages   toolkit" in adopted.stdout
    quick.bakeoff("run", "project", "--trials", "3", "--run", "run", env=env, cwd=tmp_path)
    trials = [
        json.loads(quick.call("show", "run", f"t000{n}", "--json", env=env, cwd=tmp_path).stdout)
        for n in range(4)
    ]
    scores = [trial["score"] for trial in trials]
    assert scores[0] == pytest.approx(0.2, abs=0.02)
    changed = next(n for n in range(1, 4) if scores[n] is not None and abs(scores[n] - scores[0]) > 0.02)
    done = quick.call(
        "apply", "run", f"t000{changed}", "--git", str(project), "--branch", "better", env=env, cwd=tmp_path
    )
    assert done.returncode == 0 and "(where the campaign began)" in done.stdout, done.stderr
    assert "+RATE = " in git_lab.git(project, "diff", "HEAD", "better")


def test_an_editable_install_that_is_not_named_is_not_there(tmp_path: Path) -> None:
    place = environment(tmp_path, other(), files={"train.py": NEEDS})
    editable(place, tmp_path / "library")
    done = run(place, tmp_path)
    assert done.cause == "crash" and "No module named 'toolkit'" in done.facts.exception
    python = str(place / ".venv/bin/python")
    seen = visible_packages.visible(("toolkit",), (), python)
    assert str(tmp_path / "library/src/toolkit") in seen.paths
    assert not any("unrelated" in path for path in seen.paths)


def test_packages_of_its_own_and_none_of_bakeoffs(tmp_path: Path) -> None:
    """The template, with an environment that has numpy alone: its arrays are asked for and judged as ever."""
    place = quick.make(tmp_path)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / ".venv")], check=True)
    for file in {
        str(file.parts[0]) for file in metadata.files("numpy") or [] if file.parts[0] not in ("..", "bin")
    }:
        (site(place) / file).symlink_to(Path(str(metadata.distribution("numpy").locate_file(file))))
    with mock.patch.dict(os.environ, quick.environ(tmp_path / "home", tmp_path)):
        data = prepare(read_environment(place), quiet=True)  # by Bakeoff's own, which has the digits
        settings = place / "environment.toml"
        settings.write_text(
            settings.read_text("utf-8") + '\n[runtime]\npython = ".venv/bin/python"\n', "utf-8"
        )
        spec, source = read_environment(place).spec, place / "source"
        bench = Bench(spec, data, best(), tmp_path / "scratch", start=read_environment(place).source())
        checked = smoke(bench, source)
        assert checked.passed, checked.detail
        trained = train(bench, source, 7, tmp_path / "artifact")
        found = judge(bench, source, [(trained, tmp_path / "artifact")], trial="t0", purpose="screen")
    assert found.score is not None and found.score > 0.8
    python = interpreters.python_of(spec.runtime.python)
    assert python.own == (str(site(place).resolve()),)
    assert all(
        path.startswith(python.own) for path in visible_packages.visible(("numpy",), (), python.named).paths
    )
    with pytest.raises(SpecInvalid, match=r"'torch' is not installed beside .*\.venv/bin/python"):
        visible_packages.visible(("torch",), (), python.named)


EXTENSION = r"""
#include <Python.h>
static const double rate = 0.5;
static PyObject *value(PyObject *, PyObject *) { return PyFloat_FromDouble(rate); }
static PyMethodDef methods[] = {{"value", value, METH_NOARGS, 0}, {0, 0, 0, 0}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "step", 0, -1, methods, 0, 0, 0, 0};
PyMODINIT_FUNC PyInit_step(void) { return PyModule_Create(&module); }
"""
BUILDS = """\
import os
import subprocess
import sys
import sysconfig

folder = os.environ["TMPDIR"]
target = os.path.join(folder, "step.so")
include = sysconfig.get_paths()["include"]
subprocess.run(["g++", "-shared", "-fPIC", "-O1", f"-I{include}", "ops/step.cpp", "-o", target], check=True)
sys.path.insert(0, folder)
import step

print(f"loss {abs(step.value() - 0.3) + int(sys.argv[1]) % 97 / 1e6:.6f}")
"""


@pytest.mark.slow  # 40 s: a campaign that compiles
def test_a_campaign_that_edits_a_c_plus_plus_file_which_is_built_in_the_sandbox(tmp_path: Path) -> None:
    if not shutil.which("g++") or not best().tools.counts_cpu:
        pytest.skip("needs g++, and a sandbox in which a run may start processes")
    base = next((b for v in NEWER_AND_OLDER if (b := found(v)) and headers(b)), "")
    if not base:
        pytest.skip("no Python with its headers on this machine")
    files = {"train.py": BUILDS, "ops/step.cpp": EXTENSION}
    environment(tmp_path / "recipes", base, build=True, units='{ "ops/step.cpp" = ["*"] }', files=files)
    edits = [(0.4, "nearer"), (0.31, "nearer still"), (0.9, "farther")]
    script = [
        Proposal(role="all", proposer="", parent="t0000", hypothesis=why,
                 edits=(Edit(path="ops/step.cpp", search="rate = 0.5;", replace=f"rate = {rate};"),)).model_dump()
        for rate, why in edits
    ]  # fmt: skip
    (tmp_path / "script.json").write_text(json.dumps(script), "utf-8")
    (tmp_path / "run.toml").write_text(
        '[campaign]\nproposer = "scripted"\nscript = "script.json"\nconfirm = false\n'
    )
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    quick.bakeoff("prepare", "own", env=env, cwd=tmp_path)
    quick.bakeoff(
        "run", "own", "--trials", "3", "--run", "run", "--config", "run.toml", env=env, cwd=tmp_path
    )
    scores = [
        json.loads(quick.call("show", "run", f"t000{n}", "--json", env=env, cwd=tmp_path).stdout)["score"]
        for n in range(4)
    ]
    assert scores == [pytest.approx(abs(rate - 0.3), abs=2e-4) for rate in (0.5, 0.4, 0.31, 0.9)]

    reduced = quick.bakeoff("apply", "run", "t0002", "--minimised", "--to", "out", env=env, cwd=tmp_path)
    assert "out/ops/step.cpp" in reduced.stdout
    assert "rate = 0.31;" in (tmp_path / "out/ops/step.cpp").read_text("utf-8")


def headers(base: str) -> bool:
    code = "import os, sysconfig; print(os.path.exists(sysconfig.get_paths()['include'] + '/Python.h'))"
    told = subprocess.run([base, "-c", code], capture_output=True, text=True, check=False)
    return told.stdout.strip() == "True"


@pytest.mark.parametrize(
    ("python", "words"),
    [
        (".venv/bin/pyton", "no .venv/bin/pyton in"),
        ("source/train.py", "does not start as a Python"),
    ],
)
def test_an_interpreter_that_cannot_be_used_is_one_sentence(python: str, words: str, tmp_path: Path) -> None:
    place = environment(tmp_path, sys.executable)
    settings = place / "environment.toml"
    settings.write_text(settings.read_text("utf-8").replace(".venv/bin/python", python), "utf-8")
    env = quick.environ(tmp_path / "home", tmp_path)
    done = quick.call("calibrate", "own", env=env, cwd=tmp_path)
    assert (
        done.returncode == 2
        and words in " ".join(done.stderr.split())
        and os.linesep not in done.stderr.strip()
    )


COMPILES = """\
import torch


@torch.compile
def f(x):
    return (x.sin() * 0.5 + x.cos()).sum()


print("value", round(float(f(torch.ones(64))), 3))
print("loss 0.5")
"""
EXTENDS = """\
import torch
from torch.utils.cpp_extension import load_inline

twice = load_inline("twice", "torch::Tensor twice(torch::Tensor x) { return x * 2; }", functions=["twice"])
print("value", twice.twice(torch.ones(2)).tolist())
print("loss 0.5")
"""


def with_bakeoffs_python(place: Path) -> None:
    """Bakeoff's own interpreter, which has torch; and room for it."""
    settings = place / "environment.toml"
    text = settings.read_text("utf-8").replace('python = ".venv/bin/python"\n', "")
    for old, new in (
        ("memory_mb = 1024", "memory_mb = 4096"),
        ("_cpu_s = 20", "_cpu_s = 300"),
        ("_wall_s = 60", "_wall_s = 600"),
    ):
        text = text.replace(old, new)
    settings.write_text(text, "utf-8")


@pytest.mark.slow  # 20 to 40 s: a compiler
@pytest.mark.timeout(700)
@pytest.mark.parametrize(
    ("text", "value"), [(COMPILES, "61.506"), (EXTENDS, "[2.0, 2.0]")], ids=["compile", "extension"]
)
def test_torch_compiles_in_the_sandbox_where_the_environment_asks_for_it(
    text: str, value: str, tmp_path: Path
) -> None:
    if not shutil.which("g++") or not best().tools.counts_cpu or not headers(sys.executable):
        pytest.skip("needs g++, Python's headers, and a sandbox in which a run may start processes")
    place = environment(
        tmp_path, sys.executable, packages='["torch", "setuptools"]', build=True, files={"train.py": text}
    )
    with_bakeoffs_python(place)
    done = run(place, tmp_path)
    assert done.cause is None, done.facts.log_tail
    assert f"value {value}" in done.facts.log_tail


TRANSFORMER = """\
import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel

RATE = 1e-3
STEPS = 5

torch.manual_seed(int(sys.argv[1]))
shape = {"vocab_size": 32, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0))
optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
x = torch.arange(64).reshape(4, 16) % 32
for _ in range(STEPS):
    loss = model(input_ids=x, labels=x).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print(f"loss {loss.item():.4f}")
"""


@pytest.mark.slow  # a minute: a campaign, 4 s a run
@pytest.mark.timeout(700)
def test_a_campaign_with_a_small_transformer_from_a_config(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    place = environment(
        tmp_path / "recipes",
        sys.executable,
        packages='["torch", "transformers"]',
        files={"train.py": TRANSFORMER},
    )
    with_bakeoffs_python(place)
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    quick.bakeoff("prepare", "own", env=env, cwd=tmp_path)
    quick.bakeoff("run", "own", "--trials", "3", "--run", "run", env=env, cwd=tmp_path, timeout=600)
    scores = [
        json.loads(quick.call("show", "run", f"t000{n}", "--json", env=env, cwd=tmp_path).stdout)["score"]
        for n in range(4)
    ]
    assert scores[0] is not None and 3.0 < scores[0] < 4.0
    assert any(score is not None and abs(score - scores[0]) > 0.02 for score in scores[1:]), scores
