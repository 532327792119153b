"""What a person can get wrong, and the one sentence that each mistake is answered with."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from unittest import mock

import pytest
import quick

from lineage.errors import BakeoffError, UsageError

# arguments, exit code, words of the sentence: what, where, which value, what next
WRONG: list[tuple[str, int, tuple[str, ...]]] = [
    ("run airbench_mni", 2, ("no environment named 'airbench_mni'", "did you mean 'airbench_mini'", "bakeoff environments")),
    ("run bare", 2, ("bare", "bakeoff prepare bare")),
    ("run quick --trials 0", 2, ("trials", "0")),
    ("run quick --trials many", 2, ("--trials", "integer")),
    ("run quick --until 25:99", 2, ("25:99", "until")),
    ("run quick --role tok", 2, ("no role named 'tok'", "model, training")),
    ("run quick --proposer antropic", 2, ("antropic", "anthropic")),
    ("run quick --config nowhere.toml", 2, ("nowhere.toml",)),
    ("run quick --config broken.toml", 2, ("broken.toml", "not valid TOML")),
    ("run quick --config misspelt.toml", 2, ("misspelt.toml", "trails")),
    ("run broken", 2, ("environment.toml", "score.direction", "'down'")),
    ("run quick --run s3:bucket", 2, ("s3:bucket", "s3://")),
    ("show nowhere", 2, ("nowhere",)),
    ("show empty", 4, ("empty", "no store")),
    ("diff nowhere t0001", 2, ("nowhere",)),
    ("report nowhere", 2, ("nowhere",)),
    ("verify nowhere", 2, ("nowhere",)),
    ("resume nowhere", 2, ("nowhere",)),
    ("stop nowhere", 2, ("nowhere",)),
    ("status nowhere", 2, ("nowhere",)),
    ("replay nowhere t0001", 2, ("nowhere",)),
    ("fork nowhere t0001", 2, ("nowhere",)),
    ("compare --summary nowhere", 2, ("nowhere",)),
    ("compare quick --arms specialists,solo", 2, ("solo", "single")),
    ("compare quick --repeats 0", 2, ("repeats", "0")),
    ("prepare airbench_mni", 2, ("did you mean 'airbench_mini'",)),
    ("calibrate quick --runs 1", 2, ("runs", "1")),
    ("new-environment Not-a-Name", 2, ("Not-a-Name",)),
    ("propose quick --role tok --dry-run", 2, ("tok",)),
    ("import released-run nowhere --store imported", 2, ("nowhere",)),
    ("frobnicate", 2, ("frobnicate",)),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("wrong")
    quick.make(folder / "recipes")
    toml = quick.make(folder / "more", "broken") / "environment.toml"
    toml.write_text(toml.read_text("utf-8").replace('direction = "max"', 'direction = "down"'), "utf-8")
    (folder / "empty").mkdir()
    (folder / "broken.toml").write_text("[campaign\n")
    (folder / "misspelt.toml").write_text("[campaign]\ntrails = 3\n")
    env = quick.environ(folder / "home", folder / "recipes")
    env["BAKEOFF_RECIPES"] += f":{folder / 'more'}:{folder / 'third'}"
    quick.make(folder / "third", "bare")
    quick.bakeoff("prepare", "quick", env=env, cwd=folder)
    return folder, env


@pytest.mark.parametrize(("arguments", "code", "words"), WRONG, ids=[w[0] for w in WRONG])
def test_one_sentence_and_nothing_written(
    place: tuple[Path, dict[str, str]], arguments: str, code: int, words: tuple[str, ...]
) -> None:
    folder, env = place
    before = sorted(folder.rglob("*"))
    done = quick.call(*arguments.split(), env=env, cwd=folder)
    said = " ".join(done.stderr.replace("│", " ").split())
    assert done.returncode == code, (done.returncode, said)
    assert "Traceback" not in said
    assert all(word in said for word in words), said
    assert len(said) < 700, said
    left = [p for p in sorted(folder.rglob("*")) if p not in before and "home" not in p.parts]
    assert [p for p in left if "__pycache__" not in p.parts] == []


def test_a_campaign_that_exists_is_not_given_other_settings(place: tuple[Path, dict[str, str]]) -> None:
    """`run` on it, and the deployed flow that would continue it, name each setting with both values."""
    from flows.campaign.run_in_work_pools import campaign
    from flows.campaign.run_on_this_machine import create_campaign
    from flows.engine.settings import load_settings

    folder, env = place
    root = folder / "begun"
    with mock.patch.dict(os.environ, env):
        settings, _ = load_settings({"environment": "quick", "trials": 5, "slots": 1}, env={})
        begun = create_campaign(str(root), settings)
        before = sorted(root.rglob("*"))
        done = quick.call(
            "run",
            "quick",
            "--run",
            str(root),
            "--trials",
            "9",
            "--slots",
            "1",
            "--usd",
            "2",
            env=env,
            cwd=folder,
        )
        with pytest.raises(UsageError) as refused:
            asyncio.run(campaign.fn(environment="quick", store=str(root), trials=9, usd=2.0))
    assert done.returncode == 2, done.stderr
    for said in (done.stderr, str(refused.value)):
        assert "trials = 5 (given: 9), usd = None (given: 2.0)" in said, said
        assert begun.id in said and "slots" not in said, said
    assert "bakeoff resume" in done.stderr and "--run DIR" in done.stderr and "bakeoff fork" in done.stderr
    assert "another tag" in str(refused.value)
    assert sorted(root.rglob("*")) == before


def test_every_error_of_the_tree_has_an_exit_code() -> None:
    def below(kind: type[BakeoffError]) -> list[type[BakeoffError]]:
        return [kind, *(found for sub in kind.__subclasses__() for found in below(sub))]

    assert {kind.exit_code for kind in below(BakeoffError)} <= {0, 1, 2, 4, 5, 6, 130}
