"""Downloads against a real local server: resume, check, size first, and one sentence when it does not work."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import environment_stand_ins  # noqa: F401  (puts recipes/ on the path)
import pytest
from _common import fetch
from _common.wheels import Wanted

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """`/file` with ranges; `/cut` breaks off half way; `/busy` is 503 once; `/linked` states a hash and moves on."""

    asked: list[tuple[str, str]] = []

    def do_HEAD(self) -> None:
        self.send_response(302 if self.path == "/linked" else 200)
        if self.path == "/linked":
            self.send_header("X-Linked-Etag", f'"{SHA256}"')
            self.send_header("Location", "/nowhere")
        self.end_headers()

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.asked.append((self.path, wanted))
        if self.path == "/gone" or (self.path == "/busy" and len(self.asked) == 1):
            self.send_error(404 if self.path == "/gone" else 503)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted).group(1)) if wanted else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" and not wanted else body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    Handler.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def get(url: str, target: Path, sha256: str | None = SHA256) -> Path:
    return fetch.download(url, target, sha256, len(CONTENT), "the file", "give it by hand")


def test_a_download_says_its_size_and_is_checked(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get(f"{server}/file", tmp_path / "a/b").read_bytes() == CONTENT
    assert "downloading the file: 1.0 MB" in capsys.readouterr().out
    with pytest.raises(Wanted, match=r"has sha256 .* was expected; give it by hand"):
        get(f"{server}/file", tmp_path / "c", "0" * 64)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["b"], "nothing wrong is kept"


def test_a_broken_download_goes_on_where_it_stopped(server: str, tmp_path: Path) -> None:
    assert get(f"{server}/cut", tmp_path / "b").read_bytes() == CONTENT
    assert Handler.asked == [("/cut", ""), ("/cut", f"bytes={len(CONTENT) // 2}-")]


def test_an_earlier_part_is_used_and_an_overlong_one_is_not(server: str, tmp_path: Path) -> None:
    (tmp_path / "b.part").write_bytes(CONTENT[:100_000])
    assert get(f"{server}/file", tmp_path / "b").read_bytes() == CONTENT
    assert Handler.asked == [("/file", "bytes=100000-")]
    (tmp_path / "c.part").write_bytes(CONTENT + b"x")
    with pytest.raises(Wanted, match="the server answered 416"):
        get(f"{server}/file", tmp_path / "c")
    assert get(f"{server}/file", tmp_path / "c").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server: str, tmp_path: Path) -> None:
    assert get(f"{server}/busy", tmp_path / "b").is_file()
    asked = len(Handler.asked)
    with pytest.raises(Wanted, match="the server answered 404"):
        get(f"{server}/gone", tmp_path / "c")
    assert len(Handler.asked) == asked + 1


def test_the_stated_hash_of_a_large_file_is_read_without_following(server: str) -> None:
    assert fetch.linked_sha256(f"{server}/linked") == SHA256
    assert fetch.linked_sha256(f"{server}/file") is None
    assert fetch.linked_sha256("http://127.0.0.1:9/file") is None


def test_no_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "TRIES", 1)
    with pytest.raises(
        Wanted, match=r"could not download the file from http://127\.0\.0\.1:9/x .*give it by hand"
    ):
        get("http://127.0.0.1:9/x", tmp_path / "b")
