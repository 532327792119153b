"""Content-addressed bytes: diffs, source files, prompts, exchanges, measurements.

Use: `sha = put_blob(store, data)`, `get_blob(store, sha)`; `put_tree` / `get_tree` for a set of files.
A blob lies at `blobs/sha256/<ab>/<sha256 of the content>.zst`: one zstd frame (any `zstd -d` reads
it), then a skippable frame with the sha256 of the first, so that a flipped bit is found even where
decompression would not notice. A tree is the blob whose text is `path NUL sha256` lines: its
sha256 is `ids.tree_hash` of the files.
Limits: whole blobs in memory; meant for kilobytes to a few megabytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

import pyarrow as pa

from lineage.errors import ObjectExists, StoreCorrupt, UsageError
from lineage.ids import sha256, tree_manifest
from lineage.store.objects import Store

# RFC 8878 section 3.1.2: a skippable frame is magic, length, bytes that a decoder passes over.
_TRAILER = struct.pack("<II", 0x184D2A50, 32)


def blob_key(sha: str) -> str:
    if len(sha) != 64 or set(sha) - set("0123456789abcdef"):
        raise UsageError(f"{sha!r} is not a sha256; a blob is named by 64 hex digits")
    return f"blobs/sha256/{sha[:2]}/{sha}.zst"


def pack(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    frame = bytes(sink.getvalue().to_pybytes())
    return frame + _TRAILER + hashlib.sha256(frame).digest()


def unpack(stored: bytes, key: str) -> bytes:
    frame, trailer = stored[:-40], stored[-40:]
    if trailer != _TRAILER + hashlib.sha256(frame).digest():
        raise StoreCorrupt(
            f"{key}: the stored bytes do not match their checksum; restore the object from a copy"
        )
    try:
        return bytes(pa.CompressedInputStream(pa.BufferReader(frame), "zstd").read())
    except OSError as error:
        raise StoreCorrupt(
            f"{key}: cannot be decompressed ({error}); restore the object from a copy"
        ) from error


def put_blob(store: Store, data: bytes) -> str:
    """Store bytes under their hash and return it; the same content is stored once."""
    sha = sha256(data)
    key = blob_key(sha)
    try:
        store.create(key, pack(data))
    except ObjectExists:
        # Another zstd version packs the same content differently; only other content is damage.
        get_blob(store, sha)
    return sha


def get_blob(store: Store, sha: str) -> bytes:
    """The bytes with this hash; raises ObjectMissing, or StoreCorrupt when they do not match the name."""
    key = blob_key(sha)
    return _checked(store.get(key), sha, key)


def _checked(stored: bytes, sha: str, key: str) -> bytes:
    data = unpack(stored, key)
    if sha256(data) != sha:
        raise StoreCorrupt(
            f"{key}: holds other content (sha256 {sha256(data)}); restore the object from a copy"
        )
    return data


def put_tree(store: Store, files: Mapping[str, bytes]) -> str:
    """Store every file and the manifest last; return the tree hash."""
    hashes = {path: put_blob(store, data) for path, data in files.items()}
    return put_blob(store, tree_manifest(hashes))


def read_manifest(data: bytes, name: str) -> dict[str, str]:
    """path -> sha256 of a tree manifest; StoreCorrupt when the bytes are something else."""
    entries: dict[str, str] = {}
    try:
        for line in data.decode().splitlines():
            path, sha = line.split("\0")
            entries[path] = sha
    except (UnicodeDecodeError, ValueError) as error:
        raise StoreCorrupt(f"blob {name} is not a source tree: {error}") from error
    if tree_manifest(entries) != data:
        raise StoreCorrupt(f"blob {name} is not a source tree in canonical form")
    return entries


def get_tree(store: Store, sha: str) -> dict[str, bytes]:
    """The files of a tree, every one verified against its hash."""
    entries = read_manifest(get_blob(store, sha), sha)
    keys = [blob_key(entry) for entry in entries.values()]
    stored = store.get_many(keys)
    return {
        path: _checked(data, entry, key)
        for (path, entry), key, data in zip(entries.items(), keys, stored, strict=True)
    }
