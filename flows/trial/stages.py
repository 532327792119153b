"""The six stages as plain functions: an engine and the records before it in, a frozen record out.

Each result is put into the store before the next stage starts, create-if-absent, so a trial that is
killed half-way goes on from its last finished stage. Nothing here knows Prefect; `flows.trial.flow` wraps
these in tasks and `tests` call them directly.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agents.edits.normal_form import ast_hash
from agents.edits.role_surface import check_surface
from agents.edits.search_replace import apply_edits, canonical_diff
from agents.llm.prompt_sections import parent_choice
from agents.protocol import ProposalRequest
from evaluators.judge import judge_client
from evaluators.judge.merge_measurements import merged
from evaluators.judge.source_size import source_bytes
from flows.engine.campaign_config import BASELINE, draw_seeds
from flows.engine.engine import Engine
from flows.engine.live_events import Note, RunsDone
from flows.engine.stage_records import BuildChecks, Patched, Trained, TrialRef
from flows.machine.device_holds import raise_if_infra
from flows.measure.parallel_runs import side_by_side
from flows.measure.standalone import beside_start
from flows.trial.allowed_run_time_changes import guard_for, guard_of
from flows.trial.client_proposals import read_one
from flows.trial.curve_pruning import Watcher, pruning_of, pruning_rule
from flows.trial.proposal_costs import Submission, allowed
from flows.trial.rebase import base_of, moved
from flows.trial.static_checks import static_checks
from lineage.errors import EditRefused, InfraFault, ObjectExists, ProposerOutage
from lineage.ids import sha256
from lineage.records import Check, Measurement, Proposal, Row, TrainRun, Usage
from lineage.store.blobs import get_blob, put_tree
from lineage.store.results import first_result, get_result, list_results, put_result

CONFIRMING = ".confirm"
JUDGED_ALONE = 4  # fewer runs than this are not worth a process of the judge
CONFIRM_RANK = 2  # as a trial's third run: a confirmation neither waits for long nor stops the lanes
SMOKES = 5  # of drafts of one proposal
NO_MORE_SMOKES = Check(name="smoke", passed=True, detail=f"not run: a proposal may have {SMOKES} smoke runs")
OUTAGE_LONGEST_S, OUTAGE_GIVE_UP_S = 300.0, 8 * 3600.0


def propose(engine: Engine, ref: TrialRef) -> Proposal:
    """Ask the proposer for one edit. Raises lineage.errors.ProposerFault when it has none to give."""
    stored = get_result(engine.store, ref.campaign, ref.trial, "propose")
    if stored is not None:
        return Proposal.model_validate_json(stored)
    if ref.trial == BASELINE:
        proposal = Proposal(
            role=ref.role,
            proposer="start",
            parent=BASELINE,
            hypothesis="the recipe as it is",
            edits=(),
            edit_kind="baseline",
        )
    else:
        proposal = _handed_in(engine, ref) or _ask(engine, ref)
    engine.blob(proposal.prompt.encode())
    engine.blob(proposal.exchange.encode())
    kept = first_result(engine.store, ref.campaign, ref.trial, "propose", proposal.model_dump_json().encode())
    return Proposal.model_validate_json(kept)


def _handed_in(engine: Engine, ref: TrialRef) -> Proposal | None:
    """The proposal of a client that the trial was begun for; None for a trial of the campaign's own proposer."""
    raw = get_result(engine.store, ref.campaign, ref.trial, "submit")
    name = Submission.model_validate_json(raw).client_proposal if raw is not None else ""
    found = read_one(engine.store, ref.campaign, name) if name else None
    return found.proposal if found is not None else None


