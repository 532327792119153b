"""The same six functions on S3 and everything that speaks it; the only module that uses s3fs.

Use: `open_store("s3://bucket/prefix")`. Endpoint, region and keys come from the standard variables
AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE.
A server that is down is retried with growing pauses for about `patience` seconds, then
`StoreUnavailable`; wrong keys, a missing bucket and a skewed clock are `StoreDenied` at once.
Limits: the s3fs object is made per process (it does not survive a fork) and never lists from its cache.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from lineage.errors import ObjectExists, ObjectMissing, StoreDenied, StoreError, StoreUnavailable, UsageError
from lineage.store.key_rules import check_delete, check_key

PATIENCE_S = 60.0
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"})
OTHER_REGION = frozenset(
    {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
T = TypeVar("T")


class S3Store:
    """Objects under `s3://bucket/prefix`, written by conditional PUT."""

    def __init__(self, root: str, *, patience: float = PATIENCE_S) -> None:
        path = root.removeprefix("s3://").strip("/")
        if not path:
            raise UsageError(f"{root!r} names no bucket; give s3://bucket/prefix")
        self._base = path
        self._bucket, _, prefix = path.partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._patience = patience

    @property
    def root(self) -> str:
        return f"s3://{self._base}"

    def __repr__(self) -> str:
        return f"S3Store({self.root!r})"

    def create(self, key: str, data: bytes) -> None:
        path = f"{self._base}/{check_key(key)}"

        def put() -> None:
            try:
                _filesystem().pipe_file(path, data, mode="create")
            except Exception as error:
                if not _refused(error):
                    raise
                # The reply to our own earlier try may have been lost, so equal bytes are success.
                try:
                    held = _filesystem().cat_file(path)
                except FileNotFoundError:
                    raise ConnectionError("a rival upload of this key was in flight") from error
                if held != data:
                    raise ObjectExists(
                        f"{key} in {self.root} already holds other bytes; results are never overwritten"
                    ) from error

        self._patiently("write", key, put)

    def get(self, key: str) -> bytes:
        path = f"{self._base}/{check_key(key)}"
        return bytes(self._patiently("read", key, lambda: _filesystem().cat_file(path)))

    def get_many(self, keys: Sequence[str]) -> list[bytes]:
        paths = [f"{self._base}/{check_key(key)}" for key in keys]
        if not paths:
            return []

        def cat() -> dict[str, Any]:
            found: dict[str, Any] = _filesystem().cat(paths, on_error="return")
            for value in found.values():
                if isinstance(value, Exception):
                    raise value
            return found

        found = self._patiently("read", f"{keys[0]} and {len(keys) - 1} more", cat)
        return [bytes(found[path]) for path in paths]

    def list(self, folder: str, after: str = "") -> list[str]:
        """Keys below a folder after `after`, sorted. Not `fs.find`: that answers "empty" for a missing bucket."""
        prefix = f"{self._prefix}{folder.strip('/')}/" if folder.strip("/") else self._prefix
        keys: list[str] = []
        more = {"StartAfter": f"{self._prefix}{after}"} if after else {}
        while True:
            page = self._patiently("list", folder, lambda m=more: self._page(prefix, m))  # type: ignore[misc]
            keys += [item["Key"][len(self._prefix) :] for item in page.get("Contents", [])]
            if not page.get("IsTruncated"):
                return sorted(key for key in keys if not key.endswith("/"))
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def _page(self, prefix: str, more: dict[str, str]) -> dict[str, Any]:
        page: dict[str, Any] = _filesystem().call_s3(
            "list_objects_v2", Bucket=self._bucket, Prefix=prefix, **more
        )
        return page

    def exists(self, key: str) -> bool:
        name = f"{self._prefix}{check_key(key)}"

        def head() -> bool:
            try:
                _filesystem().call_s3("head_object", Bucket=self._bucket, Key=name)
            except FileNotFoundError:
                self._page(
                    f"{self._prefix}probe/", {}
                )  # HEAD cannot tell a missing key from a missing bucket
                return False
            return True

        return self._patiently("look for", key, head)

    def delete(self, keys: Sequence[str]) -> None:
        names = [{"Key": f"{self._prefix}{check_delete(key, self.root)}"} for key in keys]
        for start in range(0, len(names), 500):
            batch = {"Objects": names[start : start + 500], "Quiet": True}
            self._patiently("delete", keys[start], lambda b=batch: self._delete(b))  # type: ignore[misc]

    def _delete(self, batch: dict[str, Any]) -> None:
        answer = _filesystem().call_s3("delete_objects", Bucket=self._bucket, Delete=batch)
        refused = [item for item in answer.get("Errors", []) if item.get("Code") != "NoSuchKey"]
        if refused:
            raise StoreDenied(
                f"{self.root} refused to delete {refused[0].get('Key')}: {refused[0].get('Code')}"
            )

    def _patiently(self, verb: str, key: str, call: Callable[[], T]) -> T:
        """Run a call; on network trouble try again with growing pauses until patience runs out."""
        end = time.monotonic() + self._patience
        pause = 0.1
        while True:
            try:
                return call()
            except StoreError:
                raise
            except Exception as error:
                sentence = self._sentence(error, verb, key)
                if _code(error)[0] in EXPIRED:
                    _forget()
                if not isinstance(sentence, StoreUnavailable) or time.monotonic() + pause > end:
                    raise sentence from error
                time.sleep(pause)
                pause = min(pause * 2, 5.0)

    def _sentence(self, error: Exception, verb: str, key: str) -> StoreError:
        code, status = _code(error)
        where = f"could not {verb} {key} in {self.root}"
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS S3"
        if code == "NoSuchBucket":
            return StoreDenied(
                f"{where}: the bucket {self._bucket!r} does not exist at {endpoint}; create it first"
            )
        if code in EXPIRED:
            return StoreUnavailable(
                f"{where}: the credentials have expired ({code}); renew them where they come from (AWS_PROFILE, "
                "AWS_SHARED_CREDENTIALS_FILE, `aws sso login`): they are read again at the next try"
            )
        if status in (301, 307, 400) and code in OTHER_REGION:
            return StoreDenied(
                f"{where}: the bucket {self._bucket!r} is not in the region {_region()}; set AWS_REGION"
                + (f" to {region}" if (region := _region_named(error)) else " to that of the bucket")
            )
        if code == "RequestTimeTooSkewed":
            return StoreDenied(f"{where}: this machine's clock is too far off for {endpoint}; set the clock")
        if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
            return StoreDenied(
                f"{where}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )
        if isinstance(error, PermissionError) or status in (401, 403):
            return StoreDenied(
                f"{where}: {endpoint} refused the credentials or the permission ({code or error})"
            )
        if isinstance(error, FileNotFoundError) or status == 404:
            return ObjectMissing(f"no object {key} in {self.root}")
        if status in (400, 405, 411, 501):
            return StoreDenied(f"{where}: {endpoint} does not support the request ({code or error})")
        if status == 507 or code in ("InsufficientStorage", "XMinioStorageFull"):
            return StoreUnavailable(f"{where}: the server's disk is full (ENOSPC); nothing was half-written")
        reason = code or f"{type(error).__name__}: {error}"
        return StoreUnavailable(
            f"{where}: {endpoint} does not answer ({reason}); nothing was lost, try again later"
        )


# One per process and account: a new one costs 0.3 s, and one made before a fork hangs in the child. The
# parent's is kept there, not dropped: closing its sessions would wait 20 s for a loop that does not run.
_made: dict[tuple[str, ...], Any] = {}
_old: list[Any] = []  # kept for the same reason


def _filesystem() -> Any:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE")
    secrets = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    account = (str(os.getpid()), *(os.environ.get(name, "") for name in (*names, *secrets)))
    if account not in _made:
        _made[account] = _connect()
    return _made[account]


def _forget() -> None:
    """Make the connection anew at the next call: a profile or a file of credentials is read when it is made."""
    _old.extend(_made.values())
    _made.clear()


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def _connect() -> Any:
    import s3fs

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config: dict[str, Any] = {
        "retries": {"mode": "standard", "max_attempts": 3},
        "connect_timeout": 5,
        "read_timeout": 20,
        "max_pool_connections": 64,
    }
    if endpoint:
        config["s3"] = {"addressing_style": "path"}  # bucket.localhost does not resolve
    # Listings are cached by default and then miss what other writers wrote.
    return s3fs.S3FileSystem(
        endpoint_url=endpoint,
        client_kwargs={"region_name": _region()},
        config_kwargs=config,
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def _code(error: BaseException) -> tuple[str, int]:
    """Error code and HTTP status of the server's answer; s3fs hides it one `__cause__` down."""
    seen: BaseException | None = error
    while seen is not None:
        answer = getattr(seen, "response", None)
        if isinstance(answer, dict):
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(answer.get("Error", {}).get("Code", "")), int(status or 0)
        seen = seen.__cause__
    return "", 0


def _region_named(error: BaseException) -> str:
    """The region that the server says the bucket is in; empty where it does not say."""
    seen: BaseException | None = error
    while seen is not None:
        answer = getattr(seen, "response", None)
        if isinstance(answer, dict):
            headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            return str(headers.get("x-amz-bucket-region") or answer.get("Error", {}).get("Region") or "")
        seen = seen.__cause__
    return ""


def _refused(error: Exception) -> bool:
    """Whether a conditional PUT found the key taken: FileExistsError with AWS, EINVAL or EBUSY with SeaweedFS.

    409 means that a rival upload of the key was in flight; reading the key settles it (404: try again).
    """
    return isinstance(error, FileExistsError) or _code(error)[1] in (409, 412)
