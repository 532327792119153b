"""`bakeoff adopt` without running anything: what it decides, what it refuses, and that the repository stays as it is."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import quick
import script_recipe as sr
from git_lab import commit, git

from lineage.environment_spec import EnvironmentSpec

TRAIN = ("--train", "python train.py --seed={seed} --out={out}")
PATTERN = ("--metric", "val loss ([0-9.]+)")
EVALUATED = (
    *TRAIN,
    "--evaluate",
    "python evaluate.py {out}",
    "--metric",
    "held-out loss ([0-9.]+)",
    "--eval-data",
    "data/heldout.csv",
)


def repository(folder: Path, more: dict[str, str] | None = None) -> Path:
    for name, text in {**sr.files(), **(more or {})}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return commit(folder)


@pytest.fixture
def lab(tmp_path: Path) -> tuple[dict[str, str], Path]:
    return quick.environ(tmp_path / "home", tmp_path / "recipes"), repository(tmp_path / "My-Repo")


def adopt(lab: tuple[dict[str, str], Path], *arguments: str) -> tuple[int, str, str]:
    done = quick.call("adopt", str(lab[1]), *arguments, env=lab[0], cwd=lab[1].parent)
    return done.returncode, done.stdout, done.stderr


def planned(out: str) -> EnvironmentSpec:
    return EnvironmentSpec.model_validate(tomllib.loads(out.split("environment.toml would be:", 1)[1]))


def test_a_dry_run_shows_all_and_writes_nothing(lab: tuple[dict[str, str], Path]) -> None:
    before = git(lab[1], "status", "--porcelain", "--ignored")
    code, out, err = adopt(lab, *EVALUATED, "--dry-run")
    assert code == 0, err
    spec = planned(out)
    assert spec.name == "my_repo" and spec.trust == "evaluated" and spec.score.direction == "min"
    assert spec.task.protected == ["evaluate.py"] and spec.task.evaluation_data == ["data/heldout.csv"]
    assert list(spec.surface("recipe").units) == ["model.py", "train.py"] and spec.packages == ["numpy"]
    assert "train.py:LR = 0.05" in out and "only for evaluate: data/heldout.csv" in out
    assert git(lab[1], "status", "--porcelain", "--ignored") == before
    assert not (lab[1].parent / "recipes").exists()


def test_without_an_evaluator_the_score_is_reported(lab: tuple[dict[str, str], Path]) -> None:
    code, out, _ = adopt(lab, *TRAIN, *PATTERN, "--dry-run")
    assert code == 0 and planned(out).trust == "reported"


def test_an_evaluator_that_imports_what_may_be_edited_makes_the_score_reported(
    lab: tuple[dict[str, str], Path],
) -> None:
    (lab[1] / "evaluate.py").write_text("import model\n" + sr.EVALUATE)
    git(lab[1], "commit", "-qam", "import")
    code, out, _ = adopt(lab, *EVALUATED, "--dry-run")
    assert code == 0 and planned(out).trust == "reported" and "leave that out of --edit" in out
    code, out, _ = adopt(lab, *EVALUATED, "--edit", "train.py", "--dry-run")
    assert code == 0 and planned(out).trust == "evaluated"
    assert planned(out).task.protected == ["evaluate.py", "model.py"]


def test_large_and_binary_files_are_data(tmp_path: Path) -> None:
    folder = repository(
        tmp_path / "r", {"words.txt": "word\n" * 30_000, "notes.txt": "short\n", "a[1].txt": "x" * 200_000}
    )
    (folder / "logo.png").write_bytes(b"\x89PNG\0\xff")
    commit(folder)
    lab = quick.environ(tmp_path / "home", tmp_path / "recipes"), folder
    code, out, err = adopt(lab, *TRAIN, *PATTERN, "--dry-run")
    assert code == 0, err
    assert planned(out).task.data == ["data/**", "a[[]1].txt", "logo.png", "words.txt"]


def test_roles_by_folder(tmp_path: Path) -> None:
    more = {"nets/net.py": "WIDTH = 3\n", "nets/__init__.py": "", "train.py": sr.TRAIN + "import nets.net\n"}
    lab = quick.environ(tmp_path / "home", tmp_path / "recipes"), repository(tmp_path / "r", more)
    code, out, err = adopt(lab, *TRAIN, *PATTERN, "--roles-by-folder", "--dry-run")
    assert code == 0, err
    assert [(s.name, sorted(s.units)) for s in planned(out).surfaces] == [
        ("root", ["model.py", "train.py"]),
        ("nets", ["nets/__init__.py", "nets/net.py"]),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            (),
            "--train, --metric, --direction must be given outside a terminal, for example --train 'python train.py --seed={seed}",
        ),
        ((*TRAIN, "--metric", "x ([0-9]+)"), "--direction must be given"),
        ((*TRAIN, "--metric", "x ([0-9]+)", "--direction", "down"), "it is min or max"),
        ((*TRAIN, "--metric", "val loss"), "has 0 groups"),
        (("--train", "python fit.py", *PATTERN), "fit.py is not in the commit"),
        (("--train", "python train.py {eval_data}", *PATTERN), "the evaluation data is only for `evaluate`"),
        ((*TRAIN, *PATTERN, "--edit", "nothing*.py"), "no source file of the repository matches it"),
        ((*TRAIN, *PATTERN, "--eval-data", "data/*"), "--eval-data is for the program of --evaluate"),
        ((*TRAIN, *PATTERN, "--edit", "train.py", "--protect", "*.py"), "nothing is left to edit"),
        ((*TRAIN, *PATTERN, "--name", "No Name"), "name"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    lab: tuple[dict[str, str], Path], arguments: tuple[str, ...], words: str
) -> None:
    code, _, err = adopt(lab, *arguments)
    assert code == 2 and words in err and len(err.strip().splitlines()) == 1, err


def test_a_folder_that_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    lab = quick.environ(tmp_path / "home", tmp_path / "recipes"), tmp_path / "plain"
    code, _, err = adopt(lab, *TRAIN, *PATTERN)
    assert code == 2 and "not in a git repository" in err
    git(lab[1], "init", "-q")
    code, _, err = adopt(lab, *TRAIN, *PATTERN)
    assert code == 2 and "no commit yet" in err


def test_in_a_terminal_what_is_missing_is_asked_for(lab: tuple[dict[str, str], Path]) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "flows.cli", "adopt", str(lab[1]), "--dry-run"]
    env = {**lab[0], "PYTHONPATH": str(quick.ROOT), "TERM": "dumb"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=lab[1].parent
    )
    os.close(theirs)
    said = b""
    for asked, answer in (
        (b"Command that trains", b""),  # the guess is taken
        (b"Protected command", b"python evaluate.py {out}"),
        (b"Metric:", b"held-out loss ([0-9.]+)"),
        (b"Is less better", b""),
    ):
        while asked not in said:
            said += os.read(ours, 4096)
        os.write(ours, answer + b"\n")
    while True:
        try:
            said += os.read(ours, 4096)
        except OSError:  # the end of a terminal
            break
    os.close(ours)
    text = said.decode().replace("\r\n", "\n")
    assert process.wait(30) == 0, text
    spec = planned(text)
    assert spec.task.train == "python train.py --seed={seed} --out={out}" and spec.score.direction == "min"
    assert spec.task.evaluate == "python evaluate.py {out}" and spec.trust == "evaluated"
