"""`bakeoff new-environment`: where it writes, what it puts in, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.environments.loading import list_environments, load_environment
from flows.environments.scaffold import new_environment, next_commands
from lineage.errors import UsageError


@pytest.fixture(autouse=True)
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory with no settings of the developer's."""
    folder = tmp_path / "lab"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("BAKEOFF_RECIPES", raising=False)
    return folder


def test_the_command_writes_here_and_prints_what_comes_next(lab: Path) -> None:
    done = CliRunner().invoke(app, ["new-environment", "my_idea"])
    assert done.exit_code == 0, done.output
    assert str(lab / "recipes" / "my_idea") in done.output
    assert [line.strip() for line in done.output.splitlines()[1:]] == [
        "bakeoff prepare my_idea",
        "bakeoff calibrate my_idea",
        "bakeoff run my_idea --trials 4",
    ]
    assert list_environments()["my_idea"] == lab / "recipes" / "my_idea"
    assert [path.name for path in (lab / "recipes").iterdir()] == ["my_idea"]


def test_the_copy_bears_its_own_name_everywhere(lab: Path) -> None:
    made = new_environment("tidal_flow")
    assert made.spec.name == "tidal_flow" and made.data.name.startswith("tidal_flow-")
    assert {"train.py", "predict.py"} <= made.source().keys() and made.briefs
    readme = (made.folder / "README.md").read_text()
    assert readme.startswith("# tidal_flow\n") and "bakeoff run tidal_flow" in readme
    assert "my_idea" not in readme and "new-environment" not in readme
    assert not list(made.folder.rglob("__pycache__"))


def test_folders_of_ones_own_come_first(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKEOFF_RECIPES", f"{tmp_path / 'first'}:{tmp_path / 'second'}")
    made = new_environment("mine")
    assert made.folder == tmp_path / "first" / "mine" and not (lab / "recipes").exists()
    assert load_environment("mine").folder == made.folder
    assert next_commands(made.folder)[0] == "bakeoff prepare mine"


def test_a_place_that_is_not_searched_is_named_by_path(tmp_path: Path) -> None:
    made = new_environment("mine", tmp_path / "some where")
    assert "mine" not in list_environments()
    assert next_commands(made.folder)[0] == f"bakeoff prepare '{made.folder}'"
    assert load_environment(str(made.folder)).spec.name == "mine"


@pytest.mark.parametrize("name", ["", "My-Idea", "_mine", "9lives", "../up", "a/b", "x" * 41, "idée"])
def test_a_name_that_is_none_is_refused(name: str, lab: Path) -> None:
    with pytest.raises(UsageError, match="is no name for an environment"):
        new_environment(name)
    assert not list(lab.iterdir())


def test_a_taken_name_is_refused(lab: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'golf_mini' is already the environment in"):
        new_environment("golf_mini")
    with pytest.raises(UsageError, match="is already the environment in"):
        new_environment("golf_mini", tmp_path / "elsewhere")
    made = new_environment("mine")
    (made.folder / "notes.txt").write_text("mine\n")
    with pytest.raises(UsageError, match="already there and left as it is"):
        new_environment("mine")
    assert (made.folder / "notes.txt").read_text() == "mine\n"


def test_a_place_that_cannot_be_written_is_one_sentence(lab: Path) -> None:
    (lab / "recipes").write_text("a file\n")
    with pytest.raises(UsageError, match=r"cannot be written .*--at DIR"):
        new_environment("mine")
    assert [path.name for path in lab.iterdir()] == ["recipes"]
