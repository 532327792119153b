"""What was measured once is measured again: calibrate, a campaign that uses it, replay, minimise. Real sandbox."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import quick

from evaluators.statistics.replay_verdict import is_time
from flows.environments.loading import load_environment
from flows.measure.calibrate import Calibration, load, save
from flows.measure.replay import recorded_measurement, replay_trial
from flows.measure.standalone import bench_of
from lineage.ids import canonical_json, sha256
from lineage.records import Edit, Proposal
from lineage.store.blobs import blob_key, put_blob

NOTHING = "    unused = 1 + 1\n"
FASTER = Edit(path="fitting.py", search="LR = 0.1 ", replace="LR = 0.5 ")  # 3 points of accuracy, 6 noise sd
USELESS = Edit(
    path="fitting.py", search="    return parameters\n", replace=f"{NOTHING}    return parameters\n"
)
LATER = Edit(path="fitting.py", search="STEPS = 300", replace="STEPS = 100")
ABSENT = Edit(path="fitting.py", search="NO SUCH LINE", replace="x = 1")


@dataclass(frozen=True)
class Done:
    folder: Path
    env: dict[str, str]
    calibrated: str
    ran: str

    def bakeoff(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """stdout and stderr of a command that must end with this exit code."""
        done = quick.bakeoff(*arguments, env=self.env, cwd=self.folder, check=False)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout, done.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self.bakeoff(*arguments, "--json")[0])

    @property
    def rows(self) -> pd.DataFrame:
        return pd.read_parquet(self.folder / "r" / "lineage")


def proposal(title: str, *edits: Edit) -> dict[str, Any]:
    return Proposal(role="training", proposer="", parent="t0000", hypothesis=title, edits=edits).model_dump()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A calibrated start and a campaign of three scripted trials."""
    folder = tmp_path_factory.mktemp("replay")
    quick.make(folder / "recipes")
    env = quick.environ(folder / "home", folder / "recipes")
    script = [proposal("faster", FASTER, USELESS), proposal("fewer steps", LATER), proposal("a slip", ABSENT)]
    (folder / "script.json").write_text(json.dumps(script), "utf-8")
    (folder / "campaign.toml").write_text(
        f'[campaign]\nproposer = "scripted"\nscript = "{folder}/script.json"\nroles = ["training"]\nconfirm = false\n'
    )
    quick.bakeoff("prepare", "quick", env=env, cwd=folder)
    calibrated = quick.bakeoff("calibrate", "quick", "--runs", "4", env=env, cwd=folder).stdout
    arguments = ("run", "quick", "--run", "r", "--config", "campaign.toml", "--trials", "3", "--plain")
    ran = quick.bakeoff(*arguments, env=env, cwd=folder)
    return Done(folder, env, calibrated, ran.stderr)


