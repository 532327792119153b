"""Processes that the crash tests kill: a writer that acknowledges each row, and a compactor."""

from __future__ import annotations

import os
import sys

from lineage.log.journal import Journal
from lineage.log.log_reader import Lineage
from lineage.records import Row
from lineage.store.blobs import put_blob
from lineage.store.objects import open_store
from lineage.store.results import put_result

C = "c-crash"


def write(root: str, name: str) -> None:
    """Blob, result, row; then the trial id on standard output: what was printed is promised."""
    store = open_store(root)
    journal = Journal(store, C, name)
    print("ready", flush=True)
    for number in range(100_000):
        trial = f"{name}-{number:05d}"
        sha = put_blob(store, f"diff of {trial}".encode() * 50)
        put_result(store, C, trial, "screen", f'{{"score":{number}}}'.encode())
        journal.append(Row(event="trial", campaign=C, trial=trial, diff_sha256=sha, score=number))
        os.write(1, f"{trial}\n".encode())


def compact(root: str) -> None:
    table = Lineage(open_store(root), C, "min")
    print("ready", flush=True)
    while True:
        table.compact(min_new=2)


if __name__ == "__main__":
    {"write": write, "compact": compact}[sys.argv[1]](*sys.argv[2:])
