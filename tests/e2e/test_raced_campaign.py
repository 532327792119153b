"""A screen ends when its trial can no longer become a keep: from the command line to the record, and `verify` decides it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pytest
import quick

from evaluators.statistics.recompute import recompute_labels
from flows.engine.campaign_config import load_config
from flows.measure import verify
from lineage.log.log_reader import Lineage
from lineage.records import Edit, Proposal, Row, Status
from lineage.store.objects import open_store

RUNS, CAMPAIGN = 5, "c-quick-specialists"
EDITS = {
    "slower to learn": ("LR = 0.1 ", "LR = 0.01 "),
    "longer": ("STEPS = 300 ", "STEPS = 1_200 "),
    "learns nothing": ("LR = 0.1 ", "LR = 0.000001 "),
}
GATE = '[[gates]]\nquantity = "accuracy"\nat_least = 0.5\non = "bound"\n\n[audit]'


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], pd.DataFrame]:
    folder = tmp_path_factory.mktemp("racing")
    place = quick.make(folder / "recipes")
    plan = place / "environment.toml"
    text = plan.read_text("utf-8").replace("\nruns = 2\n", f"\nruns = {RUNS}\n")
    text = text.replace("\ncalibrate_runs = 3\n", "\ncalibrate_runs = 6\n").replace(
        "\n[audit]", f"\n{GATE}", 1
    )
    plan.write_text(text, "utf-8")
    env = quick.environ(folder / "home", folder / "recipes")
    quick.bakeoff("prepare", "quick", env=env, cwd=folder)
    proposals = [
        Proposal(
            role="training", proposer="", parent="t0000", hypothesis=title,
            edits=(Edit(path="fitting.py", search=old, replace=new),),
        )
        for title, (old, new) in EDITS.items()
    ]  # fmt: skip
    script, config = folder / "script.json", folder / "campaign.toml"
    script.write_text(json.dumps([p.model_dump() for p in proposals]), "utf-8")
    config.write_text(f'[campaign]\nproposer = "scripted"\nscript = "{script}"\nconfirm = false\n')
    told = ("run", "quick", "--run", "r", "--role", "training", "--config", str(config), "--plain")
    quick.bakeoff(*told, "--trials", str(len(EDITS)), env=env, cwd=folder)
    rows = pd.read_parquet(folder / "r" / "lineage").query("event == 'trial'")
    return folder, env, rows.set_index("hypothesis")


def test_a_plainly_worse_trial_has_the_runs_it_has_and_says_so(
    raced: tuple[Path, dict[str, str], pd.DataFrame],
) -> None:
    folder, env, rows = raced
    worse = rows.loc["slower to learn"]
    assert (worse["status"], len(worse["scores"]), worse["planned_runs"]) == ("discard", 2, RUNS)
    assert (
        f"stopped after 2 of {RUNS} runs"
        in quick.call("show", "r", worse["trial"], env=env, cwd=folder).stdout
    )
    missed = rows.loc["learns nothing"]
    assert (missed["status"], missed["cause"], len(missed["scores"])) == ("disqualified", "gate_missed", 2)
    assert f"stopped after 2 of {RUNS} runs" in json.loads(missed["detail_json"])["label"]


def test_a_leader_has_all_its_runs(raced: tuple[Path, dict[str, str], pd.DataFrame]) -> None:
    _, _, rows = raced
    better = rows.loc["longer"]
    assert (better["status"], len(better["scores"]), len(set(better["seeds"]))) == ("keep", RUNS, RUNS)
    assert len(rows.loc["the recipe as it is"]["scores"]) == 6, "the start is never raced"


def test_verify_decides_it_again(raced: tuple[Path, dict[str, str], pd.DataFrame]) -> None:
    folder, env, rows = raced
    done = quick.call("verify", "r", env=env, cwd=folder)
    assert done.returncode == 0, done.stdout
    found = mismatches(folder, lambda row: {})
    assert found == []
    ended = rows.loc["slower to learn"]["trial"]
    said = json.loads(rows.loc["slower to learn"]["detail_json"])

    def silent(row: Row) -> Mapping[str, object]:
        kept = {name: value for name, value in said.items() if name != "racing"}
        return {"detail_json": json.dumps(kept), "status": Status.KEEP} if row.trial == ended else {}

    assert any("runs of the screen" in text for text in mismatches(folder, silent))

    def luckier(row: Row) -> Mapping[str, object]:
        more = {**said, "racing": {**said["racing"], "best": 0.99}}
        return {"detail_json": json.dumps(more)} if row.trial == ended else {}

    assert any("end of the screen" in text for text in mismatches(folder, luckier))


def mismatches(folder: Path, change: Callable[[Row], Mapping[str, object]]) -> list[str]:
    """What the labels of the record, with some columns of some rows changed, do not agree with."""
    store = open_store(str(folder / "r"))
    config = load_config(store, CAMPAIGN)
    rows = Lineage(store, CAMPAIGN, config.spec.score.direction).refresh().rows()

    def evidence(row: Row) -> object:
        return verify.evidence_of(store, config, row, lambda sha: verify.measurement_of(store, sha))

    changed = [row.model_copy(update=dict(change(row))) for row in rows]
    return [str(m) for m in recompute_labels(changed, config.plan, config.spec, evidence, config.racing)]  # type: ignore[arg-type]
