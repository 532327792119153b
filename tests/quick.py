"""A small real environment for tests of the engine: the template, with few runs per measurement.

`make(folder)` copies `recipes/_template`, so what the tests drive is what a user copies. One run costs
about a tenth of a CPU second; nothing in it is fake but its size.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

if TYPE_CHECKING:
    from flows.engine.engine import Engine

ROOT = Path(__file__).resolve().parents[1]
NAME = "quick"
# a start that reports its training curve, and the settings under which curves may end runs
PRUNING = 'min_gain = 0.002\nprune = "lower"\nprune_surfaces = ["model"]\n'
REPORTING = (
    ("fitting.py", "import numpy as np\n", "import time\n\nimport numpy as np\n"),
    ("fitting.py", "np.random.Generator) ->", "np.random.Generator, report=None) ->"),
    ("fitting.py", "STEPS = 300", "STEPS = 6_000"),
    ("fitting.py", "for _ in range", "for step in range"),
    (
        "fitting.py",
        "        for name,",
        "        if report is not None and step % 500 == 499:\n"
        "            report(step, float((error**2).sum()))\n"
        "            time.sleep(0.22)  # curves are heard at most 5 times a second\n        for name,",
    ),
    ("train.py", "seed: int) ->", "seed: int, report=None) ->"),
    ("train.py", "default_rng(seed))", "default_rng(seed), report)"),
)
RUNS = {"runs": 2, "confirm_runs": 3, "max_confirm_runs": 5, "calibrate_runs": 3}


def make(folder: Path, name: str = NAME) -> Path:
    """Copy the template as environment `name` under `folder`; returns its directory."""
    target = folder / name
    shutil.copytree(ROOT / "recipes" / "_template", target, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(
        ROOT / "recipes" / "_common", folder / "_common", ignore=shutil.ignore_patterns("__pycache__")
    )
    path = target / "environment.toml"
    text = path.read_text("utf-8").replace('name = "template"', f'name = "{name}"')
    for key, value in RUNS.items():
        text, found = re.subn(rf"(?m)^{key} = \d+", f"{key} = {value}", text)
        assert found == 1, key
    path.write_text(text, "utf-8")
    return target


_HOMES: list[Path] = []


def _lend_database(home: Path) -> None:
    """Copy the migrated, empty Prefect database that an earlier test's home has: migrations cost 10 s."""
    for template in (path for earlier in _HOMES for path in (earlier / "prefect").glob("template-*.db")):
        (home / "prefect").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(template, home / "prefect" / template.name)
        return
    _HOMES.append(home)


def environ(home: Path, recipes: Path) -> dict[str, str]:
    """Environment of a child: nothing of the developer's, a home of its own."""
    _lend_database(home / "bakeoff")
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "BAKEOFF_HOME": str(home / "bakeoff"),
        "BAKEOFF_RECIPES": str(recipes),
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }


def bakeoff(
    *arguments: str, env: dict[str, str], cwd: Path, check: bool = True, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a child, as a user would."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        env={**env, "PYTHONPATH": str(ROOT)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    if check and done.returncode != 0:
        raise AssertionError(
            f"bakeoff {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
    return done


def call(*arguments: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same in this process, for commands that only read: saves a second of start-up each."""
    from flows import cli

    out, err, before = io.StringIO(), io.StringIO(), (dict(os.environ), Path.cwd(), sys.argv)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["bakeoff", *arguments]
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as end:
        code = end.code
    finally:
        os.environ.clear()
        os.environ.update(before[0])
        os.chdir(before[1])
        sys.argv = before[2]
    number = code if isinstance(code, int) else int(code is not None)
    return subprocess.CompletedProcess(["bakeoff", *arguments], number, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def engine(folder: Path, root: str = "", **settings: object) -> Iterator[Engine]:
    """The engine of a fresh campaign in this process, with nothing in its lineage yet."""
    from flows.campaign.run_on_this_machine import create_campaign
    from flows.engine.engine import close_engine, engine_for
    from flows.engine.settings import load_settings
    from flows.environments.loading import load_environment
    from flows.environments.prepared_data import prepare

    make(folder / "recipes")
    with mock.patch.dict(os.environ, environ(folder / "home", folder / "recipes")):
        prepare(load_environment(NAME), quiet=True)
        chosen, _ = load_settings({"environment": NAME, **settings}, env={})
        root = root or str(folder / "run")
        campaign = create_campaign(root, chosen).id
        try:
            yield engine_for(root, campaign)
        finally:
            close_engine(root, campaign)
