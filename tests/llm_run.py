"""A finished campaign of LLM specialists, run through the command line against a scripted endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import quick

from flows.campaign.run_on_this_machine import only_campaign
from lineage.log.log_reader import Lineage
from lineage.queries import View
from lineage.records import Row, Status
from lineage.store.blobs import get_blob
from lineage.store.objects import Store, open_store
from tests.fakes.messages_server import FakeMessages
from tests.fakes.script import Json, Step

KEY = "sk-ant-api03-e2e-0123456789abcdefghij"


@dataclass(frozen=True)
class Done:
    """A finished campaign: where it lies, its lineage, what it printed, what the endpoint was asked."""

    folder: Path
    env: dict[str, str]
    run: str
    store: Store
    view: View
    stdout: str
    stderr: str
    requests: list[Json]

    def of(self, role: str) -> list[Row]:
        return [row for row in self.view.trials() if row.role == role and row.status is not Status.BASELINE]

    def blob(self, sha: str | None) -> bytes:
        assert sha is not None
        return get_blob(self.store, sha)

    def show(self) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(
            quick.bakeoff("show", self.run, "--json", env=self.env, cwd=self.folder).stdout
        )
        return shown


def opened(
    folder: Path, env: dict[str, str], run: str, stdout: str, stderr: str, requests: list[Json]
) -> Done:
    root = str(folder / run)
    store, config = open_store(root), only_campaign(root)
    view = Lineage(store, config.id, config.spec.score.direction).refresh()
    return Done(folder, env, run, store, view, stdout, stderr, requests)


def prepared(folder: Path) -> dict[str, str]:
    """The quick environment with limits that the plans can run into."""
    path = quick.make(folder / "recipes") / "environment.toml"
    settings = path.read_text("utf-8")
    gate = '[[gates]]\nquantity = "accuracy"\nat_least = 0.7\non = "mean"\n\n[budget]'
    for old, new in (
        ("[budget]", gate),
        ("train_cpu_s = 10", "train_cpu_s = 2"),
        ("artifact_bytes = 1_000_000", "artifact_bytes = 10_000"),
    ):
        assert settings.count(old) == 1, old
        settings = settings.replace(old, new)
    path.write_text(settings, "utf-8")
    env = quick.environ(folder / "home", folder / "recipes")
    quick.bakeoff("prepare", "quick", env=env, cwd=folder)
    return env


def run(
    folder: Path, env: dict[str, str], script: Callable[[Json], Step], *more: str, environment: str = "quick"
) -> Done:
    """A campaign against the scripted endpoint, in a child process that knows only its address and a key."""
    with FakeMessages(script) as server:
        told = {
            **env,
            "ANTHROPIC_BASE_URL": server.url,
            "ANTHROPIC_API_KEY": KEY,
            "BAKEOFF_OUTAGE_FIRST_S": "0.5",
        }
        arguments = [
            "run",
            environment,
            "--run",
            "r",
            "--proposer",
            "anthropic",
            "--no-confirm",
            "--plain",
            *more,
        ]
        done = quick.bakeoff(*arguments, env=told, cwd=folder, timeout=1500)
        return opened(folder, env, "r", done.stdout, done.stderr, server.requests)


def labels(rows: list[Row]) -> list[str]:
    return [f"{row.status}:{row.cause}" if row.cause else str(row.status) for row in rows]
