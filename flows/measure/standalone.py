"""Measuring a program outside a campaign: same sandbox, judge and slots; nothing goes into a store.

Use: `with bench_for(spec, ...) as bench:` then `measure(bench, files, seeds, ...)` trains once per seed and
has the judge measure the artifacts. `check_world` says first whether this is still the environment and
the judge of a record. Limits: one program at a time; artifacts live only inside the call; Ctrl-C ends
the candidates.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from evaluators.judge import judge_client, uncounted_time
from evaluators.judge.candidate_folders import write_files
from evaluators.judge.item_scores import Items, unpack
from evaluators.judge.judge_client import Bench
from flows.engine.campaign_config import BASELINE, CampaignConfig
from flows.engine.stage_records import Purpose
from flows.environments.loading import Environment, list_environments
from flows.environments.prepared_data import check_data, of_record
from flows.machine.device_holds import place, raise_if_infra, require, slots_of
from flows.machine.folders import home
from flows.machine.sandbox_level import proven
from flows.measure.parallel_runs import side_by_side
from lineage.errors import InfraFault, JudgeFault, UsageError
from lineage.queries import View
from lineage.records import Check, Device, Measurement, TrainRun
from lineage.store.blobs import get_blob, get_tree
from lineage.store.objects import Store

INFRA_RETRIES = 2
Told = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """What came out: every training run, and the judge's measurement; None when it was not worth judging."""

    runs: tuple[TrainRun, ...]
    measurement: Measurement | None
    kept: bytes = b""  # the artifact of the test items

    @property
    def items(self) -> Mapping[str, Items]:
        """What each test item gave, by quantity."""
        return unpack(self.kept)[1] if self.kept else {}

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all candidate processes, starts included."""
        judged = [s.facts for s in self.measurement.per_seed if s.facts] if self.measurement else []
        return sum(f.cpu_s + f.start_cpu_s for f in [*(run.facts for run in self.runs), *judged])


@contextmanager
def bench_for(environment: Environment, isolation: str, trust_weak: bool, gpus: str = "") -> Iterator[Bench]:
    """A bench with scratch space of its own, gone afterwards.

    Raises InfraFault without the GPUs that a run needs, DataMissing, IsolationRefused.
    """
    pool = require(environment.spec, gpus)
    data = check_data(environment)
    level = proven(isolation, trust_weak, environment.spec.budget.loopback)
    base = home() / "scratch"
    base.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="measuring-", dir=base))
    scratch.chmod(0o711)  # candidates under another uid must reach their own files in it
    try:
        yield Bench(
            spec=environment.spec,
            data=data,
            isolation=level,
            scratch=scratch,
            pool=pool,
            judge_file=environment.judge_file,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def bench_of(config: CampaignConfig, trust_weak: bool, gpus: str = "") -> Iterator[Bench]:
    """The bench of a recorded campaign, from its record: spec and policy as it was started with.

    The campaign's own `trust_weak` and `gpus` do not count: whoever replays a record trusts it anew, on devices of
    another machine.
    """
    folder = Path(config.folder)
    if not folder.is_dir():  # another machine than that of the campaign
        folder = list_environments().get(Path(config.environment).name, folder)
    environment = Environment(spec=config.spec, folder=folder, briefs={})
    with bench_for(
        of_record(environment, config.words, config.environment_sha256),
        config.settings.isolation,
        trust_weak,
        gpus,
    ) as bench:
        yield bench


def beside_start(bench: Bench, store: Store, config: CampaignConfig, view: View) -> Bench:
    """The bench as trials of a recorded campaign have it: with the start's source, and what the start needed."""
    row = view.trial(BASELINE)
    sha = row.measurement_sha256 if row is not None else None
    start = Measurement.model_validate_json(get_blob(store, sha)) if sha else None
    return replace(
        bench, start=get_tree(store, config.start_sha256), reference=uncounted_time.reference(start)
    )


def _place(
    bench: Bench, slots: int, told: Told | None, rank: int = 0, stop: threading.Event | None = None
) -> AbstractContextManager[tuple[Device, ...]]:
    needed = bench.spec.budget.gpus
    at_once = slots_of(slots, needed, bench.pool)
    return place(needed, bench.pool, at_once, whose="measuring", cancel=stop, told=told, rank=rank)