def _ask(engine: Engine, ref: TrialRef) -> Proposal:
    """Ask until the endpoint answers: an outage pauses this lane and burns no trial.

    Waits as long as the endpoint asked (capped), else doubling from `outage_first_s` to 5 min; gives up as a fault
    of the machine after `OUTAGE_GIVE_UP_S`.
    """
    pause, began, told = engine.config.settings.outage_first_s, time.monotonic(), ""
    while True:
        try:
            return engine.proposer.propose(replace(_request(engine, ref), **allowed(engine, ref)))
        except ProposerOutage as outage:
            if time.monotonic() - began > OUTAGE_GIVE_UP_S:
                raise InfraFault("proposer", f"the proposer's endpoint stayed away: {outage}") from outage
            if isinstance(outage.usage, Usage) and outage.usage.calls:
                engine.append(outage_row(engine, ref, outage.usage, outage))
            engine.raise_if_cancelled()
            wait = min(outage.retry_after or pause, OUTAGE_LONGEST_S)
            if str(outage) != told:
                told = str(outage)
                engine.emit(Note(f"{ref.role} waits for its proposer: {told}"))
            engine.cancel.wait(wait)
            engine.raise_if_cancelled()
            pause = min(pause * 2, OUTAGE_LONGEST_S)


def outage_row(engine: Engine, ref: TrialRef, usage: Usage, outage: ProposerOutage) -> Row:
    """What a session cost that an outage cut off: the ledger counts it, no trial does."""
    return Row(
        event="campaign",
        campaign=ref.campaign,
        environment=engine.config.spec.name,
        arm=engine.config.settings.arm,
        role=ref.role,
        operator="outage",
        detail_json=json.dumps({"trial": ref.trial}),
        notes=str(outage)[:500],
        exchange_sha256=engine.blob(outage.exchange or b""),
        tokens_in=usage.tokens_in,
        tokens_out=usage.tokens_out,
        tokens_cache_read=usage.tokens_cache_read,
        tokens_cache_write=usage.tokens_cache_write,
        usd=usage.usd,
    )


def _request(engine: Engine, ref: TrialRef) -> ProposalRequest:
    settings = engine.config.settings
    role = engine.config.role(ref.role)
    smokes, smoke_in_checks = itertools.count(1), hasattr(engine.proposer, "box")

    def check(files: dict[str, bytes]) -> list[Check]:
        checks = static_checks(engine.config.spec, files)
        # a model's session has no smoke run among its tools; an agent may need several, each costs a slot
        if smoke_in_checks and all(check.passed for check in checks):
            checks.append(_smoked(engine, ref, files) if next(smokes) <= SMOKES else NO_MORE_SMOKES)
        return checks

    return ProposalRequest(
        spec=engine.config.spec,
        role=role,
        view=engine.view(),
        files_of=engine.files_of,
        seed=int(sha256(f"{settings.seed}|{ref.campaign}|{ref.trial}".encode())[:12], 16),
        in_flight=frozenset(engine.taken_programs(ref.trial)),
        steering=engine.steering(),
        knowledge=engine.knowledge(),
        lessons=engine.lessons(),
        check=check,
        deadline=None,
        arm=settings.arm,
        trial=ref.trial,
    )


def _smoked(engine: Engine, ref: TrialRef, files: dict[str, bytes]) -> Check:
    """The smoke run of a draft: the same as of a trial, on fake data, in the candidates' sandbox."""
    parent = parent_choice(engine.view())[0]
    guard = guard_for(engine, ref, files, (parent.trial if parent else "") or BASELINE)
    with tempfile.TemporaryDirectory(dir=engine.bench.scratch, prefix="draft-") as folder:
        for path, data in files.items():
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / path).write_bytes(data)
        with engine.place(ref.trial, "smoke test of a draft") as devices:
            return judge_client.smoke(
                engine.bench, Path(folder), cancel=engine.cancel, guard=guard, devices=devices
            )


def patch(engine: Engine, ref: TrialRef, proposal: Proposal) -> Patched:
    """Apply the edits in memory, check surface and duplicates, store the snapshot and the diff.

    Raises EditRefused (`bad_edit`, `syntax`, `outside_surface`, `duplicate`).
    """
    stored = get_result(engine.store, ref.campaign, ref.trial, "patch")
    if stored is not None:
        patched = Patched.model_validate_json(stored)
        engine.in_flight[ref.trial] = patched.ast_sha256
        return patched
    base = BASELINE if ref.trial == BASELINE else base_of(engine, ref, proposal)
    try:
        patched = _patched(engine, ref, proposal, base)
    except EditRefused as refused:
        if base == proposal.parent:
            raise
        raise moved(refused, base, proposal) from refused
    kept = first_result(engine.store, ref.campaign, ref.trial, "patch", patched.model_dump_json().encode())
    return Patched.model_validate_json(kept)


