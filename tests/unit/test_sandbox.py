"""The sandbox's layers: what is chosen, what is proven of it, and that honest code runs in every one."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import workbench as wb

from evaluators.judge.sandbox import available_layers, bubblewrap, kernel, prove_level, visible_packages
from evaluators.judge.sandbox.available_layers import Layers
from lineage.errors import IsolationRefused, SpecInvalid

ROOT = Path(__file__).resolve().parents[2]
CHOICES = available_layers.choices()[0]
REPORT = "import json\nfrom evaluators.judge.sandbox.prove_level import doctor_report\nprint(json.dumps(doctor_report()))\n"
BURNING = {
    "train.py": wb.CLASSIFIER["train.py"]
    + """
    import os, time
    if os.fork() == 0:
        if os.fork() == 0:
            end = time.thread_time() + 0.4
            while time.thread_time() < end: pass
            (out / "b").write_text("x")
        os._exit(0)
    while not (out / "b").exists(): time.sleep(0.02)
"""
}


def kind(tools: Layers) -> str:
    return "bubblewrap" if tools.bwrap else "landlock" if tools.landlock else "bare"


def in_program(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run in a fresh interpreter, which proves the sandbox anew."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("tools", CHOICES, ids=kind)
def test_an_honest_recipe_gets_the_same_score_in_every_sandbox(tools: Layers, tmp_path: Path) -> None:
    isolation = prove_level.Isolation(level="weak", layers=tools.names(), holds=(), not_held=(), tools=tools)
    outcome = wb.run(wb.classification(tmp_path, isolation), wb.CLASSIFIER, tmp_path / "r")
    assert outcome.cause is None, outcome
    assert outcome.score == pytest.approx(119 / 120)


@pytest.mark.parametrize("tools", CHOICES, ids=kind)
@pytest.mark.parametrize("grouped", [True, False], ids=["cgroup", "polling"])
def test_cpu_time_of_daemons_counts(tools: Layers, grouped: bool, tmp_path: Path) -> None:
    tools = tools if grouped else tools.model_copy(update={"cgroup": {}})
    isolation = prove_level.Isolation(level="weak", layers=(), holds=(), not_held=(), tools=tools)
    run = wb.run(wb.classification(tmp_path, isolation), {**wb.CLASSIFIER, **BURNING}, tmp_path / "r").run
    if not grouped and tools.seccomp:  # what /proc would miss cannot be started
        assert run.cause == "crash" and "PermissionError" in run.facts.exception
        return
    assert run.cause is None, run
    assert 0.35 <= run.facts.cpu_s < 1.5


@pytest.mark.parametrize("tools", CHOICES[:2], ids=kind)
def test_memory_is_capped_without_control_groups_too(tools: Layers, tmp_path: Path) -> None:
    hog = "import numpy as np, time\ndef train(d, o, seed):\n    x = np.ones(600 << 20, dtype=np.uint8)\n    time.sleep(3)\n"
    isolation = prove_level.Isolation(
        level="weak", layers=(), holds=(), not_held=(), tools=tools.model_copy(update={"cgroup": {}})
    )
    run = wb.run(
        wb.classification(tmp_path, isolation), {**wb.CLASSIFIER, "train.py": hog}, tmp_path / "r"
    ).run
    assert run.cause == "oom"
    assert run.facts.peak_bytes > 256 << 20


def test_with_bubblewrap_this_machine_is_strong() -> None:
    if not CHOICES[0].bwrap or not {"memory", "pids", "cpu"} <= set(CHOICES[0].cgroup):
        pytest.skip(f"not here: {available_layers.choices()[1] or 'no writable control groups'}")
    assert prove_level.best().level == "strong", prove_level.best().text()
    assert prove_level.best().not_held == ()


def test_without_bubblewrap_it_falls_back_and_says_so() -> None:
    done = in_program(REPORT, BAKEOFF_HIDE_BWRAP="1")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["level"] in ("medium", "weak")
    assert not any("bubblewrap" in name for name in report["layers"])
    assert any("bubblewrap" in line for line in report["advice"])
    assert report["not_held"]


def test_a_policy_above_what_is_proven_is_refused() -> None:
    code = "from evaluators.judge.sandbox.prove_level import prove\nprove('strong')\n"
    done = in_program(code, BAKEOFF_HIDE_BWRAP="1")
    assert done.returncode != 0
    assert "IsolationRefused" in done.stderr and "REFUSED" in done.stderr and "strong" in done.stderr
    with pytest.raises(IsolationRefused, match="unknown"):
        prove_level.prove("strongest")


def test_another_user_gets_a_sandbox_too() -> None:
    """As root: become uid 61000 where the interpreter's folder, often root's own, is made visible."""
    bwrap, setpriv = CHOICES[0].bwrap, shutil.which("setpriv")
    if os.geteuid() != 0 or not bwrap or not setpriv:
        pytest.skip(
            "needs root, bubblewrap and setpriv to become somebody else; otherwise every test is this one"
        )
    home = Path("/root")
    inside = [p for p in (sys.base_prefix, sys.prefix, str(ROOT)) if p.startswith("/root/")]
    view = [bwrap, "--dev-bind", "/", "/", "--perms", "755", "--tmpfs", str(home)]
    for path in inside:
        for parent in reversed(Path(path).relative_to(home).parents):
            view += ["--perms", "755", "--dir", str(home / parent)]
        view += ["--ro-bind", path, path]
    person = [setpriv, "--reuid", "61000", "--regid", "61000", "--clear-groups"]
    code = f"import sys\nsys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n" + (
        "import json, tempfile\nfrom pathlib import Path\nimport workbench as wb\n"
        "from evaluators.judge.sandbox.prove_level import doctor_report\n"
        "folder = Path(tempfile.mkdtemp())\n"
        "outcome = wb.run(wb.classification(folder), wb.CLASSIFIER, folder / 'r')\n"
        "print(json.dumps({**doctor_report(), 'cause': outcome.cause, 'score': outcome.score}))\n"
    )
    # not pytest's own folder, which another pytest that starts meanwhile closes to other users
    with tempfile.TemporaryDirectory(prefix="bakeoff-other-user-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o777)
        done = subprocess.run(
            [*view, "--chdir", "/", *person, sys.executable, "-c", code],
            env={"PATH": "/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["level"] in ("medium", "strong")
    assert report["cause"] is None and report["score"] == pytest.approx(119 / 120)


def test_levels_follow_from_what_held() -> None:
    first, second, third = set(prove_level.FIRST), set(prove_level.SECOND), set(prove_level.THIRD)
    assert prove_level.level_of(first | second | third) == "strong"
    assert prove_level.level_of(first | second) == "medium"
    for name in first:
        assert prove_level.level_of((first | second | third) - {name}) == "weak"
    for name in second | third:
        assert prove_level.level_of((first | second | third) - {name}) == "medium"


def test_an_attack_that_was_not_reported_counts_as_having_worked() -> None:
    held, missing = prove_level.properties({})
    assert held == () and set(missing) == {*prove_level.FIRST, *prove_level.SECOND, *prove_level.THIRD}
    every = {
        attack: False
        for tries in {**prove_level.FIRST, **prove_level.SECOND, **prove_level.THIRD}.values()
        for attack in tries
    }
    assert prove_level.properties(every)[1] == ()
    assert prove_level.properties({**every, "udp": True})[1] == ("no network",)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("alone", [True, False])
def test_the_filter_is_well_formed(machine: str, alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    rows = kernel.seccomp_program(alone=alone)
    assert rows[-1][0] == 0x06 and len(rows) < 4096
    for at, (code, yes, no, _) in enumerate(rows):
        if code in (0x15, 0x35, 0x45):
            assert at + 1 + max(yes, no) < len(rows)
    column = {"x86_64": 0, "aarch64": 1}[machine]
    numbers = [pair[column] for pair in kernel.DENIED.values() if pair[column] >= 0]
    assert len(numbers) == len(set(numbers))
    compared = {k for code, _, _, k in rows if code == 0x15}
    assert set(numbers) <= compared


def test_the_filter_is_refused_by_the_kernel_if_it_is_wrong() -> None:
    """The real kernel takes the program, and a denied call then fails."""
    code = (
        "from evaluators.judge.sandbox import kernel\nimport ctypes, os\nkernel.seccomp(alone=True)\n"
        "libc = ctypes.CDLL(None, use_errno=True)\nassert libc.unshare(0x10000000) == -1 and ctypes.get_errno() == 1\n"
        "import socket\ntry:\n    socket.socket()\nexcept PermissionError:\n    print('held')\n"
    )
    assert in_program(code).stdout.strip() == "held"


def test_only_allowed_packages_and_what_they_need_are_visible() -> None:
    seen = visible_packages.visible(("numpy",))
    names = {Path(path).name.split("-")[0].split(".")[0] for path in seen.paths}
    assert "numpy" in names and not names & {"torch", "sklearn", "pydantic", "evaluators", "flows"}
    assert (
        visible_packages.visible(("scikit-learn",), ("sklearn",)).paths
        != visible_packages.visible(("scikit-learn",)).paths
    )
    assert not any(
        path.endswith(".pth") for path in visible_packages.visible(("torch", "scikit-learn")).paths
    )
    with pytest.raises(SpecInvalid, match="no_such_package"):
        visible_packages.visible(("no_such_package",))


def test_the_candidate_is_given_no_writable_folder_and_no_variable_of_the_engine(tmp_path: Path) -> None:
    bench = wb.classification(tmp_path)
    limits = bubblewrap.limits_for(bench.spec.budget, 1, 1, writes=True)
    (tmp_path / "source").mkdir()
    made = bubblewrap.Box(
        mode="train",
        folder=str(tmp_path),
        source=str(tmp_path / "source"),
        fake=str(bench.data / "fake"),
        data=str(tmp_path / "staged"),
        packages=("numpy",),
        limits=limits,
    )
    wanted = bubblewrap.request(made, Layers(bwrap="/usr/bin/bwrap", seccomp=True))
    arguments = wanted["memory_files"][9].decode().split("\0")
    assert "--bind" not in arguments and "--dev-bind" not in arguments and "--share-net" not in arguments
    assert str(bench.data) not in " ".join(a for a in arguments if not a.endswith("fake"))
    assert "--clearenv" in arguments and arguments[arguments.index("--cap-drop") + 1] == "ALL"
    assert wanted["env"] == {"PATH": "/usr/bin:/bin"}
    inside = bubblewrap.environment(made, bubblewrap.INSIDE)
    assert not set(inside) & {"HOME_OF_ENGINE", "DECOY_API_KEY", "LD_PRELOAD"}
    assert inside["PYTHONPATH"] == "/bench/inside"
    assert str(tmp_path) not in " ".join(wanted["argv"])