def check_world(
    bench: Bench, environment_sha256: str, evaluator_sha256: str, whose: str, version: str
) -> None:
    """Raise UsageError unless environment, data and judge are those that `whose` was measured with."""
    name = bench.spec.name
    here = judge_client.environment_sha256(bench.spec, bench.data)
    if here != environment_sha256:
        raise UsageError(
            f"{whose}: measured on the environment {environment_sha256[:12]}, the data of {name} in {bench.data} "
            f"make it {here[:12]}; prepare the same data again (bakeoff prepare {name} --force, with that machine's "
            "data/.secret or BAKEOFF_DATA_SECRET), or run this where the campaign ran"
        )
    judge = judge_client.evaluator_sha256()
    if judge != evaluator_sha256:
        raise UsageError(
            f"{whose}: measured by the judge {evaluator_sha256[:12]} (bakeoff {version or 'of unknown version'}), "
            f"the judge here is {judge[:12]}; scores of two judges do not compare: check out that version"
        )


def smoke(bench: Bench, files: Mapping[str, bytes], slots: int) -> Check:
    """The whole path once on fake data."""
    with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
        source = write_files(Path(folder) / "source", files)
        with _place(bench, slots, None) as devices:
            return judge_client.smoke(bench, source, devices=devices)


def measure(
    bench: Bench,
    files: Mapping[str, bytes],
    seeds: Sequence[int],
    *,
    trial: str,
    purpose: Purpose,
    slots: int,
    stop_early: bool = False,
    told: Told | None = None,
    before: int = 0,
    of: int | None = None,
) -> Measured:
    """Train once per seed, as many at once as slots are free, then judge. `stop_early`: a seed that fails ends it without the judge.

    `before` and `of`: runs that were measured before these, and all of them, for what `told` says.

    Raises InfraFault when the machine fails, after `INFRA_RETRIES` further tries.
    """
    with tempfile.TemporaryDirectory(dir=bench.scratch) as name:
        folder = Path(name)
        folder.chmod(0o711)
        source = write_files(folder / "source", files)
        places = [folder / f"seed{index}" for index in range(len(seeds))]
        done = itertools.count(before + 1)

        def one(index: int, stop: threading.Event) -> TrainRun:
            places[index].mkdir()
            run = _train(bench, source, seeds[index], places[index], slots, told, index, stop)
            if told is not None and not stop.is_set():
                outcome = run.cause or f"{run.facts.cpu_s:.2f} CPU-s"
                told(f"{trial}: seed {next(done)} of {of or len(seeds)} trained ({outcome})")
            return run

        at_once = slots_of(slots, bench.spec.budget.gpus, bench.pool)
        trained, beyond = side_by_side(
            len(seeds), at_once, one, lambda run: stop_early and run.cause is not None
        )
        if stop_early and any(run.cause is not None for run in trained):
            return Measured((*trained, *beyond), None)
        runs = list(zip(trained, places, strict=True))
        kept: list[bytes] = []
        measurement = _tried(lambda: _judge(bench, source, runs, trial, purpose, slots, told, kept))
    return Measured(tuple(run for run, _ in runs), measurement, kept[-1] if kept else b"")


def _tried(work: Callable[[], T]) -> T:
    """Again after a fault of ours, each time with a hold of its own, so on another device where there is one."""
    for left in reversed(range(INFRA_RETRIES + 1)):
        try:
            return work()
        except InfraFault as fault:
            if not left or fault.what == "busy_accelerator" or isinstance(fault, JudgeFault):
                raise
    raise AssertionError


def _train(
    bench: Bench,
    source: Path,
    seed: int,
    out: Path,
    slots: int,
    told: Told | None,
    rank: int,
    stop: threading.Event,
) -> TrainRun:
    def once() -> TrainRun:
        with _place(bench, slots, told, rank, stop) as devices:
            run = judge_client.train(bench, source, seed, out, stop, devices=devices)
            why = run.numbers.get("detail") or run.facts.detail or "the sandbox could not run it"
            if not stop.is_set():
                raise_if_infra(run.cause, f"seed {seed}: {why}")
        return run

    return _tried(once)


def _judge(
    bench: Bench,
    source: Path,
    runs: Sequence[tuple[TrainRun, Path]],
    trial: str,
    purpose: Purpose,
    slots: int,
    told: Told | None,
    kept: list[bytes],
) -> Measurement:
    """The judge's measurement; the artifact of its test items is appended to `kept`."""
    with _place(bench, slots, told) as devices:
        found = judge_client.judge(
            bench, source, runs, trial=trial, purpose=purpose, devices=devices, keep=kept.append
        )
        for seed in found.per_seed:
            raise_if_infra(seed.cause, f"{trial}: the judge could not run: {seed.numbers}")
    return found
