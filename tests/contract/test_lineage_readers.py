"""A finished campaign is plain Parquet: the one-line reads of lineage/README.md, local and on S3."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pytest
from store_campaign import C, write_campaign

from lineage.store.objects import open_store

REPO = Path(__file__).resolve().parents[2]
SCORES = [number / 10 for number in range(6)]


def test_lineage_plain_readers_see_every_row_local(tmp_path: Path) -> None:
    root = str(tmp_path / "run")
    store = open_store(root, create=True)
    write_campaign(store)
    write_campaign(store, trials=2, campaign="c-other")
    assert store.list("log") == []
    query = f"select campaign, event, score, t_written from read_parquet('{root}/lineage/**/*.parquet', hive_partitioning=true)"
    frames = {
        "pandas": pd.read_parquet(f"{root}/lineage"),
        "polars": pl.scan_parquet(f"{root}/lineage/**/*.parquet", hive_partitioning=True)
        .collect()
        .to_pandas(),
        "duckdb": pd.DataFrame(
            duckdb.sql(query).fetchall(), columns=["campaign", "event", "score", "t_written"]
        ),
    }
    for name, frame in frames.items():
        mine = frame[(frame["campaign"].astype(str) == C) & (frame["event"] == "trial")]
        assert len(frame) == (6 * 2 + 2) + (2 * 2 + 2), name
        assert sorted(mine["score"]) == SCORES, name
        assert mine["t_written"].notna().all(), name


def test_lineage_plain_readers_see_every_row_on_s3(s3_root: str) -> None:
    store = open_store(s3_root, create=True)
    write_campaign(store)
    frame = pd.read_parquet(
        f"{s3_root}/lineage", storage_options={"endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
    )
    assert sorted(frame[frame["event"] == "trial"]["score"]) == SCORES
    filesystem = pafs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"])
    dataset = ds.dataset(
        f"{s3_root.removeprefix('s3://')}/lineage", filesystem=filesystem, partitioning="hive"
    )
    assert dataset.count_rows() == 6 * 2 + 2
    (best,) = duckdb.sql("select max(score) from dataset").fetchall()
    assert best == (0.5,)


READ = """
import os
import sys

from lineage.store.objects import open_store
from lineage.log.log_reader import Lineage

store = open_store(sys.argv[1])
before = len(os.listdir("/proc/self/task"))
view = Lineage(store, sys.argv[2]).refresh()
print(view.count(), len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_lineage_is_read_without_a_thread_of_arrow(tmp_path: Path) -> None:
    """One that is still at work when the interpreter ends aborts the process after its last line."""
    root = str(tmp_path / "run")
    write_campaign(open_store(root, create=True), tail=2)
    done = subprocess.run(
        [sys.executable, "-c", READ, root, C], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["6", "0"]
