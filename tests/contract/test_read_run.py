"""Reading a run from Python: the README's example, on a store that an earlier revision wrote."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import pytest
import quick

from lineage.errors import ObjectMissing, UnknownName
from lineage.read_run import open_run

ARCHIVE = Path(__file__).resolve().parents[1] / "fixtures" / "stores-9651ac0.tar.xz"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_the_readme_s_example_runs(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (quick.ROOT / "README.md").read_text("utf-8")
    (example,) = (
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "open_run" in block
    )
    names: dict[str, object] = {}
    exec(example.replace("runs/first", str(stores / "first")), names)
    said = capsys.readouterr().out
    assert "baseline" in said and "+++ b/" in said and "'accuracy':" in said
    trials = names["trials"]
    assert trials.index[0] == "t0000" and set(trials["trust"]) == {"judged"}  # type: ignore[attr-defined]


def test_a_trial_s_parts_agree(stores: Path) -> None:
    run = open_run(str(stores / "first"))
    best, start = run.trial(), run.trial("baseline")
    assert best.measurement is not None and best.measurement.trust == "judged"
    assert best.measurement.score == best.row.score == best.quantities[best.measurement.metric]
    assert start.diff == "" and set(start.files) == set(best.files) and start.files != best.files
    assert list(run.champions().index)[-1] == best.id == run.trial(best.id).id
    assert run.best_so_far()["score"].is_monotonic_increasing and run.spec is not None
    assert list(best.curves().columns) == ["training", "run", "step", "value"]
    assert len(run.events()) > len(run.trials()) and len(run.refresh().trials()) == len(run.trials())


def test_what_is_not_there_is_named(stores: Path) -> None:
    run = open_run(str(stores / "first"))
    with pytest.raises(UnknownName, match="t9999"):
        run.trial("t9999")
    with pytest.raises(UnknownName, match="c-none"):
        open_run(str(stores / "first"), "c-none")
    with pytest.raises(ObjectMissing, match="no store at"):
        open_run(str(stores / "home"))