def _patched(engine: Engine, ref: TrialRef, proposal: Proposal, base: str) -> Patched:
    if ref.trial == BASELINE:
        before = engine.tree(engine.config.start_sha256)
        after = before
        units: tuple[str, ...] = ()
        flags: tuple[str, ...] = ()
        changed = 0
    else:
        before = engine.files_of(base)
        if proposal.outside:
            raise EditRefused(
                "outside_surface", "; ".join(proposal.outside), {"faults": len(proposal.outside)}
            )
        after = apply_edits(before, proposal.edits)
        report = check_surface(engine.config.spec, engine.config.role(ref.role), before, after)
        units, flags, changed = report.units, report.flags, report.changed_lines
    program = _claim_program(engine, ref, after)
    diff = canonical_diff(before, after).encode()
    return Patched(
        parent_sha256=put_tree(engine.store, before),
        source_sha256=put_tree(engine.store, after),
        ast_sha256=program,
        diff_sha256=engine.blob(diff),
        source_bytes=source_bytes(after),
        units=units,
        flags=flags,
        changed_lines=changed,
        parent=base,
    )


def _claim_program(engine: Engine, ref: TrialRef, files: dict[str, bytes]) -> str:
    """Refuse a program that lineage or a trial under way already has; else mark it as under way."""
    program = ast_hash(files)
    with engine.label_lock:
        known = engine.view().has_program(program) or engine.taken_programs(ref.trial).get(program)
        if known is not None and known != ref.trial:
            raise EditRefused(
                "duplicate", f"the resulting program is the same as trial {known}'s", {"same_as": known}
            )
        engine.in_flight[ref.trial] = program
    return program


def build(engine: Engine, ref: TrialRef, patched: Patched) -> tuple[Check, ...]:
    """The preflight ladder, cheapest rung first; stops at the first that fails."""
    stored = get_result(engine.store, ref.campaign, ref.trial, "build")
    if stored is not None:
        return BuildChecks.model_validate_json(stored).checks
    files = engine.tree(patched.source_sha256)
    checks = static_checks(engine.config.spec, files)
    if all(check.passed for check in checks):
        source = write_source(engine, engine.scratch(ref.trial), patched)
        guard = guard_of(engine, ref, patched)
        with engine.place(ref.trial, "smoke test") as devices:
            check = judge_client.smoke(
                engine.bench, source, cancel=engine.cancel, guard=guard, devices=devices
            )
            engine.raise_if_cancelled()
            raise_if_infra(check.numbers.get("cause"), f"trial {ref.trial} smoke test: {check.detail}")
        checks.append(check)
    made = BuildChecks(checks=tuple(checks)).model_dump_json().encode()
    kept = first_result(engine.store, ref.campaign, ref.trial, "build", made)
    return BuildChecks.model_validate_json(kept).checks


def train(engine: Engine, ref: TrialRef, patched: Patched, purpose: str, seeds: Sequence[int]) -> Trained:
    """One candidate process per seed, as many at once as slots are free; ends at the first seed that fails.

    Seeds are in order whatever run ends first: of several failures the one with the lowest index counts.

    Artifacts stay in this machine's scratch space until the trial is judged; a resume reuses them
    when they are still there and their hashes match. Raises InfraFault for a fault of ours.
    """
    reused = _reusable(engine, ref, purpose)
    if reused is not None:
        return reused
    place = _place(engine, ref, purpose)
    source = write_source(engine, place, patched)
    attempt = len(_trainings(engine, ref, purpose))
    base = place / f"{purpose}-{attempt}"
    shutil.rmtree(base, ignore_errors=True)
    rule = pruning_rule(engine, ref, purpose)
    guard = guard_of(engine, ref, patched)
    watchers = [Watcher(rule) for _ in seeds]
    places = [base / f"seed{index}" for index in range(len(seeds))]
    done = itertools.count(1)
    account = account_of(ref, purpose)

    def one(index: int, stop: threading.Event) -> TrainRun:
        places[index].mkdir(parents=True)
        with engine.place(account, "training", _rank(purpose, index), stop) as devices:
            engine.raise_if_cancelled()
            run = judge_client.train(
                engine.bench,
                source,
                seeds[index],
                places[index],
                stop,
                watchers[index],
                guard,
                devices=devices,
            )
            engine.raise_if_cancelled()
            if not stop.is_set():
                raise_if_infra(run.cause, f"trial {ref.trial} seed {index}: {_why(run)}")
        engine.emit(RunsDone(ref.trial, next(done), len(seeds)))
        return run

    runs, beyond = side_by_side(len(seeds), engine.slots, one, _failed, engine.cancel)
    trained = Trained(
        purpose=purpose,
        attempt=attempt,
        machine=judge_client.machine_identity(),
        runs=tuple(runs),
        places=tuple(str(path) for path in places[: len(runs)]),
        curves=tuple(watcher.curve for watcher in watchers[: len(runs)]),
        pruning=pruning_of(rule, watchers[: len(runs)]),
        beyond=tuple(beyond),
    )
    return _keep_training(engine, ref, trained)


