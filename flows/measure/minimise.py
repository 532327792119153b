"""`bakeoff minimise`: the smallest part of a trial's accumulated change that keeps its gain.

Use: `minimise_trial(start, whole, measure, rule, seeds, ...)`; the change from the campaign's start to the trial is
split into hunks (`flows.measure.diff_hunks`) and reduced by delta debugging (`evaluators.statistics.delta_debugging`).

The rule. A subset of the hunks passes when the program with only these

1. parses, stays within the source's cap, and passes the smoke test;
2. trains and predicts on every seed, and its runs together pass every gate and audit;
3. loses at most `min(gain / 2, margin)` against the whole trial, measured on the same seeds. `gain` is
   the whole trial's over the start on these seeds: a program that lost half of it is nearer to none. `margin` is
   what noise explains, the one-sided 95 % bound of a difference of two means whose true values are
   equal: t(0.95, df) * sd * sqrt(2 / n), sd with df degrees of freedom pooled over the campaign's
   replicates. For a time score the whole trial runs again next to each subset, seed by seed, and
   the bound is that of n pair differences.

Everything is compared with the whole trial, never with the last subset that passed, so losses do not add up.
Programs are remembered by the hash of their syntax trees, so a comment costs nothing.
Limits: margin and gain are of the public split; an honest part smaller than the noise can be dropped, so
confirm the result as any other trial before relying on it; nothing is written into the store.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agents.edits.normal_form import ast_hash
from agents.edits.search_replace import canonical_diff
from evaluators.judge.judge_client import Bench
from evaluators.judge.source_size import source_bytes
from evaluators.statistics.confirmation import gates_pass
from evaluators.statistics.delta_debugging import Subset, minimise
from evaluators.statistics.noise import Noise
from flows.engine.campaign_config import CampaignConfig, draw_seeds
from flows.engine.confirmation_state import book
from flows.measure import standalone
from flows.measure.diff_hunks import Hunk, assemble, split
from flows.measure.standalone import Told, beside_start, check_world
from lineage.environment_spec import EnvironmentSpec
from lineage.errors import EditRefused, UsageError
from lineage.queries import View
from lineage.records import Row, SeedResult
from lineage.store.blobs import get_tree
from lineage.store.objects import Store

Files = Mapping[str, bytes]
LEVEL = 0.05


@dataclass(frozen=True)
class Seen:
    """One program on some seeds: its results, or why it has none."""

    results: tuple[SeedResult, ...] = ()
    why: str = ""


Measure = Callable[[Files, Sequence[int]], Seen]  # trains and judges
Preflight = Callable[[Files], str]  # why it does not run at all; empty when it does


@dataclass(frozen=True)
class Rule:
    """What decides whether a part keeps the gain; `interleave` for scores that depend on the machine's mood."""

    spec: EnvironmentSpec
    noise: Noise
    interleave: bool

    def margin(self, n: int) -> float:
        """Loss of a mean of n runs that chance alone explains."""
        from scipy.special import stdtrit  # scipy costs a part of a second at import

        sides = 1 if self.interleave else 2  # a pair difference has one variance, two means have two
        return float(stdtrit(self.noise.df, 1 - LEVEL)) * math.sqrt(sides * self.noise.variance / n)


@dataclass(frozen=True)
class Reduced:
    """The answer: indices kept, the program they make, and the figures that it rests on."""

    hunks: tuple[Hunk, ...]
    kept: Subset
    is_minimal: bool
    tests: int
    seeds: tuple[int, ...]
    gain: float
    loss: float
    allowed: float
    files: Mapping[str, bytes]
    left: str
    dropped: str


class _Search:
    """The measurements of one reduction: the start and the whole once, every other program once."""

    def __init__(
        self,
        start: Files,
        whole: Files,
        measure: Measure,
        preflight: Preflight,
        rule: Rule,
        seeds: Sequence[int],
        told: Told,
    ) -> None:
        self.start, self.whole, self.rule, self.seeds, self.told = start, whole, rule, tuple(seeds), told
        self.measure, self.preflight = measure, preflight
        self.metric, self.sign = rule.spec.score.metric, rule.spec.sign
        self.hunks = split(start, whole)
        self.reference: tuple[SeedResult, ...] = ()
        self.gain = self.allowed = 0.0
        self.known: dict[str, tuple[bool, float]] = {}
        self.asked = 0

    def open(self, trial: str) -> None:
        """Measure the whole and the start. Raises UsageError when there is no gain to keep."""
        self.told(
            f"measuring {trial} and the start on {len(self.seeds)} seeds, {len(self.hunks)} hunks apart"
        )
        if not self.rule.interleave:
            self.reference = self._must(self.measure(self.whole, self.seeds), trial)
        loss, why = self._loss(self.start)
        if why:
            raise UsageError(f"the start cannot be measured beside {trial}: {why}; calibrate it first")
        self.gain = loss
        if self.gain <= 0:
            raise UsageError(
                f"{trial} is not better than the start on these {len(self.seeds)} seeds (gain {self.gain:.4g}), so "
                "there is no gain to keep; choose a confirmed trial, or more seeds with --runs"
            )
        self.allowed = min(self.gain / 2, self.rule.margin(len(self.seeds)))
        self.known = {ast_hash(self.start): (False, self.gain), ast_hash(self.whole): (True, 0.0)}
        self.told(f"gain over the start {self.gain:.4g}; a part may lose {self.allowed:.4g}")

    def _must(self, seen: Seen, whose: str) -> tuple[SeedResult, ...]:
        why = seen.why or ("" if gates_pass(self.rule.spec.gates, seen.results) else "a gate fails")
        if why:
            raise UsageError(f"{whose} cannot be measured again: {why}; choose another trial or more --runs")
        return seen.results

    def keeps(self, subset: Subset) -> bool:
        """The rule of the module's docstring for one subset."""
        files = assemble(self.start, self.hunks, subset)
        self.asked += 1
        shown = ", ".join(str(index + 1) for index in subset) or "none"
        label = f"test {self.asked}: hunks {shown} of {len(self.hunks)}"
        try:
            program = ast_hash(files)
        except EditRefused as refused:
            self.told(f"{label}: does not parse ({refused})")
            return False
        if program in self.known:
            passed, loss = self.known[program]
            self.told(f"{label}: {'keeps' if passed else 'loses'} the gain (a program known already)")
            return passed
        why = self.preflight(files)
        loss, failed = (math.inf, why) if why else self._loss(files, gates=True)
        passed = not failed and loss <= self.allowed
        self.known[program] = (passed, loss)
        verdict = failed or f"{'keeps' if passed else 'loses'} the gain, loss {loss:.4g}"
        self.told(f"{label}: {verdict}")
        return passed

    def _loss(self, files: Files, gates: bool = False) -> tuple[float, str]:
        """How much worse than the whole trial, and why that cannot be said."""
        ours: list[SeedResult] = []
        theirs = list(self.reference)
        if self.rule.interleave:
            for seed in self.seeds:
                seen = self.measure(files, [seed])
                if seen.why:
                    return math.inf, seen.why
                ours += seen.results
                theirs += self._must(self.measure(self.whole, [seed]), "the whole trial")
        else:
            seen = self.measure(files, self.seeds)
            if seen.why:
                return math.inf, seen.why
            ours += seen.results
        if gates and not gates_pass(self.rule.spec.gates, ours):
            return math.inf, "a gate fails"
        return self.sign * (self._mean(theirs) - self._mean(ours)), ""

    def _mean(self, results: Sequence[SeedResult]) -> float:
        return math.fsum(r.quantities[self.metric] for r in results) / len(results)


