"""`bakeoff certify` of a real campaign's champion, checked offline by `bakeoff verify FILE`; every forgery is found."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import quick

from flows.measure.check_certificate import check, sealed
from lineage.records import Edit, Proposal

FASTER = Edit(path="fitting.py", search="LR = 0.1 ", replace="LR = 0.5 ")  # 3 points of accuracy, 6 noise sd
WORSE = Edit(path="fitting.py", search="STEPS = 300", replace="STEPS = 3")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("certify")
    quick.make(folder / "recipes")
    env = quick.environ(folder / "home", folder / "recipes")
    quick.bakeoff("prepare", "quick", env=env, cwd=folder)
    edits = {"faster": FASTER, "worse": WORSE}
    script = [
        Proposal(role="training", proposer="", parent="t0000", hypothesis=title, edits=(edit,)).model_dump()
        for title, edit in edits.items()
    ]
    (folder / "script.json").write_text(json.dumps(script), "utf-8")
    (folder / "run.toml").write_text('[campaign]\nproposer = "scripted"\nscript = "script.json"\n', "utf-8")
    told = ("run", "quick", "--run", "r", "--role", "training", "--config", "run.toml", "--plain")
    quick.bakeoff(*told, "--trials", "2", env=env, cwd=folder, timeout=400)
    return folder, env


@pytest.fixture(scope="module")
def made(run: tuple[Path, dict[str, str]]) -> Path:
    folder, env = run
    done = quick.call(
        "certify", "r", "t0001", "--reveal", "--out", str(folder / "c.json"), env=env, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder / "c.json"


def test_it_verifies_where_there_is_neither_store_nor_data(
    run: tuple[Path, dict[str, str]], made: Path, tmp_path: Path
) -> None:
    _, env = run
    (tmp_path / "c.json").write_bytes(made.read_bytes())
    done = quick.call("verify", "c.json", env={**env, "BAKEOFF_HOME": str(tmp_path / "empty")}, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "every hash holds and every test is repeated" in done.stdout
    assert "it cannot show:" in done.stdout
    content = json.loads(made.read_bytes())
    assert content["claims"]["verdict"] == "confirmed"
    assert len(content["claims"]["candidate_replicates"]) >= 3
    assert content["seeds"]["in_record"]
    assert content["chain"]["parts"] and content["chain"]["anchor"]


def test_any_flipped_digit_is_found(made: Path) -> None:
    text, draw = made.read_text("utf-8"), random.Random(26)
    places = [at for at, char in enumerate(text) if char.isdigit()]
    for at in draw.sample(places, 40):
        flipped = text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]
        try:
            assert check(flipped.encode()), text[at - 40 : at + 20]
        except Exception as error:  # no longer a certificate at all
            assert "certificate" in str(error)


def confirmation(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in content["rows"] if row["event"] == "confirmation")
    return found


def change_detail(content: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> None:
    row = confirmation(content)
    detail = json.loads(row["detail_json"])
    change(detail)
    row["detail_json"] = json.dumps(detail)


def replicate(content: dict[str, Any]) -> None:
    confirmation(content)["scores"][0] += 0.001
    content["claims"]["candidate_replicates"][0] += 0.001


def other_side(content: dict[str, Any]) -> None:
    change_detail(content, lambda detail: detail["incumbent_scores"].__setitem__(0, 0.5))
    content["claims"]["incumbent_replicates"][0] = 0.5


def p_value(content: dict[str, Any]) -> None:
    confirmation(content)["p_value"] = content["claims"]["p_value"] = 1e-30


def interval(content: dict[str, Any]) -> None:
    confirmation(content)["gain_low"] = content["claims"]["gain_low"] = 9.9


def level(content: dict[str, Any]) -> None:
    confirmation(content)["alpha_spent"] = content["claims"]["level"] = 0.05


def level_of_a_look(content: dict[str, Any]) -> None:
    change_detail(content, lambda detail: detail["looks"][0].__setitem__("level", 0.05))
    content["claims"]["looks"][0]["level"] = 0.05


def measurement(content: dict[str, Any]) -> None:
    sha = json.loads(confirmation(content)["detail_json"])["measurements"][0]
    content["blobs"][sha]["text"] = content["blobs"][sha]["text"].replace('"score":0.', '"score":0.9', 1)


def test_item(content: dict[str, Any]) -> None:
    sha = next(sha for sha, held in content["blobs"].items() if "base64" in held)
    text = content["blobs"][sha]["base64"]
    at = len(text) // 2
    content["blobs"][sha]["base64"] = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


test_item.__test__ = False  # type: ignore[attr-defined]


def environment(content: dict[str, Any]) -> None:
    content["hashes"]["environment_sha256"] = "0" * 64


def judge(content: dict[str, Any]) -> None:
    content["hashes"]["evaluator_sha256"] = "0" * 64


def plan(content: dict[str, Any]) -> None:
    content["plan"]["alpha"] = 0.2


def part(content: dict[str, Any]) -> None:
    content["chain"]["parts"][0]["sha256"] = "0" * 64


def seed(content: dict[str, Any]) -> None:
    confirmation(content)["seeds"][0] += 1


def secret(content: dict[str, Any]) -> None:
    content["seeds"]["secret"] = "00" * 16


def verdict(content: dict[str, Any]) -> None:
    content["claims"]["champion_now"] = not content["claims"]["champion_now"]


def program(content: dict[str, Any]) -> None:
    content["subject"]["source_sha256"] = "0" * 64


FORGERIES = (
    replicate, other_side, p_value, interval, level, level_of_a_look, measurement, test_item, environment, judge, plan, part,
    seed, secret, verdict, program,
)  # fmt: skip


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_a_forger_who_closes_the_file_again_is_found(
    made: Path, forge: Callable[[dict[str, Any]], None]
) -> None:
    content = json.loads(made.read_bytes())
    assert check(sealed(content)) == []
    forge(content)
    assert check(sealed(content)), forge.__name__


def test_a_trial_that_was_never_confirmed_is_told_in_one_sentence(run: tuple[Path, dict[str, str]]) -> None:
    folder, env = run
    done = quick.call("certify", "r", "t0002", env=env, cwd=folder)
    assert done.returncode == 2
    assert "t0002 was never confirmed, so there is nothing to certify" in done.stderr
    assert "confirmed in c-quick-specialists: t0001" in done.stderr


def test_the_default_is_the_champion_and_the_report_links_the_file(run: tuple[Path, dict[str, str]]) -> None:
    folder, env = run
    done = quick.call("certify", "r", env=env, cwd=folder)
    assert done.returncode == 0
    file = next((folder / "r" / "reports").glob("*/certificate-t0001.json"))
    content = json.loads(file.read_bytes())
    assert content["seeds"]["secret"] is None
    assert check(file.read_bytes()) == []
    quick.call("report", "r", env=env, cwd=folder)
    page = next((folder / "r" / "reports").glob("*/report.html")).read_text("utf-8")
    assert "certificate-t0001.json" in page
    assert "bakeoff verify" in page
