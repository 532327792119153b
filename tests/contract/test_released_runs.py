"""The released runs at hand, imported and audited: exactly the figures counted from them (issue 4, must-show 1)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import quick

from lineage.log.log_reader import Lineage
from lineage.paper.analyses import audit, lines
from lineage.paper.import_released import ImportReport, import_released
from lineage.store.objects import open_store

RUNS: dict[str, dict[str, Any]] = {
    "pg_main": {
        "trials": 900, "keeps": 36, "best_score": 1.072210, "best_trial": "750", "architecture_trials": 95,
        "statuses": {"discard": 410, "size_blocked": 319, "eval_budget_overrun": 55, "harness_abort": 42, "crash": 38, "keep": 36},
        "keeps_by_role": {"quant": 5, "opt": 5, "ttt": 5, "arch": 4, "loss": 4, "eval": 3, "tok": 3, "meta": 3, "curr": 2, "reg": 2},
        "cross_role_parents": 32, "crossable_keeps": 33, "forecasts": 426, "forecast_hits": 38, "repaired_rows": 46,
    },
    "nanochat_d12": {
        "trials": 200, "keeps": 5, "best_score": 0.2244, "best_trial": "156", "architecture_trials": 42,
        "statuses": {"discard": 177, "preflight_crash": 13, "keep": 5, "train_budget_overrun": 5},
        "keeps_by_role": {"sys": 3, "sched": 1, "arch": 1}, "repaired_rows": 0,
    },
    "cifar": {
        "trials": 97, "keeps": 4, "best_score": 25.1464, "best_trial": "070", "architecture_trials": 20,
        "statuses": {"disqualified": 81, "preflight_crash": 7, "discard": 5, "keep": 4},
        "keeps_by_role": {"opt": 2, "aug": 1, "reg": 1}, "repaired_rows": 0,
    },
    "pg_ablation_lineage_on": {
        "trials": 200, "keeps": 16, "best_score": 1.073142, "best_trial": "176",
        "statuses": {"discard": 124, "eval_budget_overrun": 38, "keep": 16, "crash": 11, "size_blocked": 11},
        "cross_role_parents": 10, "crossable_keeps": 12, "roles_with_a_keep": 8, "repaired_rows": 0,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def audits(
    released_runs: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[ImportReport, dict[str, Any]]]:
    store = open_store(tmp_path_factory.mktemp("released") / "store", create=True)
    found = {}
    for name in RUNS:
        if not (released_runs / name).is_dir():
            pytest.skip(f"{released_runs} lacks {name}: the set at hand is another one")
        campaign = f"c-{name.replace('_', '-')}"
        report = import_released(released_runs / name, store, campaign)
        found[name] = (report, audit(Lineage(store, campaign).refresh()))
    return found


@pytest.mark.parametrize("name", RUNS)
def test_released_run_is_reproduced_exactly(audits: dict[str, Any], name: str) -> None:
    report, result = audits[name]
    assert {key: result[key] for key in RUNS[name]} == RUNS[name]
    assert report.warnings == ()
    assert report.rows == RUNS[name]["trials"] + 1
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_released_architecture_submissions_are_157_of_1197(audits: dict[str, Any]) -> None:
    headline = [audits[name][1] for name in ("pg_main", "nanochat_d12", "cifar")]
    assert sum(result["architecture_trials"] for result in headline) == 157
    assert sum(result["trials"] for result in headline) == 1197


def test_released_headline_best_so_far_and_directions(audits: dict[str, Any]) -> None:
    marks = audits["pg_main"][1]["best_so_far"]
    assert {mark: round(score, 4) for mark, score in marks.items()} == {
        "100": 1.0769, "200": 1.0752, "400": 1.0741, "600": 1.0723, "900": 1.0722,
    }  # fmt: skip
    environments = {name: (report.environment, report.direction) for name, (report, _) in audits.items()}
    assert environments["nanochat_d12"] == ("nanochat_d12", "max")
    assert environments["cifar"] == ("airbench96", "min")
    assert environments["pg_main"] == environments["pg_ablation_lineage_on"] == ("parameter_golf", "min")


def test_released_lineage_arm_beside_the_paper(audits: dict[str, Any]) -> None:
    """Our tokeniser is stated and not tuned: 103 effective clusters where the paper prints 134.8."""
    result = audits["pg_ablation_lineage_on"][1]
    assert round(result["effective_clusters"]) == 103 and result["paper"]["effective_clusters"] == 134.8
    assert round(result["trials_per_hour"], 2) == 18.15 == result["paper"]["trials_per_hour"]
    text = "\n".join(lines(result))
    assert "(paper: 134.8)" in text and "unigram TF-IDF" in text
    for share in ("top_cluster_share", "near_duplicate_share", "architecture_share"):
        assert 0 <= result[share] <= 1


def test_released_damaged_rows_are_marked_and_complete(audits: dict[str, Any]) -> None:
    report, _ = audits["pg_main"]
    assert len(report.repaired) == 46
    assert {note for notes in report.repaired.values() for note in notes} == {
        "columns after hypothesis split from its text"
    }


READING = (
    "show",
    "show leader",
    "show best",
    "summary",
    "report",
    "diff leader",
    "status",
    "watch",
    "verify",
    "audit",
)
ACTING = ("resume", "pause", "stop", "minimise leader")


@pytest.mark.parametrize("name", RUNS)
def test_every_reading_command_works_on_an_imported_record_and_no_other(
    released_runs: Path, tmp_path: Path, name: str
) -> None:
    if not (released_runs / name).is_dir():
        pytest.skip(f"{released_runs} lacks {name}: the set at hand is another one")
    env, root = quick.environ(tmp_path / "home", tmp_path), str(tmp_path / "store")

    def said(command: str, *more: str) -> tuple[int, str]:
        verb, *rest = command.split()
        done = quick.call(verb, root, *rest, *more, env=env, cwd=tmp_path)
        return done.returncode, done.stdout + done.stderr

    done = quick.call(
        "import", "released-run", str(released_runs / name), "--store", root, env=env, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for command in READING:
        code, text = said(command)
        assert code == 0 and "Traceback" not in text, f"{command}: {text}"
    for option in (("--csv", "all.csv"), ("--parquet", "all.parquet"), ("--tsv", "tsv")):
        assert said("export", *option)[0] == 0
    shown = json.loads(quick.call("show", root, "--json", env=env, cwd=tmp_path).stdout)
    assert shown["leader"]["trial"] == RUNS[name]["best_trial"]
    for command in ACTING:
        code, text = said(command)
        assert code == 2 and "is an imported record; it can be read, not continued" in text, (
            f"{command}: {text}"
        )
