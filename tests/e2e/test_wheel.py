"""An installation from a wheel, in a folder without a checkout: recipes, template, judge and report come with it."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
import quick

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bakeoff` of a virtual environment that has the wheel, and the packages of this one by a path."""
    folder = tmp_path_factory.mktemp("wheel")
    before = {path.name for path in ROOT.iterdir()}
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
    ]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, cwd=folder)
    assert {path.name for path in ROOT.iterdir()} - before <= {"bakeoff.egg-info"}, (
        "a build leaves no folder behind"
    )
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    site = next((folder / "venv" / "lib").glob("python3*/site-packages"))
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    (wheel,) = folder.glob("*.whl")
    python = str(folder / "venv" / "bin" / "python")
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", str(wheel)], check=True
    )
    return folder / "venv" / "bin" / "bakeoff"


@pytest.mark.slow
def test_the_demo_needs_nothing_but_the_wheel(installed: Path, tmp_path: Path) -> None:
    """In an environment without torch or any other package; the page is there within seconds."""
    (wheel,) = installed.parents[2].glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    tools = tmp_path / "venv" / "bin"
    subprocess.run([str(tools / "pip"), "install", "-q", "--no-deps", str(wheel)], check=True)
    began = time.monotonic()
    done = subprocess.run(
        [str(tools / "bakeoff"), "demo", "--no-browser"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 10
    page = Path(re.search(r"open it in a browser: (\S+)", done.stdout)[1])  # type: ignore[index]
    text = page.read_text("utf-8")
    assert "Confirmed on fresh seeds" in text and str(tmp_path) in str(page)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_recipe_of_ones_own_from_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")

    def bakeoff(*arguments: str) -> str:
        done = subprocess.run(
            [str(installed), *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    where = [str(installed.with_name("python")), "-P", "-c", "import flows; print(flows.__file__)"]
    assert (
        str(installed.parents[1])
        in subprocess.run(where, capture_output=True, text=True, cwd=tmp_path).stdout
    )
    listed = bakeoff("environments")
    assert all(name in listed for name in ("airbench_mini", "golf_mini", "nanochat_mini"))
    bakeoff("new-environment", "my_idea")
    bakeoff("prepare", "my_idea")
    bakeoff("run", "my_idea", "--run", "first", "--trials", "2", "--no-confirm", "--plain")
    assert "every hash and chain holds" in bakeoff("verify", "first")
    assert (tmp_path / "first" / "reports").is_dir()
