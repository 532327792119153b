"""Reading environments: names, broken files, roles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import quick

from evaluators.judge import judge_hashes
from flows.environments.loading import list_environments, load_environment, read_environment
from flows.environments.prepared_data import of_record
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


def twin(folder: Path, seed: int) -> Path:
    """An environment of a name that another project has too, with other data."""
    made = quick.make(folder / "recipes", "twin")
    program = made / "prepare.py"
    program.write_text(program.read_text().replace("default_rng(0)", f"default_rng({seed})"))
    return made


def test_two_projects_with_an_environment_of_one_name_share_nothing(tmp_path: Path) -> None:
    one, other = twin(tmp_path / "a", 1), twin(tmp_path / "b", 2)
    env = quick.environ(tmp_path / "home", tmp_path / "none")
    first = quick.bakeoff("prepare", str(one), env=env, cwd=tmp_path).stdout.split()[-1]
    missing = quick.call("calibrate", str(other), env=env, cwd=tmp_path)
    assert missing.returncode == 2 and "no prepared data for twin" in missing.stderr
    second = quick.bakeoff("prepare", str(other), env=env, cwd=tmp_path).stdout.split()[-1]
    assert Path(first).parent == Path(second).parent and first != second
    fakes = [(Path(data) / "fake/images.npy").read_bytes() for data in (first, second)]
    assert fakes[0] != fakes[1]
    quick.bakeoff("calibrate", str(one), "--runs", "2", env=env, cwd=tmp_path)
    quick.bakeoff("calibrate", str(other), "--runs", "2", env=env, cwd=tmp_path)
    stored = list((tmp_path / "home/bakeoff/calibrations").iterdir())
    assert len(stored) == 2 and len({json.loads(path.read_text())["sha256"] for path in stored}) == 2


def test_data_are_of_the_program_that_made_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path / "home"))
    made = twin(tmp_path, 1)
    before = read_environment(made).data
    (made / "source" / "model.py").write_text("X = 1\n")
    (made / "environment.toml").write_text((made / "environment.toml").read_text() + "\n# note\n")
    assert read_environment(made).data == before, "what is edited in a campaign makes no other data"
    (made / "words.txt").write_text("a b c")
    assert read_environment(made).data != before
    (made / "words.txt").unlink()
    (made / "prepare.py").write_text((made / "prepare.py").read_text() + "\n")
    assert read_environment(made).data != before


def test_data_that_an_earlier_version_prepared_are_read_for_its_own_environments_and_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path / "home"))
    shipped = read_environment(list_environments()["airbench_mini"])
    earlier = tmp_path / "home" / "data" / "airbench_mini"
    assert shipped.data != earlier
    earlier.mkdir(parents=True)
    assert shipped.data == earlier
    environment = read_environment(twin(tmp_path, 1))
    by_name = tmp_path / "home" / "data" / "twin"
    by_name.mkdir()
    (by_name / "manifest.json").write_text(json.dumps({"files": {}}))
    recorded = judge_hashes.environment_sha256(environment.spec, by_name)
    words = environment.spec.model_dump(mode="json")
    assert environment.data != by_name, "another project may have made them"
    assert of_record(environment, words, recorded).data == by_name
    assert of_record(environment, words, "0" * 64).data == environment.data