def _trainings(engine: Engine, ref: TrialRef, purpose: str) -> list[str]:
    """Names of the stored trainings of a purpose, oldest first."""
    prefix = f"{purpose}-train-"
    names = [n for n in list_results(engine.store, ref.campaign, ref.trial) if n.startswith(prefix)]
    return sorted(names, key=lambda name: int(name.removeprefix(prefix)))


def _failed(run: TrainRun) -> bool:
    return run.cause is not None


def _rank(purpose: str, index: int) -> int:
    """Place in the line for a slot: by the runs that the trial has had, so that first runs go before fifth ones."""
    word, _, first = purpose.partition("-")
    return CONFIRM_RANK if word == "confirm" else index + (int(first) if first.isdecimal() else 0)


def _keep_training(engine: Engine, ref: TrialRef, trained: Trained) -> Trained:
    """Record it under the first free number: an earlier owner's training may have come in meanwhile."""
    while True:
        name, payload = f"{trained.purpose}-train-{trained.attempt}", trained.model_dump_json().encode()
        try:
            put_result(engine.store, ref.campaign, ref.trial, name, payload)
            return trained
        except ObjectExists:
            trained = trained.model_copy(update={"attempt": trained.attempt + 1})


def _why(run: TrainRun) -> str:
    return str(run.numbers.get("detail") or run.facts.detail or "the sandbox could not run it")


def _reusable(engine: Engine, ref: TrialRef, purpose: str) -> Trained | None:
    """The newest finished training of this purpose whose artifacts are still on this machine, whole."""
    for name in reversed(_trainings(engine, ref, purpose)):
        raw = get_result(engine.store, ref.campaign, ref.trial, name)
        trained = Trained.model_validate_json(raw) if raw is not None else None
        if trained is not None and all(
            _whole(run, Path(place)) for run, place in zip(trained.runs, trained.places, strict=True)
        ):
            return trained
    return None


def _whole(run: TrainRun, place: Path) -> bool:
    if run.artifact is None:
        return run.cause is not None
    return place.is_dir() and judge_client.artifact_matches(place, run.artifact)


