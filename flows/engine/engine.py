"""One campaign opened on this machine: its store, its lineage, its judge bench, its proposers.

`open_engine(root, campaign)` builds it from the store alone, so a trial that runs in another process
or on another machine gets the same thing from two strings. `engine_for` keeps it for this process.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from agents.protocol import Proposer
from evaluators.judge import judge_program
from evaluators.judge.judge_client import Bench
from flows.engine.campaign_config import CampaignConfig, load_config
from flows.engine.live_events import LiveEvent, Note, RowWritten
from flows.engine.proposers import build_proposer, close_proposer
from flows.engine.stage_records import Patched
from flows.environments.loading import Environment, load_environment
from flows.environments.prepared_data import check_data, of_record
from flows.machine.device_holds import devices_here, place, require, slots_key, slots_of
from flows.machine.folders import scratch_dir
from flows.machine.sandbox_level import proven
from lineage.errors import Interrupted, UsageError
from lineage.log.epochs import Fence, FencedStore
from lineage.log.journal import Journal
from lineage.log.log_reader import COMPACT_AT, Lineage
from lineage.queries import View
from lineage.records import Device, Row
from lineage.store.blobs import get_blob, get_tree, put_blob
from lineage.store.objects import Store, open_store
from lineage.store.results import get_result


@dataclass
class Engine:
    """Handles of one open campaign. Thread-safe: stages run in worker threads."""

    root: str
    store: Store
    config: CampaignConfig
    environment: Environment
    bench: Bench
    journal: Journal
    proposer: Proposer
    lineage: Lineage
    cancel: threading.Event = field(default_factory=threading.Event)
    sinks: list[Callable[[LiveEvent], None]] = field(default_factory=list)
    in_flight: dict[str, str] = field(default_factory=dict)
    label_lock: threading.Lock = field(default_factory=threading.Lock)
    fence: Fence | None = None
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    begun: dict[str, asyncio.Event] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _sources: dict[str, dict[str, bytes]] = field(default_factory=dict)
    _uses: dict[str, list[tuple[str, float, float]]] = field(default_factory=dict)

    def view(self) -> View:
        """The lineage as of now (every row acknowledged before the call)."""
        with self._lock:
            return self.lineage.refresh()

    def compact(self, min_new: int = COMPACT_AT) -> None:
        """Move the log's tail into the table once it is long enough to make reading slow."""
        with self._lock:
            self.lineage.compact(min_new)

    def heads(self) -> dict[str, int]:
        """The last event of each writer that this process has read; the first event of its epoch records it."""
        with self._lock:
            return self.lineage.heads()

    def append(self, row: Row) -> None:
        with self._lock:
            self.journal.append(row, after=self.lineage.newest)
        self.emit(RowWritten(row))

    def emit(self, event: LiveEvent) -> None:
        for sink in self.sinks:
            sink(event)

    def files_of(self, trial: str) -> dict[str, bytes]:
        """Source snapshot of a trial, from the store. Raises UsageError for a trial without one."""
        row = self.view().trial(trial)
        sha = row.source_sha256 if row is not None else None
        if sha is None:
            raise UsageError(f"trial {trial} has no source snapshot (it never became a program)")
        return self.tree(sha)

    def tree(self, sha: str) -> dict[str, bytes]:
        if sha not in self._sources:
            if len(self._sources) > 64:
                self._sources.clear()
            self._sources[sha] = get_tree(self.store, sha)
        return dict(self._sources[sha])

    def blob(self, data: bytes) -> str | None:
        """Store bytes by content; the hash, or None for nothing."""
        return put_blob(self.store, data) if data else None

    def scratch(self, trial: str) -> Path:
        return scratch_dir(self.root, self.config.id) / trial

    @property
    def slot_kind(self) -> str:
        """Which kind of machine its trials run on."""
        return "gpu" if self.config.spec.budget.gpus else "cpu"

    @property
    def slots(self) -> int:
        """Candidate processes at once on this machine."""
        return slots_of(self.config.settings.slots, self.config.spec.budget.gpus, self.bench.pool)

    @contextmanager
    def place(
        self, trial: str, what: str, rank: int = 0, cancel: threading.Event | None = None
    ) -> Iterator[tuple[Device, ...]]:
        """A slot for one candidate process, with its devices; see `device_holds.place`.

        `trial` (or the confirmation's folder of one) and `what` are for what people are told, and for `uses_of`.
        """
        held = place(
            self.config.spec.budget.gpus,
            self.bench.pool,
            self.slots,
            whose=slots_key(self.root, self.config.id),
            cancel=cancel or self.cancel,
            told=lambda text: self.emit(Note(f"{trial} {what}: {text}")),
            busy_s=self.config.settings.accelerator_wait_s,
            rank=rank,
        )
        with held as devices:
            began = time.time()
            try:
                yield devices
            finally:
                with self._lock:
                    self._uses.setdefault(trial, []).append((what, began, time.time()))

    def uses_of(self, trial: str) -> list[tuple[str, float, float]]:
        """What this process had slots for on behalf of a trial since this was last asked: purpose, began, ended."""
        with self._lock:
            return sorted(self._uses.pop(trial, []), key=lambda use: use[1])

    def check_devices(self) -> None:
        """Raise InfraFault when this machine has fewer GPUs than one run needs."""
        require(self.config.spec, self.config.settings.gpus)

    def steering(self) -> str:
        return steering_note(self.config, self.view())

    def knowledge(self) -> dict[str, bytes]:
        """The environment's notes, as they were when the campaign was created."""
        sha = self.config.spec.knowledge_sha256
        return self.tree(sha) if sha else {}

    def lessons(self) -> str:
        """The lessons of earlier campaigns that the campaign was created with."""
        return lessons_of(self.store, self.config)

    def raise_if_cancelled(self) -> None:
        if self.cancel.is_set():
            raise Interrupted("the campaign was stopped")

    def taken_programs(self, besides: str) -> dict[str, str]:
        """Programs under way, hash to trial: of this process, and of open trials that other workers run."""
        taken = {sha: trial for trial, sha in self.in_flight.items() if trial != besides}
        for row in self.view().open_trials():
            if row.trial and row.trial != besides and row.trial not in self.in_flight:
                raw = get_result(self.store, self.config.id, row.trial, "patch")
                if raw is not None:
                    taken[Patched.model_validate_json(raw).ast_sha256] = row.trial
        return taken


