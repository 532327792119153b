"""The embedded proposer: edits from a catalogue of techniques, chosen from lineage. No key, no network.

    CatalogueProposer(Path("recipes/airbench_mini/techniques")).propose(request)

One ask: read lineage (`memory`), fit effects (`surrogate`), list what could be done (`candidates`), rank
it by expected improvement times a small random factor (operators share strength through the linear model, and
never-tried ones have the widest outlook), make the edit, check surface and duplicates, and say why. An
operator that cannot give an untried program is masked and the next one taken. There is no uniform
phase at the start: with no rows every technique has the same wide outlook, and the random factor decides. The same
lineage, seed and `in_flight` give the same proposal; lineage is the only memory.

Arms (`request.arm` or the constructor): anything else is the full proposer; `random` draws operators
uniformly and never learns; `no_lineage` sees the leader's program and no row; `numbers_only` is TPE
over the constants of the surface.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from threadpoolctl import ThreadpoolController

from agents.catalogue import candidates as make
from agents.catalogue import proposal_text, recipe_constants, tpe
from agents.catalogue.candidates import Candidate, Parent, Setting
from agents.catalogue.general_catalogue import general
from agents.catalogue.memory import Delta, EditState, Memory, Trial
from agents.catalogue.surrogate import Forecast, Surrogate
from agents.catalogue.technique import Catalogue, load_catalogue
from agents.catalogue.transform import NotApplicable
from agents.edits.file_text import shown
from agents.edits.normal_form import ast_hash
from agents.edits.role_surface import changed_lines, check_surface
from agents.edits.search_replace import Files, edits_between
from agents.protocol import ProposalRequest
from lineage.errors import EditRefused, NothingLeft
from lineage.records import Edit, Proposal

Tier = list[tuple[Trial, str]]  # programs to build on, the leader first, each with the reason for it
SEARCH_ARMS = ("lineage", "no_lineage", "random", "numbers_only")
OUTLOOKS = 3  # parents beside the leader
SHORTLIST = 40  # trials with the best gain, and as many with the most room, whose outlook is computed
LUCK = 0.15  # spread of the factor that decides between near equals and keeps parallel asks apart
PRIOR_WEIGHT = 5  # worth of the prior that one technique in ten breaks its program
TRIES = 40
CACHE = 96  # source snapshots kept by content hash, the newest


_one_at_a_time = (
    threading.Lock()
)  # the number of threads is the process's: an ask that ends would give it to another


@cache
def _libraries() -> ThreadpoolController:
    """The linear algebra loaded by the first ask, which each proposal limits to one thread.

    Its matrices have a few hundred rows at most. Spread over the cores, whose threads spin while they wait for each
    other, asks after 400 trials took 180 to 480 ms of CPU time on two busy cores, and 64 ms on one thread. One thread
    also adds up in one order: the same lineage gives the same proposal on any number of cores.
    """
    return ThreadpoolController().select(user_api="blas")


class CatalogueProposer:
    """Thread-safe; keeps the catalogue and a cache of sources, which are immutable."""

    def __init__(self, techniques: Path, arm: str = "", name: str = "catalogue") -> None:
        self._name, self._arm = name, arm
        self._catalogue = load_catalogue(techniques)
        self._general: dict[str, Catalogue] = {}
        self._sources: OrderedDict[str, Files] = OrderedDict()
        tpe.warm_up()

    @property
    def name(self) -> str:
        return self._name

    def propose(self, request: ProposalRequest) -> Proposal:
        with _one_at_a_time, _libraries().limit(limits=1, user_api="blas"):
            return self._propose(request)

    def _propose(self, request: ProposalRequest) -> Proposal:
        arm = self._arm or (request.arm if request.arm in SEARCH_ARMS else "lineage")
        setting, model, tiers = self._setting(request, arm)
        masked, seen = _masked(setting.memory), list[Candidate]()
        for candidate in self._in_turn(request, setting, tiers, arm, model):
            seen.append(candidate)
            if request.deadline is not None and time.monotonic() > request.deadline:
                break
            if (candidate.operator, candidate.parent.trial.id) in masked and candidate.kind != "numbers":
                continue
            made = self._made(request, setting, candidate, arm)
            if made is not None:
                edits, delta = made
                return self._proposal(request, setting, candidate, edits, delta, model, arm)
        on = ", ".join(trial.id for tier in tiers for trial, _ in tier)
        raise NothingLeft(f"role {request.role.name}: no untried edit among {len(seen)} candidates on {on}")

    # ---- lineage ---------------------------------------------------------------------------------

    def _files(self, request: ProposalRequest, trial: str) -> Files:
        row = request.view.trial(trial)
        key = row.source_sha256 if row else None
        if key is None:
            return dict(request.files_of(trial))
        if key not in self._sources:
            self._sources[key] = dict(request.files_of(trial))
            while len(self._sources) > CACHE:
                self._sources.popitem(last=False)
        return self._sources[key]

    def _setting(self, request: ProposalRequest, arm: str) -> tuple[Setting, Surrogate, list[Tier]]:
        memory = Memory.of(request.view, request.spec)
        start, leader = memory.start, memory.leader
        if start is None or leader is None:
            raise NothingLeft("there is no measured baseline to start from")
        if arm == "no_lineage":
            memory = _blank(memory, leader)
        rng = random.Random(request.seed)
        catalogue = self._catalogue_for(request, start)
        numbers = recipe_constants.numbers(self._files(request, start.id), every=catalogue.takes_every_number)
        setting = Setting(
            spec=request.spec,
            role=request.role,
            catalogue=catalogue,
            memory=memory,
            files_of=lambda trial: self._files(request, trial),
            start={key: number.value for key, number in numbers.items()},
            rng=rng,
            seed=request.seed % 2**32,
        )
        model = Surrogate(memory, catalogue, setting.start)
        return (
            setting,
            model,
            _parents(memory, model, leader) if arm == "lineage" else [[(leader, "the leader")]],
        )

    def _catalogue_for(self, request: ProposalRequest, start: Trial) -> Catalogue:
        """The recipe's own, or what fits any recipe; made once for a start."""
        if not self._catalogue.is_empty:
            return self._catalogue
        row = request.view.trial(start.id)
        key = (row.source_sha256 if row is not None else None) or start.id
        if key not in self._general:
            self._general = {key: general(request.spec, self._files(request, start.id))}
        return self._general[key]

    # ---- choice ----------------------------------------------------------------------------------

    def _in_turn(
        self, request: ProposalRequest, setting: Setting, tiers: list[Tier], arm: str, model: Surrogate
    ) -> Iterator[Candidate]:
        """Candidates in the order in which to try to make them; those of a later tier when an earlier one has none."""
        states = setting.memory.states
        for tier in tiers:
            parents = [
                Parent(trial, why, self._files(request, trial.id), states.get(trial.id, EditState()))
                for trial, why in tier
            ]
            yield from self._ranked(setting, parents, arm, model)[:TRIES]

    def _ranked(self, setting: Setting, parents: list[Parent], arm: str, model: Surrogate) -> list[Candidate]:
        """Candidates, the one to try first in front."""
        leader = parents[0]
        if arm == "numbers_only":
            return [
                *make.by_tpe(setting, leader, every=True),
                *make.by_tpe(setting, leader),
                *make.steps(setting, leader),
            ]
        singles = make.techniques(setting, leader)
        if arm == "random":
            drawn = [*singles, *make.steps(setting, leader, 3)]
            setting.rng.shuffle(drawn)
            return [*drawn, *make.steps(setting, leader)]
        listed = [*singles, *make.combinations(setting, singles), *make.steps(setting, leader)]
        if arm == "lineage":
            listed += [
                *make.by_tpe(setting, leader),
                *make.crossovers(setting, leader),
                *make.undos(setting, leader),
            ]
            for parent in parents[1:]:
                more = make.techniques(setting, parent)
                listed += [*more, *make.combinations(setting, more)[:4], *make.steps(setting, parent, 4)]
        breakage, rate = setting.memory.breakage(), model.exchange(leader.state)
        best = max((p.state for p in parents), key=lambda state: model.potential(state, rate))
        rated = [
            (
                model.worth(c.state, leader.state, best, rate) * _sound(c, breakage),
                setting.rng.gauss(0.0, LUCK),
                c,
            )
            for c in listed
        ]
        return [candidate for _, _, candidate in sorted(rated, key=lambda r: -r[0] * math.exp(r[1]))]

    def _made(
        self, request: ProposalRequest, setting: Setting, candidate: Candidate, arm: str
    ) -> tuple[tuple[Edit, ...], Delta] | None:
        """Edits and delta, or None when the edit cannot be made or the program is known."""
        try:
            files, delta = make.build(setting, candidate)
            if _size(candidate.parent.files, files) > request.role.max_changed_lines:
                return None
            # made from a trial or for any recipe; a recipe's own techniques keep to their surface by contract
            if candidate.other is not None or setting.catalogue.general:
                check_surface(request.spec, request.role, candidate.parent.files, files)
            key = ast_hash(files)
            known = None if arm == "no_lineage" else request.view.has_program(key)
            if known is not None or key in request.in_flight:
                return None
            return edits_between(candidate.parent.files, files), delta
        except (NotApplicable, EditRefused):
            return None

    # ---- words -----------------------------------------------------------------------------------

    def _proposal(
        self,
        request: ProposalRequest,
        setting: Setting,
        candidate: Candidate,
        edits: tuple[Edit, ...],
        delta: Delta,
        model: Surrogate,
        arm: str,
    ) -> Proposal:
        memory, parent = setting.memory, candidate.parent
        forecast = model.forecast(parent.state.plus(delta, ""))
        against = model.forecast(parent.state)
        return Proposal(
            role=request.role.name,
            proposer=self._name,
            parent=parent.trial.id,
            hypothesis=proposal_text.hypothesis(memory, candidate, delta),
            expected_delta=_expected(memory, parent.trial, forecast, against),
            edits=edits,
            edit_kind=candidate.kind,
            operator=candidate.operator,
            notes=proposal_text.notes(candidate, delta, forecast, against.gain, arm),
        )


