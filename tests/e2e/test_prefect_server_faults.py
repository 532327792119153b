"""A Prefect server that is not there, does not answer, or does not start: one sentence, soon, and nothing is written."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
import quick

from flows.machine import prefect_server


def run_against(url: str, tmp_path: Path) -> tuple[int, str, float]:
    quick.make(tmp_path / "recipes")
    env = quick.environ(tmp_path / "home", tmp_path / "recipes")
    quick.bakeoff("prepare", "quick", env=env, cwd=tmp_path)
    began = time.monotonic()
    done = quick.bakeoff(
        "run", "quick", "--run", "r", "--trials", "1", "--plain",
        env={**env, "PREFECT_API_URL": url}, cwd=tmp_path, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr, time.monotonic() - began


@pytest.mark.parametrize("kind", ["nobody", "silent"])
def test_a_server_of_ones_own_that_does_not_answer(kind: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        held: list[socket.socket] = []
        if kind == "silent":
            threading.Thread(target=lambda: held.append(listener.accept()[0]), daemon=True).start()
        else:
            listener.close()
        code, said, _ = run_against(f"http://127.0.0.1:{port}/api", tmp_path)
    assert code == 5 and "Traceback" not in said
    assert f"PREFECT_API_URL=http://127.0.0.1:{port}/api: no Prefect server answers there within 10 s" in said
    assert "unset PREFECT_API_URL" in said


def test_a_server_that_ends_at_once_is_quoted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKEOFF_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_TIMEOUT", "no number")
    began = time.monotonic()
    with (
        pytest.raises(prefect_server.InfraFault) as fault,
        prefect_server.embedded_server(str(tmp_path / "run")),
    ):
        pass
    assert time.monotonic() - began < 100
    assert (
        "ended at once (exit 1); it said last:" in str(fault.value) and "timeout" in str(fault.value).lower()
    )