def evaluate(
    engine: Engine, ref: TrialRef, patched: Patched, trained: Trained, split: str = "public"
) -> Measurement:
    """Have the judge measure the sealed artifacts. Raises InfraFault for a fault of ours."""
    name = f"{trained.purpose}-measurement" + ("" if split == "public" else f"-{split}")
    stored = get_result(engine.store, ref.campaign, ref.trial, name)
    if stored is not None:
        return Measurement.model_validate_json(stored)
    source = write_source(engine, _place(engine, ref, trained.purpose), patched)
    runs = [(run, Path(place)) for run, place in zip(trained.runs, trained.places, strict=True)]
    bench = beside_start(engine.bench, engine.store, engine.config, engine.view())
    share = -(-len(runs) // max(1, min(engine.slots, len(runs) // JUDGED_ALONE)))
    pieces = [runs[at : at + share] for at in range(0, len(runs), share)]
    account = account_of(ref, trained.purpose)

    def one(index: int, stop: threading.Event) -> Measurement:
        with engine.place(account, "prediction", _rank(trained.purpose, 0), stop) as devices:
            found = judge_client.judge(
                bench,
                source,
                pieces[index],
                trial=ref.trial,
                purpose=trained.purpose_word,
                split="sealed" if split == "sealed" else "public",
                cancel=stop,
                keep=engine.blob,
                devices=devices,
            )
            engine.raise_if_cancelled()
            for seed in found.per_seed:
                raise_if_infra(seed.cause, f"trial {ref.trial}: the judge could not run: {seed.numbers}")
            for check in found.audits:
                raise_if_infra(
                    check.numbers.get("cause"), f"trial {ref.trial}: {check.name}: {check.numbers}"
                )
        return found

    parts, _ = side_by_side(len(pieces), engine.slots, one, lambda _: False, engine.cancel)
    measurement = together(engine, parts)
    kept = first_result(engine.store, ref.campaign, ref.trial, name, measurement.model_dump_json().encode())
    return Measurement.model_validate_json(kept)


def together(engine: Engine, parts: Sequence[Measurement]) -> Measurement:
    """One measurement of runs that were judged in parts, with the artifact of its test items stored."""
    if len(parts) == 1:
        return parts[0]
    held = [get_blob(engine.store, part.items_sha256) if part.items_sha256 else None for part in parts]
    measurement, items = merged(engine.config.spec, parts, held)
    if items is not None:
        engine.blob(items)
    return measurement


def all_so_far(engine: Engine, ref: TrialRef, purpose: str, parts: Sequence[Measurement]) -> Measurement:
    """The measurement of all runs that a trial has had by now: a stored result, as every measurement that a row names."""
    measurement = together(engine, parts)
    if len(parts) > 1:
        name, made = f"{purpose}-merged-{len(measurement.per_seed)}", measurement.model_dump_json().encode()
        first_result(engine.store, ref.campaign, ref.trial, name, made)
    return measurement


def finished(engine: Engine, ref: TrialRef, purpose: str) -> tuple[Trained, Measurement] | None:
    """A training that was judged before, and its measurement; None without one. Its artifacts may be gone."""
    raw = get_result(engine.store, ref.campaign, ref.trial, f"{purpose}-measurement")
    if raw is None:
        return None
    measured = Measurement.model_validate_json(raw)
    judged = [seed.artifact_sha256 for seed in measured.per_seed]
    for name in reversed(_trainings(engine, ref, purpose)):
        trained = Trained.model_validate_json(
            get_result(engine.store, ref.campaign, ref.trial, name) or b"null"
        )
        if judged == [run.artifact.sha256 if run.artifact else "" for run in trained.runs]:
            return trained, measured
    return None


def seeds_for(engine: Engine, patched: Patched, purpose: str) -> tuple[int, ...]:
    """Judge-drawn seeds of a purpose, fixed by the frozen program and the campaign's secret."""
    plan = engine.config.spec.evaluation
    count = plan.calibrate_runs if purpose == "calibrate" else plan.runs
    return draw_seeds(engine.config, patched.source_sha256, purpose, count)


def write_source(engine: Engine, place: Path, patched: Patched) -> Path:
    """The snapshot as read-only files in a folder of scratch space; complete or absent.

    Several stages of one trial share it, so it is written beside and renamed into place.
    """
    target = place / f"source-{patched.source_sha256[:16]}"
    if target.is_dir():
        return target
    staging = target.with_name(f".{target.name}.{os.getpid()}.{time.monotonic_ns()}")
    for path, data in engine.tree(patched.source_sha256).items():
        file = staging / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        file.chmod(0o444)
    try:
        staging.rename(target)
    except OSError:
        shutil.rmtree(staging, ignore_errors=True)
        if not target.is_dir():
            raise
    return target


def confirm_place(trial: str) -> str:
    """Name of a confirmation's folder in scratch space: the trial's own is dropped when the trial ends."""
    return trial + CONFIRMING


def account_of(ref: TrialRef, purpose: str) -> str:
    """Whose a run is: the trial's, or its confirmation's, by the name of the folder in scratch space."""
    return confirm_place(ref.trial) if purpose.startswith("confirm") else ref.trial


def _place(engine: Engine, ref: TrialRef, purpose: str) -> Path:
    return engine.scratch(account_of(ref, purpose))


def drop_scratch(engine: Engine, place: str) -> None:
    """Remove the folder of a trial, or of its confirmation (`confirm_place`)."""
    shutil.rmtree(engine.scratch(place), ignore_errors=True)