def _size(before: Files, after: Files) -> int:
    paths = [path for path in after if after[path] != before.get(path)]
    return sum(changed_lines(shown(path, before.get(path, b"")), shown(path, after[path])) for path in paths)


def _expected(memory: Memory, parent: Trial, forecast: Forecast, against: Forecast) -> float | None:
    """Expected change of the score against the parent's, in the score's own unit and sign."""
    if parent.score is None:
        return None
    return memory.score_after(parent.score, forecast.gain - against.gain) - parent.score


def _blank(memory: Memory, leader: Trial) -> Memory:
    """A memory with the program to start from and nothing about its history."""
    bare = Memory(sign=memory.sign, relative=memory.relative, noise=memory.noise)
    bare.trials[leader.id], bare.states[leader.id] = leader, EditState()
    bare.start = bare.leader = bare.incumbent = leader
    return bare


def _parents(memory: Memory, model: Surrogate, leader: Trial) -> list[Tier]:
    """The leader with what promises more than it does, once its room is spent; then with the best of the others.

    What promises less is a detour: its gain is as uncertain as the noise, so a rank by expected improvement alone
    continues from the newest discard, edit upon edit, and leaves the leader for good (`LOG.md`, 2026-11-27).
    """
    rate = model.exchange(memory.states[leader.id])
    outlook = {t.id: model.potential(memory.states[t.id], rate) for t in _known(memory) if t.id != leader.id}
    ranked = sorted(outlook, key=lambda name: (-outlook[name], memory.trials[name].order))
    bar = model.potential(memory.states[leader.id], rate)
    above = [name for name in ranked if outlook[name] > bar]
    below = [name for name in ranked if outlook[name] <= bar]
    first = (leader, "the leader")
    tiers = [[first, *(_why(memory, leader, name) for name in names[:OUTLOOKS])] for names in (above, below)]
    return tiers if below else tiers[:1]


