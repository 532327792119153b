"""The objects of a campaign in a local folder or `s3://bucket/prefix`, behind six functions.

Use: `store = open_store(root, create=True)`, then `create`, `get`, `get_many`, `list`, `exists`.
`create` is the only way to write: same bytes already there is quiet success, other bytes raise
`ObjectExists`. Nothing can be overwritten, and `delete` refuses everything but compacted log objects
and the probe of `check_store`.
Limits: a local root needs a file system with hard links; an S3 endpoint must honour `If-None-Match`
(`check_store` proves it). s3fs is imported only for s3:// roots.
"""

from __future__ import annotations

import errno
import os
import socket
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from lineage.errors import (
    ObjectExists,
    ObjectMissing,
    StoreCorrupt,
    StoreDenied,
    StoreError,
    StoreUnavailable,
    UsageError,
)
from lineage.store.key_rules import check_delete, check_key

MARKER = "bakeoff-store.json"
MARKER_BYTES = b'{"format":1,"kind":"bakeoff-store"}'


class Store(Protocol):
    """What every part of the engine may do with stored bytes. Keys are relative, with `/`."""

    @property
    def root(self) -> str: ...
    def create(self, key: str, data: bytes) -> None: ...
    def get(self, key: str) -> bytes: ...
    def get_many(self, keys: Sequence[str]) -> list[bytes]: ...
    def list(self, folder: str, after: str = "") -> list[str]: ...
    def exists(self, key: str) -> bool: ...
    def delete(self, keys: Sequence[str]) -> None: ...


def open_store(root: str | Path, *, create: bool = False) -> Store:
    """Open the store at a path, `file://` or `s3://` root; with `create`, start it if it is not there."""
    text = str(root)
    store: Store
    if text.startswith("s3://"):
        from lineage.store.s3 import S3Store

        store = S3Store(text)
    elif "://" in text and not text.startswith("file://"):
        raise UsageError(f"{text!r} is no store: give a folder, file:///folder or s3://bucket/prefix")
    else:
        store = LocalStore(text.removeprefix("file://"))
    if create:
        _mark(store)
    elif not store.exists(MARKER):
        raise ObjectMissing(
            f"no store at {text}: {MARKER} is not there; check the path, or start a campaign on it"
        )
    return store


def _mark(store: Store) -> None:
    try:
        store.create(MARKER, MARKER_BYTES)
    except ObjectExists as error:
        found = store.get(MARKER)
        raise StoreCorrupt(
            f"{MARKER} in {store.root} holds {found[:60]!r} instead of {MARKER_BYTES!r}: it was made by another"
            " version or damaged; choose another root, or restore that file"
        ) from error


def check_store(store: Store) -> None:
    """Prove that create-if-absent works here; raises StoreDenied when a second create succeeded.

    Some S3 look-alikes answer 200 to a conditional PUT and overwrite (rclone serve s3 does).
    """
    key = f"probe/{uuid.uuid4().hex}"
    store.create(key, b"first")
    try:
        store.create(key, b"second")
    except ObjectExists:
        kept = store.get(key) == b"first"
    else:
        kept = False
    store.delete([key])
    if not kept:
        raise StoreDenied(
            f"{store.root} does not honour create-if-absent (If-None-Match): a second write replaced the first,"
            " so results could be overwritten; use AWS S3, SeaweedFS >= 4.48, MinIO, or a local folder"
        )


class LocalStore:
    """A folder. Each object is written to `.tmp/`, fsynced, hard-linked into place, and its folder fsynced.

    fsspec's own local `mode="create"` is neither exclusive nor atomic (measured: 3 of 100 keys had two
    winners, and a torn file was visible after SIGKILL), hence the link.
    """

    def __init__(self, root: str | Path) -> None:
        self._path = Path(root).expanduser().absolute()
        self._swept = False

    @property
    def root(self) -> str:
        return str(self._path)

    def __repr__(self) -> str:
        return f"LocalStore({self.root!r})"

    def create(self, key: str, data: bytes) -> None:
        check_key(key)
        target = self._path / key
        for _ in range(3):
            try:
                self._create(target, data)
                return
            except FileExistsError:
                if self._holds(target, data):
                    return
                raise ObjectExists(
                    f"{key} in {self.root} already holds other bytes; results are never overwritten"
                ) from None
            except FileNotFoundError:
                continue  # a sweep by another process removed our temporary file: write it again
            except OSError as error:
                raise self._sentence(error, "write", key) from error
        raise StoreUnavailable(
            f"could not write {key} under {self.root}: its temporary file vanished three times"
        )

    def _create(self, target: Path, data: bytes) -> None:
        self._folder(target.parent)
        self._sweep()
        temporary = self._path / ".tmp" / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
        self._folder(temporary.parent)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)

    def _folder(self, folder: Path) -> None:
        """Make a folder and its parents durable; cheap when it is there."""
        if folder.is_dir():
            return
        if folder.parent != folder:
            self._folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)

    def _sweep(self) -> None:
        """Remove temporary files of ended processes of this machine, once per store object."""
        if self._swept:
            return
        self._swept = True
        mine = socket.gethostname()
        for entry in _scan(self._path / ".tmp"):
            host, _, rest = entry.name.rpartition("-")[0].rpartition("-")
            if (
                host == mine
                and rest.isdigit()
                and not Path(f"/proc/{rest}").exists()
                and Path("/proc/self").exists()
            ):
                Path(entry.path).unlink(missing_ok=True)

    def _holds(self, target: Path, data: bytes) -> bool:
        try:
            return target.read_bytes() == data
        except OSError as error:
            raise self._sentence(error, "read", str(target)) from error

    def get(self, key: str) -> bytes:
        try:
            return (self._path / check_key(key)).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectMissing(f"no object {key} in {self.root}") from None
        except OSError as error:
            raise self._sentence(error, "read", key) from error

    def get_many(self, keys: Sequence[str]) -> list[bytes]:
        return [self.get(key) for key in keys]

    def list(self, folder: str, after: str = "") -> list[str]:
        """Keys below a folder that sort after `after`, sorted; an absent folder is empty. Links are not followed."""
        top = self._path / folder.strip("/")
        if not self._path.is_dir():
            raise StoreUnavailable(
                f"the store folder {self.root} is not there: was it moved, or is the disk unmounted?"
            )
        try:
            return sorted(key for key in _walk(top, len(self.root) + 1) if key > after)
        except OSError as error:
            raise self._sentence(error, "list", folder) from error

    def exists(self, key: str) -> bool:
        return (self._path / check_key(key)).is_file()

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            try:
                (self._path / check_delete(key, self.root)).unlink(missing_ok=True)
            except OSError as error:
                raise self._sentence(error, "delete", key) from error

    def _sentence(self, error: OSError, verb: str, key: str) -> StoreError:
        name = errno.errorcode.get(error.errno or 0, "unknown")
        where = f"could not {verb} {key} in the store {self.root}: {name}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreUnavailable(
                f"{where}, the disk is full; nothing was half-written: free space and go on"
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return StoreDenied(
                f"{where} ({error.strerror}); the folder must be writable and allow hard links"
            )
        if error.errno in (errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV, errno.ENOSYS):
            return StoreDenied(
                f"{where} ({error.strerror}); this file system has no hard links: choose another folder"
            )
        return StoreUnavailable(f"{where} ({error.strerror}); the write can be tried again")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except FileNotFoundError:
        return


def _walk(folder: Path, skip: int) -> Iterator[str]:
    for entry in _scan(folder):
        if entry.name == ".tmp":
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), skip)
        else:
            yield entry.path[skip:]
