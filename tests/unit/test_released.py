"""Importing released TSV records: all three column sets, and every kind of damaged row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lineage.errors import UsageError
from lineage.log.log_reader import Lineage
from lineage.paper.analyses import audit, lines
from lineage.paper.import_released import import_released
from lineage.paper.released_tsv import read_run
from lineage.records import Row
from lineage.store.blobs import get_blob
from lineage.store.objects import Store, open_store
from lineage.verify.store_checks import verify

GOLF = [
    "exp_id",
    "timestamp",
    "specialist",
    "parent_exp",
    "baseline_exp",
    "domain",
    "hypothesis",
    "expected_delta",
    "status",
    "val_bpb",
    "delta_vs_best",
    "artifact_bytes",
    "train_s",
    "eval_s",
    "total_s",
    "job_name",
    "snapshot_path",
    "notes",
]
CHAT = [
    "exp_id",
    "timestamp",
    "specialist",
    "parent_exp",
    "baseline_exp",
    "domain",
    "hypothesis",
    "expected_delta",
    "status",
    "core_metric",
    "val_bpb",
    "delta_vs_best",
    "train_s",
    "total_s",
    "job_name",
    "snapshot_path",
    "notes",
]
CIFAR = [
    "exp_id",
    "timestamp",
    "specialist",
    "parent_exp",
    "baseline_exp",
    "domain",
    "hypothesis",
    "expected_delta",
    "status",
    "train_s",
    "accuracy",
    "acc_std",
    "n_seeds",
    "delta_vs_best",
    "total_s",
    "job_name",
    "snapshot_path",
    "notes",
]
TREE = [
    "exp_id",
    "parent_exp",
    "depth",
    "path",
    "specialist",
    "status",
    "val_bpb",
    "delta_vs_best",
    "hypothesis",
]


def line(names: list[str], **values: str) -> str:
    return "\t".join(values.get(name, "") for name in names)


def golf(number: int, status: str, score: str = "", **more: str) -> str:
    base = {
        "exp_id": f"{number:03d}", "timestamp": f"2026-05-01T{number:02d}:00:00Z", "specialist": "opt", "domain": "opt",
        "parent_exp": "000", "baseline_exp": "000", "hypothesis": f"idea {number}", "expected_delta": "-0.001",
        "status": status, "val_bpb": score, "total_s": "1800", "job_name": f"job-{number}",
    }  # fmt: skip
    return line(GOLF, **(base | more))


def write(folder: Path, results: list[str], names: list[str] = GOLF, tree: list[str] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.tsv").write_text("\n".join(["\t".join(names), *results]) + "\n", encoding="utf-8")
    if tree is not None:
        (folder / "tree.tsv").write_text("\n".join(["\t".join(TREE), *tree]) + "\n", encoding="utf-8")
    return folder


BASE = golf(
    0,
    "baseline",
    "1.081",
    parent_exp="",
    specialist="baseline",
    domain="baseline",
    timestamp="2026-05-01T00:00:00Z",
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store", create=True)


def rows(store: Store, campaign: str = "c-r") -> list[Row]:
    return Lineage(store, campaign).refresh().trials()


def test_released_golf_rows_keep_every_column(tmp_path: Path, store: Store) -> None:
    keep = golf(
        1, "keep", "1.08", delta_vs_best="-0.001", artifact_bytes="15999000", train_s="600.1", eval_s="580.5"
    )
    over = golf(
        2, "size_blocked", "1.079", parent_exp="001", artifact_bytes="16000250", notes='"a ""quoted"" note"'
    )
    report = import_released(write(tmp_path / "run", [BASE, keep, over]), store, "c-r")
    assert (report.environment, report.direction, report.rows, report.trials) == (
        "parameter_golf",
        "min",
        3,
        2,
    )
    assert report.best == ("001", 1.08) and report.repaired == {}
    baseline, first, second = rows(store)
    assert baseline.status == "baseline" and baseline.parent is None
    assert (first.score, first.artifact_bytes, first.train_s, first.evaluate_s) == (
        1.08,
        15999000,
        600.1,
        580.5,
    )
    assert first.delta_parent == pytest.approx(-0.001) and first.expected_delta == -0.001
    assert (second.cause, json.loads(second.numbers_json)) == ("oversize", {"bytes_over": 250.0})
    assert second.notes == 'a "quoted" note' and second.parent == "001"
    for row, text in zip((first, second), (keep, over), strict=True):
        columns = json.loads(row.detail_json)["released"]
        assert list(columns) == sorted(GOLF) and columns["job_name"] in text
    assert (first.t_finished - first.t_started).total_seconds() == 1800
    assert verify(store, "c-r").ok


def test_released_columns_tell_the_environment_and_the_direction(tmp_path: Path, store: Store) -> None:
    common = {"timestamp": "2026-05-01T00:00:00Z", "specialist": "arch", "domain": "arch", "hypothesis": "h"}
    chat = [
        line(CHAT, exp_id="000", status="baseline", core_metric="0.16", **common),
        line(
            CHAT, exp_id="001", status="keep", core_metric="0.17", val_bpb="0.78", parent_exp="000", **common
        ),
        line(CHAT, exp_id="002", status="train_budget_overrun", train_s="5460.5", parent_exp="000", **common),
    ]
    report = import_released(write(tmp_path / "chat", chat, CHAT), store, "c-chat")
    assert (report.environment, report.direction, report.best) == ("nanochat_d12", "max", ("001", 0.17))
    assert json.loads(rows(store, "c-chat")[2].numbers_json) == {"seconds_over": 60.5}
    cifar = [
        line(CIFAR, exp_id="000", status="baseline", train_s="26.3", **common),
        line(
            CIFAR, exp_id="001", status="keep", train_s="26.0", accuracy="0.9601", parent_exp="000", **common
        ),
        line(CIFAR, exp_id="002", status="disqualified", accuracy="0.9588", parent_exp="001", **common),
    ]
    report = import_released(write(tmp_path / "cifar", cifar, CIFAR), store, "c-cifar")
    assert (report.environment, report.direction, report.best) == ("airbench96", "min", ("001", 26.0))
    missed = rows(store, "c-cifar")[2]
    assert (missed.score, missed.cause) == (None, "gate_missed")
    assert json.loads(missed.numbers_json) == {"accuracy_short": pytest.approx(0.0012)}
    assert audit(Lineage(store, "c-cifar").refresh())["architecture_trials"] == 2


def test_released_row_whose_columns_hang_on_its_text(tmp_path: Path) -> None:
    stuck = (
        '003\t2026-05-01T03:00:00Z\treg\t001\t001\treg\t"Raise wd (say ""more"")</hypothesis> <parameter name=""notes"">'
        'One line." -0.0003 keep 1.078442 -0.000577 15996367 600.1 756.8 1471.0 apg-reg-3 snapshots/3_reg see log'
    )
    (row,) = read_run(write(tmp_path, [stuck], tree=[])).rows
    assert row.repairs == ["columns after hypothesis split from its text"] and row.raw == stuck
    said = row.columns
    assert said["hypothesis"] == 'Raise wd (say "more")' and said["notes"] == "One line. see log"
    assert (said["status"], said["val_bpb"], said["delta_vs_best"]) == ("keep", "1.078442", "-0.000577")
    assert (said["job_name"], said["snapshot_path"], said["total_s"]) == (
        "apg-reg-3",
        "snapshots/3_reg",
        "1471.0",
    )


def test_released_row_cut_short_is_completed_from_the_tree(tmp_path: Path, store: Store) -> None:
    cut = "002\t2026-05-01T02:00:00Z\tquant\t001\t001\tquant\tround the scales"
    tree = [
        line(
            TREE, exp_id="002", parent_exp="001", specialist="quant", status="size_blocked", val_bpb="1.0791"
        ),
        line(TREE, exp_id="009", parent_exp="001", specialist="loss", status="crash", hypothesis="only here"),
    ]
    report = import_released(
        write(tmp_path / "run", [BASE, golf(1, "keep", "1.08"), cut], tree=tree), store, "c-r"
    )
    assert set(report.repaired) == {"002", "009"} and report.trials == 3
    _, _, repaired, extra = rows(store)
    assert (repaired.status, repaired.score, repaired.role) == ("size_blocked", 1.0791, "quant")
    assert repaired.hypothesis == "round the scales" and json.loads(repaired.detail_json)["raw"] == cut
    assert (extra.trial, extra.status, extra.hypothesis) == ("009", "crash", "only here")
    result = audit(Lineage(store, "c-r").refresh())
    assert result["repaired_rows"] == 2 and result["trials"] == 3
    assert "2 damaged rows repaired" in "\n".join(lines(result))


def test_released_row_cut_short_without_a_tree_is_still_a_row(tmp_path: Path, store: Store) -> None:
    cut = "002\t2026-05-01T02:00:00Z\tquant\t001"
    report = import_released(write(tmp_path / "run", [BASE, cut]), store, "c-r")
    row = rows(store)[1]
    assert (row.trial, row.role, row.status) == ("002", "quant", "harness_abort")
    assert report.warnings == ("row 002 has the unknown status ''",)


def test_released_row_over_several_lines_is_one_row(tmp_path: Path) -> None:
    broken = golf(1, "discard", "1.09", hypothesis='"first line\nsecond\tline"')
    stray = golf(2, "discard", "1.09", notes="ends here") + "\nand goes on without quotes"
    one, two = read_run(write(tmp_path, [broken, stray])).rows
    assert one.columns["hypothesis"] == "first line\nsecond\tline" and one.columns["val_bpb"] == "1.09"
    assert (
        two.columns["status"] == "discard" and two.columns["notes"] == "ends here\nand goes on without quotes"
    )
    assert one.repairs and two.repairs


def test_released_numbers_used_twice_and_columns_that_are_missing(tmp_path: Path, store: Store) -> None:
    names = [name for name in GOLF if name not in ("domain", "notes", "eval_s")]
    results = [
        line(names, exp_id="000", timestamp="2026-05-01T00:00:00Z", status="baseline", val_bpb="1.081"),
        line(
            names,
            exp_id="001",
            timestamp="2026-05-01T01:00:00Z",
            status="discard",
            val_bpb="nan",
            specialist="a",
        ),
        line(
            names, exp_id="001", timestamp="2026-05-01T02:00:00Z", status="crash", expected_delta="minus_0.1"
        ),
    ]
    report = import_released(write(tmp_path / "run", results, names), store, "c-r")
    assert [row.trial for row in rows(store)] == ["000", "001", "001-2"]
    assert rows(store)[1].score is None and rows(store)[2].expected_delta is None
    assert list(report.repaired) == ["001-2"]


def test_released_score_of_another_name_takes_its_direction_from_the_keeps(
    tmp_path: Path, store: Store
) -> None:
    names = ["reward" if name == "val_bpb" else name for name in GOLF]
    tree = ["reward" if name == "val_bpb" else name for name in TREE]
    results = [
        line(names, exp_id="000", timestamp="2026-05-01T00:00:00Z", status="baseline", reward="1.0"),
        line(
            names,
            exp_id="001",
            timestamp="2026-05-01T01:00:00Z",
            status="keep",
            reward="1.5",
            delta_vs_best="0.5",
        ),
    ]
    folder = write(tmp_path / "run", results, names)
    (folder / "tree.tsv").write_text("\t".join(tree) + "\n")
    report = import_released(folder, store, "c-r")
    assert (report.environment, report.direction, report.best) == ("released", "max", ("001", 1.5))
    (folder / "tree.tsv").unlink()
    with pytest.raises(UsageError, match="which column is the score"):
        import_released(folder, store, "c-s")


def test_released_import_goes_on_and_is_not_repeated(tmp_path: Path, store: Store) -> None:
    folder = write(tmp_path / "run", [BASE, golf(1, "keep", "1.08")])
    assert import_released(folder, store, "c-r").added == 2
    assert import_released(folder, store, "c-r").added == 0
    assert len(rows(store)) == 2
    other = write(tmp_path / "other", [BASE, golf(1, "keep", "1.07")])
    with pytest.raises(UsageError, match="already holds something else"):
        import_released(other, store, "c-r")


def test_released_files_are_kept_as_they_were(tmp_path: Path, store: Store) -> None:
    folder = write(tmp_path / "run" / "blackboard", [BASE, golf(1, "keep", "1.08")], tree=[])
    (folder / "best.json").write_text('{"exp_id": "001", "val_bpb": 1.05}')
    report = import_released(tmp_path / "run", store, "c-r")
    assert report.warnings == ("best.json says 001 with 1.05, the rows say 001 with 1.08",)
    detail = json.loads(Lineage(store, "c-r").refresh().events("campaign")[0].detail_json)
    for name, sha in detail["files"].items():
        assert get_blob(store, sha) == (folder / name).read_bytes()
    assert set(detail["files"]) == {"results.tsv", "tree.tsv", "best.json"}


def test_released_folder_without_records_is_refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(UsageError, match="no folder"):
        import_released(tmp_path / "nowhere", store, "c-r")
    with pytest.raises(UsageError, match=r"no results\.tsv"):
        import_released(tmp_path, store, "c-r")
    (tmp_path / "results.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(UsageError, match="no columns exp_id and status"):
        import_released(tmp_path, store, "c-r")


def test_released_tree_only_row_takes_its_place_and_times_may_be_missing(tmp_path: Path) -> None:
    tree = [line(TREE, exp_id="002", parent_exp="001", specialist="loss", status="keep", val_bpb="1.07")]
    undated = golf(3, "discard", "1.09", timestamp="")
    folder = write(tmp_path, [BASE, golf(1, "keep", "1.08"), undated], tree=tree)
    assert [row.id for row in read_run(folder).rows] == ["000", "001", "002", "003"]