def objects(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored(done: Done, monkeypatch: pytest.MonkeyPatch) -> Calibration:
    """The calibration, read here: this process takes on the campaign's home and recipes."""
    for name in ("BAKEOFF_HOME", "BAKEOFF_RECIPES"):
        monkeypatch.setenv(name, done.env[name])
    found = load(load_environment("quick"))
    assert found is not None
    return found


def test_calibrate_prints_the_noise_floor_and_stores_it(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    found = stored(done, monkeypatch)
    assert len(found.scores) == len(set(found.seeds)) == 4
    assert f"mean {sum(found.scores) / 4:.6g}, 95 % interval" in done.calibrated
    assert all(f"seed {seed}: " in done.calibrated for seed in found.seeds)
    assert "pass  cpu_seconds <= 5 (mean)" in done.calibrated
    assert found.sha256 in done.calibrated and "CPU-s in all" in done.calibrated


def test_the_campaign_entered_its_calibration_once_and_verifies(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = stored(done, monkeypatch)
    entered = done.rows.query("event == 'calibration'")
    assert [list(scores) for scores in entered["scores"]] == [list(found.scores)]
    assert json.loads(entered["detail_json"].iloc[0]) == {"calibration_sha256": found.sha256}
    assert (done.folder / "r" / blob_key(found.sha256)).is_file()
    assert "every hash and chain holds" in done.bakeoff("verify", "r")[0]


def test_verify_finds_a_calibration_that_the_campaign_did_not_begin_with(done: Done) -> None:
    """Made-up replicates of the start would lower the bar for every champion."""
    from flows.measure.verify import verify_run
    from lineage.log.journal import Journal
    from lineage.records import Row
    from lineage.store.objects import open_store

    shutil.copytree(done.folder / "r", done.folder / "eased")
    store, campaign = open_store(done.folder / "eased"), "c-quick-specialists"
    Journal(store, campaign, "somebody").append(
        Row(event="calibration", campaign=campaign, scores=[0.5, 0.6], seeds=[1, 2])
    )
    found = verify_run(str(done.folder / "eased"))
    assert [p for p in found["problems"] if "calibration 2 with scores [0.5, 0.6]" in p]


def test_a_resumed_campaign_does_not_enter_it_again(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.campaign.campaign_rows import log_calibration
    from flows.engine.engine import open_engine

    stored(done, monkeypatch)
    engine = open_engine(str(done.folder / "r"), "c-quick-specialists")
    log_calibration(engine)
    assert engine.view().count("calibration") == 1


def test_replaying_trials_gives_the_same_bits_and_writes_nothing(done: Done) -> None:
    before = objects(done.folder / "r")
    told = done.json("replay", "r", "--all", "2")
    assert objects(done.folder / "r") == before
    assert [found["trial"] for found in told["replays"]] == ["t0000", "t0001"]
    for found in told["replays"]:
        figures = {figure["name"]: figure for figure in found["figures"]}
        assert {"accuracy", "artifact_bytes", "cpu_seconds", "source_bytes"} <= set(figures)
        assert {f["verdict"] for name, f in figures.items() if not is_time(name)} == {"same bits"}
        assert found["verdict"] == "same bits"
    assert told["tally"] == {"same bits": 2}


def test_a_replay_for_people_shows_every_figure_then_and_now(done: Done) -> None:
    out, err = done.bakeoff("replay", "r", "t0002")
    score = done.rows.query("event == 'trial' and trial == 't0002'")["score"].iloc[0]
    line = next(line.split() for line in out.splitlines() if line.startswith("accuracy"))
    assert line[1] == line[2] == f"{score:.6g}"
    assert "t0002: same bits (seeds " in out
    assert "seed 2 of 2 trained" in err


def test_a_recorded_score_that_the_program_does_not_give_differs(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forged measurement whose hashes are all right: only measuring again tells."""
    from flows.commands.chosen_run import open_view

    stored(done, monkeypatch)
    shutil.copytree(done.folder / "r", done.folder / "forged")
    store, config, view = open_view(str(done.folder / "forged"), None)
    row = view.trial("t0002")
    assert row is not None
    honest = recorded_measurement(store, row)
    seeds = [s.model_copy(update={"quantities": {**s.quantities, "accuracy": 0.99}}) for s in honest.per_seed]
    forged = honest.model_copy(update={"per_seed": tuple(seeds), "score": 0.99})
    sha = put_blob(store, forged.model_dump_json().encode())
    with bench_of(config, trust_weak=False) as bench:
        found = replay_trial(store, config, view, row.model_copy(update={"measurement_sha256": sha}), bench)
    assert found.result.verdict == "differs"
    assert any(reason.startswith("accuracy was 0.99") for reason in found.result.reasons)


def test_a_damaged_record_is_told_apart_from_a_difference(done: Done) -> None:
    shutil.copytree(done.folder / "r", done.folder / "damaged")
    sha = done.rows.query("event == 'trial' and trial == 't0001'")["source_sha256"].iloc[0]
    path = done.folder / "damaged" / blob_key(sha)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    _, err = done.bakeoff("replay", "damaged", "t0001", code=4)
    assert sha in err and "do not match their checksum" in err


def test_what_was_never_measured_and_other_data_are_refused(done: Done) -> None:
    _, err = done.bakeoff("replay", "r", "t0003", code=2)
    assert "t0003 was never measured (rejected, bad_edit)" in err
    (data,) = (done.folder / "home" / "bakeoff" / "data").glob("quick-*/manifest.json")
    held = data.read_text("utf-8")
    manifest = json.loads(held)
    extra = data.parent / "public" / "note.txt"
    extra.write_text("x")
    manifest["files"]["public/note.txt"] = {"sha256": sha256(b"x"), "bytes": 1}
    data.write_text(json.dumps(manifest))
    try:
        _, err = done.bakeoff("replay", "r", "t0001", code=2)
    finally:
        data.write_text(held)
        extra.unlink()
    assert "measured on the environment" in err and "bakeoff prepare quick" in err


def test_a_calibration_of_another_machine_stops_a_campaign_before_it_leaves_anything(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = stored(done, monkeypatch)
    environment = load_environment("quick")
    path = save(here.model_copy(update={"machine": "Abacus 1, 4 cores"}), environment)
    try:
        _, err = done.bakeoff("run", "quick", "--run", "elsewhere", code=2)
    finally:
        save(here, environment)
    assert "Abacus 1, 4 cores" in err and here.machine in err and "bakeoff calibrate quick" in err
    assert not (done.folder / "elsewhere").exists()
    assert json.loads(path.read_text())["sha256"] == sha256(canonical_json(here.model_dump(mode="json")))


def test_minimise_drops_the_hunk_that_does_nothing(done: Done) -> None:
    before = objects(done.folder / "r")
    told = done.json("minimise", "r", "t0001", "--to", "small")
    assert objects(done.folder / "r") == before
    assert len(told["hunks"]) == 2 and told["kept"] == [0] and told["dropped"] == [1]
    assert told["is_minimal"] is True
    assert told["gain"] > 0.01 and told["loss"] <= told["allowed_loss"]
    assert "+LR = 0.5" in told["left"] and "unused" not in told["left"]
    text = (done.folder / "small" / "fitting.py").read_text("utf-8")
    assert "LR = 0.5 " in text and "unused" not in text
    start = quick.ROOT / "recipes" / "_template" / "source"
    assert (done.folder / "small" / "model.py").read_bytes() == (start / "model.py").read_bytes()


def test_a_start_that_fails_its_own_rule_is_refused_before_a_campaign(done: Done) -> None:
    path = quick.make(done.folder / "recipes" / "more", "strict") / "environment.toml"
    text = path.read_text("utf-8")
    assert "at_most = 5.0" in text
    path.write_text(
        text.replace("at_most = 5.0", "at_most = 0.001").replace(
            'name = "strict"', 'name = "strict"\ndata = "quick"'
        )
    )
    folder = str(path.parent)
    done.bakeoff("prepare", folder)
    out, _ = done.bakeoff("calibrate", folder, "--runs", "2", code=1)
    assert "FAIL  cpu_seconds <= 0.001 (mean)" in out
    _, err = done.bakeoff("run", folder, "--run", "strict", code=2)
    assert (
        "the start of strict does not pass its own rules on this machine: cpu_seconds <= 0.001 (mean)" in err
    )
    assert not (done.folder / "strict").exists()
