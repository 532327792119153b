"""What every store must do, run unchanged on a folder and on a real S3 server."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from lineage.errors import ObjectExists, ObjectMissing, StoreCorrupt, StoreDenied, StoreError, UsageError
from lineage.ids import tree_hash
from lineage.store.blobs import blob_key, get_blob, get_tree, put_blob, put_tree
from lineage.store.objects import MARKER, LocalStore, check_store, open_store
from lineage.store.results import claim_key, get_result, list_results, put_result


def test_store_create_get_list(store_root: str) -> None:
    store = open_store(store_root, create=True)
    store.create("log/a/2", b"two")
    store.create("log/a/1", b"one")
    store.create("log/ab/3", b"")
    assert store.get("log/a/1") == b"one"
    assert store.get("log/ab/3") == b""
    assert store.get_many(["log/a/2", "log/a/1"]) == [b"two", b"one"]
    assert store.get_many(["log/a/2"]) == [b"two"]
    assert store.get_many([]) == []
    assert store.list("log/a") == ["log/a/1", "log/a/2"], "a folder is not a name prefix"
    assert store.list("log") == ["log/a/1", "log/a/2", "log/ab/3"]
    assert store.list("nowhere") == []
    assert MARKER in store.list("")
    assert store.exists("log/a/1") and not store.exists("log/a/9") and not store.exists("log/a")


def test_store_create_is_exclusive_and_idempotent(store_root: str) -> None:
    store = open_store(store_root, create=True)
    store.create("results/x", b"first")
    store.create("results/x", b"first")
    with pytest.raises(ObjectExists, match=r"results/x.*never overwritten"):
        store.create("results/x", b"second")
    assert store.get("results/x") == b"first"


def test_store_missing_objects_have_a_sentence(store_root: str) -> None:
    store = open_store(store_root, create=True)
    with pytest.raises(ObjectMissing, match=r"no object blobs/none in "):
        store.get("blobs/none")
    with pytest.raises(FileNotFoundError):
        store.get_many([MARKER, "blobs/none"])


def test_store_delete_spares_the_record(store_root: str) -> None:
    store = open_store(store_root, create=True)
    store.create("log/a", b"1")
    store.create("results/a", b"1")
    store.delete(["log/a", "log/never-there"])
    assert not store.exists("log/a")
    with pytest.raises(StoreDenied, match="never deleted"):
        store.delete(["results/a"])
    assert store.exists("results/a")


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "a//b", "a/../b", "a/./b", "a\0b", "a\\b", "x" * 901]
)
def test_store_refuses_keys_that_could_leave_the_root(tmp_path: Path, key: str) -> None:
    store = LocalStore(tmp_path)
    with pytest.raises(UsageError, match="not an object key"):
        store.create(key, b"")


def test_store_opens_only_what_is_there(store_root: str) -> None:
    with pytest.raises(ObjectMissing, match="no store at"):
        open_store(store_root)
    open_store(store_root, create=True)
    open_store(store_root, create=True)
    assert open_store(store_root).root.rstrip("/") == store_root.rstrip("/")


def test_store_marker_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text('{"format":99}')
    with pytest.raises(StoreCorrupt, match="format"):
        open_store(tmp_path, create=True)


@pytest.mark.parametrize("root", ["http://host/x", "gs://bucket/x", "s3://"])
def test_store_roots_it_cannot_open(root: str) -> None:
    with pytest.raises(UsageError):
        open_store(root)


def test_store_probe_accepts_both_and_leaves_nothing(store_root: str) -> None:
    store = open_store(store_root, create=True)
    check_store(store)
    assert store.list("probe") == []


class Sloppy(LocalStore):
    """Answers like `rclone serve s3`: a conditional write that overwrites."""

    def create(self, key: str, data: bytes) -> None:
        path = Path(self.root) / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def test_store_probe_refuses_a_server_that_overwrites(tmp_path: Path) -> None:
    with pytest.raises(StoreDenied, match="does not honour create-if-absent"):
        check_store(Sloppy(tmp_path))


def race(job: tuple[str, str, int]) -> list[int]:
    root, who, keys = job
    store = open_store(root)
    wins = []
    for at in range(keys):
        try:
            store.create(f"race/{at:03d}", who.encode() * 50)
            wins.append(at)
        except ObjectExists:
            pass
    return wins


def test_store_one_winner_per_key(store_root: str) -> None:
    open_store(store_root, create=True)
    keys, processes = 20, 4
    with get_context("spawn").Pool(processes) as pool:
        won = pool.map(race, [(store_root, f"w{who}", keys) for who in range(processes)])
    store = open_store(store_root)
    for at in range(keys):
        winners = [who for who in range(processes) if at in won[who]]
        assert len(winners) == 1
        assert store.get(f"race/{at:03d}") == f"w{winners[0]}".encode() * 50


def test_store_serves_threads_and_travels_to_processes(store_root: str) -> None:
    store = open_store(store_root, create=True)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: store.create(f"log/{at:02d}", bytes([at])), range(32)))
    assert store.get_many(store.list("log")) == [bytes([at]) for at in range(32)]
    assert pickle.loads(pickle.dumps(store)).get("log/07") == b"\x07"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_store_works_in_a_forked_child(store_root: str) -> None:
    store = open_store(store_root, create=True)
    store.create("log/parent", b"1")
    child = get_context("fork").Process(target=store.create, args=("log/child", b"2"))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert store.get("log/child") == b"2"


def test_store_blobs_and_trees(store_root: str) -> None:
    store = open_store(store_root, create=True)
    sha = put_blob(store, b"hello")
    assert put_blob(store, b"hello") == sha
    assert get_blob(store, sha) == b"hello"
    assert get_blob(store, put_blob(store, b"")) == b""
    files = {"train.py": b"x = 1\n", "models/net.py": b"", "prédire.py": bytes(range(256)) * 100}
    tree = put_tree(store, files)
    assert tree == tree_hash(files)
    assert get_tree(store, tree) == files
    with pytest.raises(ObjectMissing):
        get_blob(store, "0" * 64)
    with pytest.raises(StoreCorrupt, match="not a source tree"):
        get_tree(store, sha)
    with pytest.raises(UsageError):
        get_blob(store, "../../etc")


def test_store_results_are_written_once(store_root: str) -> None:
    store = open_store(store_root, create=True)
    sha = put_result(store, "c-a", "t1", "screen", b'{"score":1}')
    assert put_result(store, "c-a", "t1", "screen", b'{"score":1}') == sha
    with pytest.raises(ObjectExists):
        put_result(store, "c-a", "t1", "screen", b'{"score":2}')
    assert get_result(store, "c-a", "t1", "screen") == b'{"score":1}'
    assert get_result(store, "c-a", "t1", "sealed") is None
    put_result(store, "c-a", "t1", "confirm-1", b"x")
    put_result(store, "c-a", "t10", "screen", b"y")
    assert list_results(store, "c-a", "t1") == ["confirm-1", "screen"]
    assert list_results(store, "c-a", "t9") == []
    with pytest.raises(UsageError):
        put_result(store, "c-a", "../t1", "screen", b"")
    with pytest.raises(UsageError):
        put_result(store, "007", "t1", "screen", b"")


def test_store_damage_in_local_blobs_and_claims_is_found(tmp_path: Path) -> None:
    store = open_store(tmp_path, create=True)
    sha = put_result(store, "c-a", "t1", "screen", b'{"score":1}')
    for key, read in (
        (blob_key(sha), lambda: get_blob(store, sha)),
        (claim_key("c-a", "t1", "screen"), lambda: get_result(store, "c-a", "t1", "screen")),
    ):
        path = tmp_path / key
        whole = path.read_bytes()
        path.chmod(0o644)
        for at in range(len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            with pytest.raises(StoreError):
                read()
        path.write_bytes(whole)
        read()
