"""Recipes as projects have them, by commands alone: sub-packages, CRLF and a BOM, a YAML file as the only surface."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import quick

SURFACES = """[[surfaces]]
name = "settings"
title = "Every number of the training"
units = { "config.yaml" = ["train.*"] }
"""
CONFIG = "# settings of the run\r\ntrain:\r\n  steps: 300  # passes\r\n  batch: 50\r\n  lr: 0.1\r\n  decay: 1.0e-3\r\nname: digits \u26a0\ufe0f\r\n"
LOADED = """from pathlib import Path

import yaml

_SET = yaml.safe_load(Path(__file__).with_name("config.yaml").read_text("utf-8"))["train"]
STEPS, BATCH, LR, WEIGHT_DECAY = (_SET[name] for name in ("steps", "batch", "lr", "decay"))
"""


def git(folder: Path, *arguments: str) -> str:
    whose = ["-c", "user.name=Ada", "-c", "user.email=ada@localhost"]
    done = subprocess.run(
        ["git", "-C", str(folder), *whose, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def windows(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def project(recipes: Path) -> Path:
    """The template as somebody's project from Windows: a package, a settings file, what editors leave behind."""
    made = quick.make(recipes)
    source = made / "source"
    (source / "parts").mkdir()
    (source / "parts/__init__.py").write_text("")
    for name in ("model.py", "fitting.py"):
        text = (
            (source / name)
            .read_text("utf-8")
            .replace("import model\n", "from . import model\nfrom .settings import *\n")
        )
        (source / "parts" / name).write_text(
            re.sub(r"(?m)^(STEPS|BATCH|LR|WEIGHT_DECAY) = .*\n", "", text), "utf-8"
        )
        (source / name).unlink()
    (source / "parts/settings.py").write_text(LOADED.replace("with_name", "parents[1].joinpath"), "utf-8")
    for name in ("train.py", "predict.py"):
        text = (source / name).read_text("utf-8")
        text = text.replace("import fitting", "from parts import fitting").replace(
            "import model", "from parts import model"
        )
        (source / name).write_text("\ufeff" + text, "utf-8")
    for path in source.rglob("*.py"):
        windows(path)
    (source / "config.yaml").write_bytes(CONFIG.encode())
    (source / ".DS_Store").write_bytes(b"\0\1")
    (source / "train.py~").write_bytes(b"old")
    settings = made / "environment.toml"
    text = settings.read_text("utf-8").replace('packages = ["numpy"]', 'packages = ["numpy", "yaml"]')
    settings.write_bytes(b"\xef\xbb\xbf" + (text[: text.index("# Surfaces must not")] + SURFACES).encode())
    for brief in (made / "roles").glob("*.md"):
        brief.unlink()
    (made / "roles/settings.md").write_bytes(
        b'\xef\xbb\xbf+++\r\nsurfaces = ["settings"]\r\n+++\r\nNumbers.\n'
    )
    return made


@pytest.mark.slow  # 30 s: a campaign
def test_a_project_from_windows_with_a_yaml_file_as_its_only_surface(tmp_path: Path) -> None:
    made = project(tmp_path / "recipes")
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    quick.bakeoff("prepare", quick.NAME, env=env, cwd=tmp_path)
    (tmp_path / "recipes/.gitattributes").write_text("* -text\n")
    git(tmp_path / "recipes", "init", "-q", "-b", "main")
    git(tmp_path / "recipes", "add", "-A")
    git(tmp_path / "recipes", "commit", "-qm", "the project")
    began = git(tmp_path / "recipes", "rev-parse", "HEAD")
    done = quick.bakeoff("run", quick.NAME, "--trials", "3", "--run", "run", env=env, cwd=tmp_path)
    assert "left out, not source: .DS_Store, train.py~" in done.stderr
    rows = quick.call("show", "run", "--json", env=env, cwd=tmp_path).stdout
    assert "rejected" not in rows and "outside_surface" not in rows
    diff = quick.call("diff", "run", "t0001", env=env, cwd=tmp_path).stdout
    assert "+++ b/config.yaml" in diff and re.search(r"(?m)^\+  (steps|batch|lr|decay): ", diff)
    quick.call("apply", "run", "t0001", "--to", "out", env=env, cwd=tmp_path)
    start, end = (
        CONFIG.encode().splitlines(True),
        (tmp_path / "out/config.yaml").read_bytes().splitlines(True),
    )
    assert (
        start != end
        and [a[:5] for a in start] == [b[:5] for b in end]
        and all(b.endswith(b"\r\n") for b in end)
    )
    assert end[0] == start[0] and end[-1] == start[-1]
    untouched = (made / "source/parts/fitting.py").read_bytes()
    assert (tmp_path / "out/parts/fitting.py").read_bytes() == untouched and b"\r\n" in untouched
    given_back(tmp_path, env, began)


def given_back(tmp_path: Path, env: dict[str, str], began: str) -> None:
    """The trial as a branch of the repository, which has moved on meanwhile; then a conflict."""
    repository, config = tmp_path / "recipes", tmp_path / "recipes/quick/source/config.yaml"
    (repository / "NOTES.md").write_text("later\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "later")
    command = ["apply", "run", "t0001", "--git", str(repository)]
    done = quick.call(*command, "--branch", "bakeoff/t0001", "--pr-body", "pr.md", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"on {began[:12]} (where the campaign began)" in done.stdout
    assert git(repository, "diff", "--name-only", "main...bakeoff/t0001") == "quick/source/config.yaml"
    assert (
        git(repository, "status", "--porcelain") == ""
        and git(repository, "branch", "--show-current") == "main"
    )
    message = git(repository, "log", "-1", "--format=%B", "bakeoff/t0001")
    assert "Bakeoff-Trial: c-quick-specialists/t0001" in message and "accuracy before: 0." in message
    body = (tmp_path / "pr.md").read_text("utf-8")
    for words in (
        "| accuracy before |",
        "| accuracy after |",
        "| gates | pass cpu",
        "| seeds |",
        "bakeoff replay",
    ):
        assert words in body, body
    config.write_bytes(re.sub(rb"(?m)^  (\w+): [^#\r]+", rb"  \1: 7", config.read_bytes()))
    git(repository, "commit", "-qam", "the same lines")
    done = quick.call(*command, "--branch", "again", env=env, cwd=tmp_path)
    assert (
        done.returncode == 2
        and "changes the same lines of quick/source/config.yaml; no branch was made" in done.stderr
    )
    assert git(repository, "branch", "--list", "again") == ""


def test_what_cannot_be_edited_is_said_by_calibrate_and_run(tmp_path: Path) -> None:
    made = project(tmp_path / "recipes")
    (made / "source/config.yaml").write_bytes("train: {name: für}\n".encode("latin-1"))
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    quick.bakeoff("prepare", quick.NAME, env=env, cwd=tmp_path)
    for command in (["calibrate", quick.NAME], ["run", quick.NAME, "--trials", "1", "--run", "run"]):
        done = quick.call(*command, env=env, cwd=tmp_path)
        assert done.returncode == 2
        assert "surface settings: config.yaml: not utf-8 text at byte 15 (line 1)" in " ".join(
            done.stderr.split()
        )