def minimise_trial(
    start: Files,
    whole: Files,
    *,
    trial: str,
    measure: Measure,
    preflight: Preflight,
    rule: Rule,
    seeds: Sequence[int],
    most_tests: int,
    told: Told,
) -> Reduced:
    """Reduce the change from `start` to `whole`. Raises UsageError when there is none or no gain to keep."""
    search = _Search(start, whole, measure, preflight, rule, seeds, told)
    if ast_hash(start) == ast_hash(whole):
        raise UsageError(
            f"{trial} is the same program as the campaign's start; there is nothing to leave out"
        )
    search.open(trial)
    found = minimise(len(search.hunks), search.keeps, most_tests)
    files = assemble(start, search.hunks, found.kept)
    return Reduced(
        hunks=search.hunks,
        kept=found.kept,
        is_minimal=found.is_minimal,
        tests=found.tests,
        seeds=tuple(seeds),
        gain=search.gain,
        loss=search.known[ast_hash(files)][1],
        allowed=search.allowed,
        files=files,
        left=canonical_diff(start, files),
        dropped=canonical_diff(files, whole),
    )


def minimise_recorded(
    store: Store,
    config: CampaignConfig,
    view: View,
    row: Row,
    bench: Bench,
    *,
    runs: int,
    most_tests: int,
    told: Told,
) -> Reduced:
    """Minimise a trial of a record on this machine.

    Raises UsageError for a trial without a program or a gain, and for another environment or judge.
    """
    whose = f"trial {row.trial} of {config.id}"
    if row.source_sha256 is None:
        raise UsageError(f"{whose} never became a program ({row.status}, {row.cause}); choose another trial")
    check_world(bench, config.environment_sha256, config.evaluator_sha256, whose, config.bakeoff_version)
    bench = beside_start(bench, store, config, view)
    noise = book(config, view).test_noise()
    if noise.df < 1:
        raise UsageError(f"{config.id} has no replicates to know its noise from; measure its start first")
    return minimise_trial(
        get_tree(store, config.start_sha256),
        get_tree(store, row.source_sha256),
        trial=row.trial or "",
        measure=_measure_on(bench, config.settings.slots, row.trial or ""),
        preflight=_preflight_on(bench, config.settings.slots),
        rule=Rule(config.spec, noise, config.plan.is_paired),
        seeds=draw_seeds(config, row.source_sha256, "minimise", runs),
        most_tests=most_tests,
        told=told,
    )


def _measure_on(bench: Bench, slots: int, trial: str) -> Measure:
    def run(files: Files, seeds: Sequence[int]) -> Seen:
        done = standalone.measure(
            bench, files, seeds, trial=trial, purpose="screen", slots=slots, stop_early=True
        )
        results = done.measurement.per_seed if done.measurement is not None else ()
        causes = [(run.seed, run.cause) for run in done.runs] + [(r.seed, r.cause) for r in results]
        for seed, cause in causes:
            if cause is not None:
                return Seen(why=f"seed {seed} gives {cause}")
        audits = done.measurement.audits if done.measurement is not None else ()
        failed = next((audit for audit in audits if not audit.passed), None)
        return Seen(why=f"{failed.name}: {failed.detail}") if failed is not None else Seen(results)

    return run


def _preflight_on(bench: Bench, slots: int) -> Preflight:
    def run(files: Files) -> str:
        size, cap = source_bytes(files), bench.spec.budget.source_bytes
        if size > cap:
            return f"source of {size} bytes, {size - cap} over its cap"
        check = standalone.smoke(bench, files, slots)
        return "" if check.passed else f"fails its smoke test: {check.detail.splitlines()[0][:160]}"

    return run
