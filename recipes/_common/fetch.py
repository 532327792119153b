"""Downloads that resume, are checked, and say their size first; repositories at a pinned commit.

Use: `download(url, target, sha256, size)`, `repository_files(repo, given, cache)`. Limits: plain HTTP(S) with
urllib; raises `Wanted`, whose text is one sentence naming what was wanted and how to supply it by hand.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from _common import prepared
from _common.wheels import Wanted

TIMEOUT_S = 30
TRIES = 3
CHUNK = 1 << 20
HEADERS = {"User-Agent": "bakeoff-prepare", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Repository:
    """A public repository: `files` maps each path that is needed to its sha256 at `commit`."""

    name: str
    commit: str
    files: Mapping[str, str]

    def url(self, path: str) -> str:
        return f"https://raw.githubusercontent.com/{self.name}/{self.commit}/{path}"


def downloads_folder() -> Path:
    home = os.environ.get("BAKEOFF_HOME")
    return (Path(home) if home else Path.home() / ".cache" / "bakeoff") / "downloads"


def repository_files(repo: Repository, given: Path | None, cache: Path, by_hand: str) -> dict[str, bytes]:
    """Contents of `repo.files`, from the clone or folder `given`, else from the cache or the network."""
    found = {}
    for path, sha256 in repo.files.items():
        if given is not None:
            content = _from_folder(repo, path, given)
        else:
            target = cache / repo.commit[:12] / path
            if not target.is_file() or prepared.sha256_file(target) != sha256:
                download(repo.url(path), target, sha256, None, f"{path} of {repo.name}", by_hand)
            content = target.read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise Wanted(
                f"{given}/{path} is not {repo.name} at {repo.commit[:12]}: its sha256 does not match; "
                f"check that commit out, or give a clone that has it"
            )
        found[path] = content
    return found


def _from_folder(repo: Repository, path: str, folder: Path) -> bytes:
    """The file at the pinned commit if `folder` is a clone that has it, else the file as it lies there."""
    if not folder.is_dir():
        raise Wanted(f"no folder {folder}; --repo must be a clone of {repo.name} or a folder with its files")
    command = ["git", "-C", str(folder), "show", f"{repo.commit}:{path}"]
    with contextlib.suppress(OSError):
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode == 0:
            return done.stdout
    if not (folder / path).is_file():
        raise Wanted(f"{folder} holds no {path} of {repo.name} at {repo.commit[:12]}; give a full clone")
    return (folder / path).read_bytes()


def download(url: str, target: Path, sha256: str | None, size: int | None, what: str, by_hand: str) -> Path:
    """Fetch `url` into `target`, going on where an earlier attempt stopped, and check it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    reason = "no attempt"
    for attempt in range(TRIES):
        try:
            _fetch(url, part, size, what)
            break
        except urllib.error.HTTPError as error:
            reason = f"the server answered {error.code}"
            if error.code < 500 and error.code != 429:
                raise Wanted(f"could not download {what} from {url} ({reason}); {by_hand}") from None
        except (OSError, urllib.error.URLError) as error:
            reason = str(getattr(error, "reason", error))[:160]
        time.sleep(0.5 * 2**attempt if attempt + 1 < TRIES else 0)
    else:
        raise Wanted(f"could not download {what} from {url} ({reason}); {by_hand}")
    if sha256 is not None and (found := prepared.sha256_file(part)) != sha256:
        part.unlink()
        raise Wanted(
            f"{what} from {url} has sha256 {found[:12]}… where {sha256[:12]}… was expected; {by_hand}"
        )
    part.rename(target)
    return target


def _fetch(url: str, part: Path, size: int | None, what: str) -> None:
    have = part.stat().st_size if part.is_file() else 0
    if size is not None and have == size:
        return
    headers = HEADERS | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        reply = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is as long as the file, or longer: start again
            part.unlink()
        raise
    with reply, part.open("ab" if reply.status == 206 else "wb") as handle:
        have = have if reply.status == 206 else 0
        length = reply.headers.get("Content-Length")
        total = have + int(length) if length else None
        print(f"downloading {what}: {_mb(total)}{f', {_mb(have)} already here' if have else ''}", flush=True)
        shown = time.monotonic()
        while data := reply.read(CHUNK):
            handle.write(data)
            have += len(data)
            if sys.stdout.isatty() and time.monotonic() - shown > 0.5:
                shown = time.monotonic()
                print(f"\r  {_mb(have)} of {_mb(total)}", end="", flush=True)
    for wanted in (total, size):
        if wanted is not None and have != wanted:
            raise OSError(f"the connection ended at {have} of {wanted} bytes")


def _mb(size: int | None) -> str:
    return "size unknown" if size is None else f"{size / 1e6:.1f} MB"


def linked_sha256(url: str) -> str | None:
    """The sha256 that Hugging Face states for a large file; None where it states none."""
    request = urllib.request.Request(url, headers=HEADERS, method="HEAD")

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: object) -> None:
            return None

    try:
        with urllib.request.build_opener(Stay).open(request, timeout=TIMEOUT_S) as reply:
            tag = reply.headers.get("X-Linked-Etag", "")
    except urllib.error.HTTPError as error:
        tag = error.headers.get("X-Linked-Etag", "") if 300 <= error.code < 400 else ""
        error.close()
    except OSError:
        return None
    tag = (tag or "").strip('"')
    return tag if len(tag) == 64 and all(c in "0123456789abcdef" for c in tag) else None