def steering_note(config: CampaignConfig, view: View) -> str:
    """The person's latest note to the proposers: from the settings, or left while the campaign ran."""
    notes = [row.notes for row in view.events("intervention") if row.notes and row.operator == "steer"]
    return notes[-1] if notes else config.settings.steering


def lessons_of(store: Store, config: CampaignConfig) -> str:
    return get_blob(store, config.lessons_sha256).decode("utf-8", "replace") if config.lessons_sha256 else ""


_OPEN: dict[tuple[str, str], Engine] = {}
_OPEN_LOCK = threading.Lock()


def writer_name() -> str:
    return f"{socket.gethostname()[:40]}-{os.getpid()}-{os.urandom(3).hex()}"


def open_engine(root: str, campaign: str, fence: Fence | None = None) -> Engine:
    """Open from the store alone, to write under the epoch of `fence`.

    Raises the errors of the store, of the data check and of isolation.
    """
    plain = open_store(root)
    fence = fence or Fence(plain, campaign, root=root)
    store = FencedStore(plain, fence)
    config = load_config(store, campaign)
    # its folder when it is still here: a relative path or ./recipes/NAME means another place elsewhere
    here = (Path(config.folder) / "environment.toml").is_file()
    environment = load_environment(config.folder if here else config.environment, config.settings.variant)
    if environment.spec != config.spec:  # edited since: the campaign continues as it was started
        environment = replace(environment, spec=config.spec)
    environment = of_record(environment, config.words, config.environment_sha256)
    data = check_data(environment)
    scratch = scratch_dir(root, campaign)
    scratch.mkdir(parents=True, exist_ok=True)
    isolation = proven(config.settings.isolation, config.settings.trust_weak, config.spec.budget.loopback)
    pool = devices_here(config.spec, config.settings.gpus)
    bench = Bench(
        spec=config.spec,
        data=data,
        isolation=isolation,
        scratch=scratch,
        pool=pool,
        start=get_tree(store, config.start_sha256),
        judge_file=environment.judge_file,
    )
    judge_program.check(config.spec, environment.judge_file)
    lineage = Lineage(store, campaign, config.spec.score.direction)
    view = lineage.refresh()
    cancel = threading.Event()  # before the proposer: a stop must reach a session that waits for its model
    paid = [*view.trials(), *view.events("campaign")]
    return Engine(
        root=root,
        store=store,
        config=config,
        environment=environment,
        bench=bench,
        journal=Journal(plain, campaign, writer_name(), fence.check),
        proposer=build_proposer(config.settings, environment, paid, cancel),
        lineage=lineage,
        cancel=cancel,
        fence=fence,
        turns=asyncio.Semaphore(slots_of(config.settings.slots, config.spec.budget.gpus, pool)),
    )


def engine_for(root: str, campaign: str, fence: Fence | None = None) -> Engine:
    """The engine of this process, opened by the first caller under the epoch of its `fence`."""
    with _OPEN_LOCK:
        key = (root, campaign)
        if key not in _OPEN:
            _OPEN[key] = open_engine(root, campaign, fence)
        return _OPEN[key]


def engine_of_worker(root: str, campaign: str, epoch: int) -> Engine:
    """The engine of a process that runs one trial for the owner of `epoch`; 0 in the owner's own process."""
    if not epoch:
        return engine_for(root, campaign)
    fence = Fence(open_store(root), campaign, epoch, server_name(), follows=True, root=root)
    engine = engine_for(root, campaign, fence)
    if engine.fence is not None:
        engine.fence.epoch = max(engine.fence.epoch, epoch)
    return engine


def server_name() -> str:
    """What trials are dispatched through: the address of the Prefect server, empty when there is none."""
    return os.environ.get("PREFECT_API_URL", "").rstrip("/")


def close_engine(root: str, campaign: str, compact: bool = False) -> None:
    """Close the engine of this process and its proposer's connections; with `compact`, compact its log first."""
    with _OPEN_LOCK:
        engine = _OPEN.pop((root, campaign), None)
    if engine is not None:
        try:
            if compact:
                engine.compact(min_new=1)
        finally:
            close_proposer(engine.proposer)
