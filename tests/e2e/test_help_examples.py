"""Every example that `bakeoff COMMAND --help` gives really works."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import quick
import typer

from flows.cli import app

# The examples speak of the shipped environment and of a long campaign; here are a small one and a short one.
NAMES = {
    "airbench_mini": "quick",
    "opt": "training",
    "aug": "model",
    "--trials": "2",
    "--runs": "3",
    "--all": "2",
}
IN_A_CHILD = ("resume", "prepare", "doctor", "calibrate", "minimise", "replay", "fork")
SLOW = ("calibrate", "minimise", "replay", "fork")
# These need a server, a key, an object store or hours; the file named runs the command.
ELSEWHERE = {
    "run": "tests/e2e/conftest.py",
    "compare": "tests/e2e/test_compare.py",
    "apply runs/first best --git": "tests/e2e/test_found_sources.py",
    "adopt": "tests/e2e/test_adopted.py",
    "ask": "tests/e2e/test_llm_commands.py",
    "certify": "tests/e2e/test_certify.py",
    "verify certificate-t0011.json": "tests/e2e/test_certify.py",
    "stop": "tests/e2e/test_stop_waiting.py",
    "mcp": "tests/e2e/test_mcp_campaign.py",
    "ui": "tests/e2e/test_help_examples.py",
    "setup-server": "tests/e2e/test_deployed.py",
    "worker": "tests/e2e/test_deployed.py",
    "import": "tests/contract/test_released_runs.py",
    "prepare parameter_golf": "tests/unit/test_prepare_full.py",
    "report runs/first --serve": "tests/e2e/test_help_examples.py",
}


def commands(of: typer.Typer) -> Iterator[tuple[str, str]]:
    """(command, epilog) of everything that is registered."""
    for command in of.registered_commands:
        callback = command.callback
        yield command.name or (callback.__name__.replace("_", "-") if callback else ""), command.epilog or ""
    for group in of.registered_groups:
        for name, epilog in commands(group.typer_instance or typer.Typer()):
            yield f"{group.name} {name}", epilog


def examples() -> list[str]:
    """What stands after `bakeoff` in each example."""
    found = []
    for _, epilog in commands(app):
        for part in re.split(r" · |\n", epilog):
            match = re.search(r"\bbakeoff (.+?)(?:  \(.*)?$", part.strip())
            found += [match[1]] if match else []
    return found


def covered(example: str) -> str | None:
    return next((path for start, path in ELSEWHERE.items() if f"{example} ".startswith(f"{start} ")), None)


def test_every_command_has_an_example_of_itself() -> None:
    listed = dict(commands(app))
    assert len(listed) > 25
    for name, epilog in listed.items():
        assert f"bakeoff {name}" in epilog, f"{name}: no example in its --help"


def test_what_is_run_elsewhere_is_run_there() -> None:
    used = {path for example in examples() if (path := covered(example))}
    assert used == set(ELSEWHERE.values()), "an entry that no example needs"
    for start, path in ELSEWHERE.items():
        text = (quick.ROOT / path).read_text("utf-8")
        assert start.split()[-1].lstrip("-") in text or start.split()[0] in text, (
            f"{path} does not run {start}"
        )


@pytest.mark.parametrize("words", [("ui", "r"), ("report", "r", "--serve")])
def test_what_serves_says_where_and_ends_on_ctrl_c(
    words: tuple[str, ...], finished: tuple[Path, dict[str, str], object]
) -> None:
    folder, env, _ = finished
    child = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *words],
        env={**env, "PYTHONPATH": str(quick.ROOT), "PYTHONUNBUFFERED": "1"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert child.stdout is not None
    address = next(
        found for line in child.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+\S*", line))
    )
    with urllib.request.urlopen(address[0], timeout=30) as page:
        assert page.status == 200 and b"<html" in page.read().lower()
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=30)[0]
    assert child.returncode in (0, 130) and "Traceback" not in said


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(e, marks=[pytest.mark.slow] if e.startswith(SLOW) else [])
        for e in examples()
        if covered(e) is None
    ],
)
def test_the_example_works(
    example: str, finished: tuple[Path, dict[str, str], object], tmp_path: Path
) -> None:
    source, env, _ = finished
    shutil.copytree(source / "r", tmp_path / "runs" / "first")
    rows = pd.read_parquet(tmp_path / "runs" / "first" / "lineage")
    scored = rows[(rows["event"] == "trial") & rows["score"].notna() & (rows["trial"] != "t0000")]["trial"]
    words = shlex.split(example)
    for n, word in enumerate(words):
        before = words[n - 1] if n else ""
        if not word.startswith("--"):
            words[n] = NAMES.get(before if before.startswith("--") else word, NAMES.get(word, word))
        words[n] = re.sub(r"^t\d{4}$", scored.iloc[0], words[n])
        words[n] = words[n].replace("recipes/airbench_mini/source", "mine")
    words = [word.replace("~", str(tmp_path)) for word in words]
    if words[0] in IN_A_CHILD:
        done = quick.bakeoff(*words, env=env, cwd=tmp_path, check=False)
    else:
        done = quick.call(*words, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
