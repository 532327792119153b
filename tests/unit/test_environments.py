"""Reading environments: names, broken files, roles."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.environments.loading import list_environments, load_environment, read_environment
from flows.machine.folders import REPO
from lineage.errors import SpecInvalid, UnknownName


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    shutil.copytree(REPO / "recipes" / "airbench_mini", folder)
    return folder


def test_the_shipped_environments_load_and_templates_are_not_listed() -> None:
    found = list_environments()
    assert "airbench_mini" in found
    assert not any(name.startswith("_") for name in found)
    for name in found:
        environment = load_environment(name)
        assert environment.spec.name == name
        assert environment.roster("specialists"), f"{name} has no roles"


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'airbench_mini'"):
        load_environment("airbench_mni")


def test_a_folder_of_ones_own_wins_over_the_shipped_one(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKEOFF_RECIPES", str(copy.parent))
    assert list_environments()["mine"] == copy
    assert load_environment(str(copy)).folder == copy


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[score]", "[score", ["environment.toml", "not valid TOML"]),
        ("[score]", "[scores]", ["environment.toml", "scores", "Extra inputs"]),
        ('direction = "min"', 'direction = "down"', ["score.direction", "'down'"]),
        ("memory_mb", "memory_gb", ["budget", "memory"]),
    ],
)
def test_a_broken_file_names_the_key(copy: Path, old: str, new: str, words: list[str]) -> None:
    path = copy / "environment.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(SpecInvalid) as error:
        read_environment(copy)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_role_on_a_surface_that_does_not_exist_is_refused(copy: Path) -> None:
    (copy / "roles" / "wings.md").write_text('+++\nsurfaces = ["wings"]\n+++\nfly\n')
    with pytest.raises(UnknownName, match=r"surface named 'wings'.*wings\.md"):
        read_environment(copy)


def test_a_recipe_without_files_says_so(copy: Path) -> None:
    shutil.rmtree(copy / "source")
    with pytest.raises(SpecInvalid, match="no recipe files"):
        read_environment(copy).source()