def _known(memory: Memory) -> list[Trial]:
    """The trials furthest ahead and those with the most room, and the best confirmed one."""
    valid = [
        t for t in memory.trials.values() if t.valid and t.gain is not None and t.verdict != "unconfirmed"
    ]
    ahead = sorted(valid, key=lambda t: -(t.gain or 0.0))[:SHORTLIST]
    roomy = sorted(valid, key=lambda t: -min(t.room.values(), default=0.0))[:SHORTLIST]
    confirmed = [memory.incumbent] if memory.incumbent is not None else []
    return list({t.id: t for t in (*ahead, *roomy, *confirmed)}.values())


def _why(memory: Memory, leader: Trial, name: str) -> tuple[Trial, str]:
    trial = memory.trials[name]
    limit = min(trial.room, key=lambda quantity: trial.room[quantity]) if trial.room else ""
    ahead = proposal_text.percent((trial.gain or 0.0) - (leader.gain or 0.0))
    confirmed = "the best confirmed trial, " if trial is memory.incumbent else ""
    return trial, f"{confirmed}{ahead} against the leader{f' and room for {limit}' if limit else ''}"


def _masked(memory: Memory) -> set[tuple[str, str]]:
    """(operator, parent) pairs that gave no program there."""
    refused = ("bad_edit", "outside_surface", "duplicate", "syntax")
    return {(t.operator, t.parent) for t in memory.trials.values() if t.cause in refused}


def _sound(candidate: Candidate, breakage: dict[str, tuple[int, int]]) -> float:
    """Chance that the candidate's techniques do not break the program, by how often they and the others did."""
    broke, tried = breakage.get("", (0, 0))
    usual = (broke + 0.1 * PRIOR_WEIGHT) / (tried + PRIOR_WEIGHT)
    chance = 1.0
    for technique in candidate.techniques:
        broke, tried = breakage.get(technique.name, (0, 0))
        chance *= 1.0 - (broke + usual) / (tried + 1.0)
    return chance
