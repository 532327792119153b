"""A PostgreSQL cluster of its own for a test: initdb, one server process on loopback, gone afterwards.

Use: `with Postgres() as server: server.url`. The server refuses root, so under root it runs as `postgres` or `nobody`.
Limits: needs PostgreSQL's server programs (Debian: `apt-get install postgresql`); `why_not()` says what is missing.
Nothing is synced to disk: for tests only.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

PLACES = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql*/bin",
    "usr/local/pgsql/bin",
)


def programs() -> Path | None:
    """Folder with `initdb` and `postgres`."""
    folders = [place for pattern in PLACES for place in sorted(Path("/").glob(pattern), reverse=True)]
    found = shutil.which("postgres")
    folders += [Path(found).parent] if found else []
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


def why_not() -> str | None:
    """Why no cluster can be started here; None when one can."""
    if programs() is None:
        return "no PostgreSQL server programs (initdb, postgres): apt-get install postgresql"
    if os.geteuid() == 0 and _user() is None:
        return "PostgreSQL refuses root, and there is neither a user `postgres` nor `nobody`"
    return None


def _user() -> str | None:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    return None


class Postgres:
    def __init__(self) -> None:
        # not under pytest's tmp_path: that is closed to other users
        self.folder = Path(tempfile.mkdtemp(prefix="bakeoff-postgres-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"postgresql+asyncpg://bakeoff@127.0.0.1:{self.port}/postgres"
        self.process: subprocess.Popen[bytes] | None = None

    def _run_as(self) -> dict[str, object]:
        if os.geteuid() != 0:
            return {}
        entry = pwd.getpwnam(_user() or "nobody")
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def __enter__(self) -> Postgres:
        place = programs()
        assert place is not None, why_not()
        who = self._run_as()
        if who:
            shutil.chown(self.folder, who["user"], who["group"])  # type: ignore[arg-type]
        data = self.folder / "data"
        subprocess.run(
            [place / "initdb", "-D", data, "-U", "bakeoff", "--auth=trust", "--no-locale", "-E", "UTF8", "--no-sync"],
            check=True, capture_output=True, cwd=self.folder, **who,
        )  # fmt: skip
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [place / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(self.port), "-k", self.folder,
                 "-c", "fsync=off", "-c", "max_connections=200"],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, start_new_session=True, **who,
            )  # fmt: skip
        end = time.monotonic() + 60
        while not self._answers(place):
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"PostgreSQL did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        return self

    def _answers(self, place: Path) -> bool:
        done = subprocess.run(
            [place / "pg_isready", "-h", "127.0.0.1", "-p", str(self.port), "-U", "bakeoff"],
            capture_output=True,
        )
        return done.returncode == 0

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.send_signal(3)  # SIGQUIT: at once, children included
                self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)
