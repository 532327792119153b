"""Campaigns on machines where bubblewrap cannot work: through the command line, in children that the kernel refuses.

The default suite walks the smallest environment; the matrix of the minis over the machines is slow (minutes each).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import quick

from evaluators.judge.sandbox import available_layers, kernel

BWRAP = next((tools.bwrap for tools in available_layers.choices()[0] if tools.bwrap), "")
REFUSED = [sys.executable, str(quick.ROOT / "tests" / "no_userns.py")]
MINIS = ("airbench_mini", "golf_mini", "nanochat_mini")
MACHINES = ("hidden", "refused", "refused-user", "refused-no-cgroup", "user", "no-cgroup")

pytestmark = pytest.mark.skipif(
    not kernel.landlock_abi() or not available_layers.seccomp_known(),
    reason="without bubblewrap medium isolation needs landlock and seccomp",
)


def failing_bwrap(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "bwrap"
    path.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    path.chmod(0o755)
    return folder


def machine(name: str, env: dict[str, str], folder: Path) -> tuple[list[str], dict[str, str]]:
    """The words in front of a command, and the environment, that make this machine the one named."""
    front: list[str] = []
    env = {**env, "PATH": f"{failing_bwrap(folder / 'bin')}:{env['PATH']}"}
    if "user" in name or "no-cgroup" in name:
        if os.geteuid() != 0 or not BWRAP or not shutil.which("setpriv"):
            pytest.skip("needs root, bubblewrap and setpriv to become another machine")
        front += [BWRAP, "--dev-bind", "/", "/"]
        if "no-cgroup" in name:
            front += ["--ro-bind", "/sys/fs/cgroup", "/sys/fs/cgroup"]
        else:
            front += _reachable()
            for path in [folder, *folder.rglob("*")]:
                os.chown(path, 61000, 61000)
            for parent in folder.parents[:2]:
                parent.chmod(0o755)
            front += ["setpriv", "--reuid", "61000", "--regid", "61000", "--clear-groups"]
    if "refused" in name:
        front += REFUSED
    return front, {**env, **({"BAKEOFF_HIDE_BWRAP": "1"} if name == "hidden" else {})}


def _reachable() -> list[str]:
    """Root's home as another user can pass through it, with the interpreter and the checkout in their places."""
    home = Path("/root")
    view = ["--perms", "755", "--tmpfs", str(home)]
    for path in {sys.base_prefix, sys.prefix, str(quick.ROOT)}:
        if path.startswith(f"{home}/"):
            for parent in reversed(Path(path).relative_to(home).parents):
                view += ["--perms", "755", "--dir", str(home / parent)]
            view += ["--ro-bind", path, path]
    return view


def bakeoff(
    name: str, folder: Path, env: dict[str, str], *words: str, timeout: float = 540
) -> subprocess.CompletedProcess[str]:
    front, env = machine(name, env, folder)
    return subprocess.run(
        [*front, sys.executable, "-m", "flows.cli", *words],
        env={**env, "PYTHONPATH": str(quick.ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def shown(folder: Path, env: dict[str, str]) -> dict[str, object]:
    out = quick.call("show", str(folder / "r"), "--json", env=env, cwd=folder).stdout
    found: dict[str, object] = json.loads(out)
    return found


@pytest.mark.timeout(600)
def test_a_campaign_where_user_namespaces_are_refused_runs_at_medium_and_says_so(tmp_path: Path) -> None:
    quick.make(tmp_path / "recipes")
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    quick.bakeoff("prepare", "quick", env=env, cwd=tmp_path)
    done = bakeoff(
        "refused", tmp_path, env, "run", "quick", "--run", "r", "--trials", "1", "--no-confirm", "--plain"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first = "\n".join(done.stderr.splitlines()[:10])
    assert "isolation proven: medium" in first
    assert first.count("weaker here than strong: ") == 1 and "no /dev/shm" in first
    assert re.search(
        r"to make it stronger: (docker run --security-opt seccomp=unconfined|sudo sysctl)", first
    )
    assert '"medium"' in json.dumps(shown(tmp_path, env))


def test_an_environment_whose_ranks_talk_is_refused_there_before_anything_is_written(tmp_path: Path) -> None:
    path = quick.make(tmp_path / "recipes") / "environment.toml"
    path.write_text(path.read_text().replace("[budget]\n", "[budget]\ndistributed = true\n", 1))
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    quick.bakeoff("prepare", "quick", env=env, cwd=tmp_path)
    done = bakeoff("refused", tmp_path, env, "run", "quick", "--run", "r", "--trials", "1")
    assert done.returncode == 6, done.stdout + done.stderr
    assert "loopback" in done.stderr and "REFUSED" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "r").exists()


def test_doctor_lists_accelerators(tmp_path: Path) -> None:
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    report = json.loads(bakeoff("refused", tmp_path, env, "doctor", "--json").stdout)
    assert report["level"] == "medium"
    assert isinstance(report["accelerators"], list)


def few_runs(mini: str, folder: Path) -> None:
    """The mini as it is, but for how many runs decide."""
    shutil.copytree(quick.ROOT / "recipes", folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / mini / "environment.toml"
    runs = {"runs": 1, "confirm_runs": 2, "max_confirm_runs": 2, "calibrate_runs": 3}
    text = path.read_text()
    for key, value in runs.items():
        text = re.sub(rf"(?m)^{key} = \d+", f"{key} = {value}", text)
    path.write_text(text)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("mini", MINIS)
def test_every_mini_runs_a_trial_on_every_machine(mini: str, name: str, tmp_path: Path) -> None:
    few_runs(mini, tmp_path / "recipes")
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    quick.bakeoff("prepare", mini, env=env, cwd=tmp_path, timeout=600)
    words = ("run", mini, "--run", "r", "--trials", "1", "--slots", "1", "--no-confirm", "--plain")
    done = bakeoff(name, tmp_path, env, *words, timeout=1100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"t0000: baseline [\d.]+", done.stdout), done.stdout
    assert re.search(
        r"t0001 \w+: (keep|discard|disqualified|size_blocked|crash|preflight_crash)", done.stdout
    )
    assert re.search(r"isolation proven: (medium|strong)", done.stderr)
    if name in ("hidden", "refused", "refused-user", "refused-no-cgroup"):
        assert "isolation proven: medium" in done.stderr
