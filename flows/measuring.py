"""Measuring a program outside a campaign: same sandbox, judge and slots; nothing goes into a store.

Use: `with bench_for(spec, ...) as bench:` then `measure(bench, files, seeds, ...)` trains once per seed and
has the judge measure the artifacts. `check_world` says first whether this is still the environment and
the judge of a record. Limits: one program at a time; artifacts live only inside the call; Ctrl-C ends
the candidate, because the supervisor ends with the pipe to this process.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evaluators import client
from evaluators.client import Bench
from evaluators.workplace import write_files
from flows.config import CampaignConfig
from flows.data import check_data
from flows.environments import Environment
from flows.home import home
from flows.isolation import proven
from flows.slots import slot
from flows.words import Purpose
from lineage.errors import InfraFault, UsageError
from lineage.records import Check, Measurement, TrainRun

INFRA_RETRIES = 2
Told = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """What came out: every training run, and the judge's measurement; None when it was not worth judging."""

    runs: tuple[TrainRun, ...]
    measurement: Measurement | None

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all candidate processes, starts included."""
        judged = [s.facts for s in self.measurement.per_seed if s.facts] if self.measurement else []
        return sum(f.cpu_s + f.start_cpu_s for f in [*(run.facts for run in self.runs), *judged])


@contextmanager
def bench_for(
    environment: Environment, isolation: str, trust_weak: bool, accelerator: str = ""
) -> Iterator[Bench]:
    """A bench with scratch space of its own, gone afterwards. Raises DataMissing, IsolationRefused."""
    data = check_data(environment)
    level = proven(isolation, trust_weak, environment.spec.budget.loopback)
    base = home() / "scratch"
    base.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="measuring-", dir=base))
    scratch.chmod(0o711)  # candidates under another uid must reach their own files in it
    try:
        yield Bench(
            spec=environment.spec, data=data, isolation=level, scratch=scratch, accelerator=accelerator
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def bench_of(config: CampaignConfig, trust_weak: bool) -> Iterator[Bench]:
    """The bench of a recorded campaign, from its record: spec and policy as it was started with.

    The campaign's own `trust_weak` does not count: whoever replays somebody's record trusts it anew.
    """
    environment = Environment(spec=config.spec, folder=Path(config.folder), briefs={})
    with bench_for(environment, config.settings.isolation, trust_weak, config.accelerator) as bench:
        yield bench


def slot_kind(bench: Bench) -> str:
    return "gpu" if bench.spec.budget.gpus else "cpu"


def check_world(
    bench: Bench, environment_sha256: str, evaluator_sha256: str, whose: str, version: str
) -> None:
    """Raise UsageError unless environment, data and judge are those that `whose` was measured with."""
    name = bench.spec.name
    here = client.environment_sha256(bench.spec, bench.data)
    if here != environment_sha256:
        raise UsageError(
            f"{whose}: measured on the environment {environment_sha256[:12]}, the data of {name} in {bench.data} "
            f"make it {here[:12]}; prepare the same data again (bakeoff prepare {name} --force), or run this "
            "where the campaign ran"
        )
    judge = client.evaluator_sha256()
    if judge != evaluator_sha256:
        raise UsageError(
            f"{whose}: measured by the judge {evaluator_sha256[:12]} (bakeoff {version or 'of unknown version'}), "
            f"the judge here is {judge[:12]}; scores of two judges do not compare: check out that version"
        )


def smoke(bench: Bench, files: Mapping[str, bytes], slots: int) -> Check:
    """The whole path once on fake data."""
    with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
        source = write_files(Path(folder) / "source", files)
        with slot(slot_kind(bench), slots):
            return client.smoke(bench, source)


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
) -> Measured:
    """Train once per seed, then judge. `stop_early`: a seed that fails ends it without the judge.

    Raises InfraFault when the machine fails, after `INFRA_RETRIES` further tries.
    """
    kind = slot_kind(bench)
    with tempfile.TemporaryDirectory(dir=bench.scratch) as name:
        folder = Path(name)
        folder.chmod(0o711)
        source = write_files(folder / "source", files)
        runs: list[tuple[TrainRun, Path]] = []
        for index, seed in enumerate(seeds):
            place = folder / f"seed{index}"
            place.mkdir()
            run = _train(bench, source, seed, place, kind, slots)
            runs.append((run, place))
            if told is not None:
                outcome = run.cause or f"{run.facts.cpu_s:.2f} CPU-s"
                told(f"{trial}: seed {index + 1} of {len(seeds)} trained ({outcome})")
            if run.cause is not None and stop_early:
                return Measured(tuple(run for run, _ in runs), None)
        with slot(kind, slots):
            measurement = client.judge(bench, source, runs, trial=trial, purpose=purpose)
    faulty = next((s for s in measurement.per_seed if (s.cause or "").startswith("infra")), None)
    if faulty is not None:
        what = (faulty.cause or "infra:judge").partition(":")[2]
        raise InfraFault(what, f"{trial}: the judge could not run: {faulty.numbers}")
    return Measured(tuple(run for run, _ in runs), measurement)


def _train(bench: Bench, source: Path, seed: int, place: Path, kind: str, slots: int) -> TrainRun:
    for _ in range(INFRA_RETRIES + 1):
        with slot(kind, slots):
            run = client.train(bench, source, seed, place)
        if run.facts.end != "infra":
            return run
    raise InfraFault("train", f"seed {seed}: {run.facts.detail or 'the sandbox could not run it'}")
