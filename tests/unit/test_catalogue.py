"""The embedded proposer: what it proposes, from which trials, and what it never does again."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from agents.catalogue import candidates, surrogate, tpe
from agents.catalogue.apply_technique import apply_technique, draw
from agents.catalogue.candidates import Parent, Setting
from agents.catalogue.memory import Delta, Memory, parse_delta
from agents.catalogue.proposer import CatalogueProposer
from agents.catalogue.surrogate import Surrogate
from agents.catalogue.transform import NotApplicable
from agents.edits.normal_form import ast_hash
from agents.edits.role_surface import check_surface
from agents.edits.search_replace import apply_edits, edits_between
from agents.protocol import ProposalRequest
from lineage.errors import NothingLeft
from lineage.records import Proposal, Row, Status
from tests.fakes.told import (
    ENVIRONMENT,
    ROLES,
    SPEC,
    START,
    Campaign,
    added,
    epochs_work,
    lengthen,
    nothing_works,
    play,
    world,
)


@pytest.fixture(scope="module")
def proposer() -> CatalogueProposer:
    return CatalogueProposer(ENVIRONMENT.techniques)


def test_proposals_are_untried_programs_inside_the_surface(proposer: CatalogueProposer) -> None:
    campaign = Campaign()
    said = play(campaign, proposer, 20, nothing_works)
    keys = [row.ast_sha256 for row in campaign.rows]
    assert len(set(keys)) == len(keys)
    for proposal in said:
        role = ROLES[proposal.role]
        after = apply_edits(campaign.files[proposal.parent], proposal.edits)
        check_surface(SPEC, role, campaign.files[proposal.parent], after)
        assert proposal.parent in proposal.hypothesis and len(proposal.hypothesis) > 40
        assert proposal.expected_delta is not None and math.isfinite(proposal.expected_delta)
        assert parse_delta(proposal.notes) is not None
    assert len({p.operator for p in said}) > 12


def test_the_same_lineage_and_seed_give_the_same_proposal(proposer: CatalogueProposer) -> None:
    campaign = Campaign()
    play(campaign, proposer, 12, epochs_work)
    request = campaign.ask("opt", 77)
    fresh = CatalogueProposer(ENVIRONMENT.techniques)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda p: p.propose(request), [proposer, fresh, proposer, fresh]))
    assert all(answer == answers[0] for answer in answers)
    others = {proposer.propose(campaign.ask("opt", seed)).operator for seed in range(8)}
    assert len(others) > 1


def test_parallel_asks_do_not_collide(proposer: CatalogueProposer) -> None:
    campaign = Campaign()
    play(campaign, proposer, 11, nothing_works)
    running: set[str] = set()
    for _ in range(6):
        proposal = proposer.propose(campaign.ask("loss", 5, in_flight=frozenset(running)))
        key = ast_hash(apply_edits(campaign.files[proposal.parent], proposal.edits))
        assert key not in running
        running.add(key)


def test_what_works_is_built_upon_and_said(proposer: CatalogueProposer) -> None:
    """The role that owns the one number that helps finds it, takes it further and quotes the evidence."""
    campaign = Campaign()
    said = play(campaign, proposer, 24, epochs_work, roles=("opt",))
    scores = [row.score for row in campaign.rows if row.status == "keep" and row.score is not None]
    assert min(scores) < 1.2, "fewer epochs should have been taken several times"
    keeps = {row.trial for row in campaign.rows if row.status == "keep"}
    assert {p.parent for p in said} & keeps
    assert any(trial in p.hypothesis for p in said for trial in keeps if trial != p.parent), (
        "evidence is quoted"
    )
    assert any("the leader" in p.notes for p in said)


def test_forecasts_follow_outcomes(proposer: CatalogueProposer) -> None:
    campaign = Campaign()
    play(campaign, proposer, 40, epochs_work)
    memory = Memory.of(campaign.view, SPEC)
    model = Surrogate(memory, proposer._catalogue, {"optim.py:EPOCHS": 28.0})
    start = memory.states["t0000"]
    fewer = start.plus(Delta(numbers=(("optim.py:EPOCHS", 28.0, 14.0),)), "")
    more = start.plus(Delta(numbers=(("optim.py:EPOCHS", 28.0, 34.0),)), "")
    assert model.forecast(fewer).gain > 0.2 > model.forecast(more).gain
    unseen = start.plus(Delta(("four_blocks_of_gold",)), "")
    assert model.forecast(unseen).spread > 0.05


def test_techniques_that_break_make_way_for_numbers(proposer: CatalogueProposer) -> None:
    """In roles that own several numbers; pairs, which break twice as easily, go first (seen in roles without trades)."""
    broken = play(Campaign(), proposer, 45, world(breaks_from=1), ("arch", "opt"))
    late = [p for p in broken[30:] if p.edit_kind == "numbers"]
    assert len(late) >= 8, "techniques that always break should give way to numbers"
    tried = [p.operator for p in broken if added(p)]
    assert len(set(tried)) == len(tried), "what broke came again while other things were untried"
    both = [play(Campaign(), proposer, 45, world(breaks_from=least), ("reg", "aug")) for least in (1, 9)]
    pairs = [sum(len(added(p)) > 1 for p in said) for said in both]
    assert pairs[0] < pairs[1] / 2


@pytest.mark.parametrize(("cause", "offered"), [("crash", 0), ("oom", 0), (None, 1)])
def test_a_combination_that_broke_is_not_offered_again(
    proposer: CatalogueProposer, cause: str | None, offered: int
) -> None:
    campaign = Campaign()
    pair = _by_hand(proposer, "arch", "relu").model_copy(update={"notes": Delta(("relu", "silu")).line()})
    campaign.tell(pair, None if cause else 2.1, cause=cause)
    setting = Setting(
        spec=SPEC, role=ROLES["arch"], catalogue=proposer._catalogue, memory=Memory.of(campaign.view, SPEC),
        files_of=lambda t: campaign.files[t], start={}, rng=random.Random(1), seed=1,
    )  # fmt: skip
    start = Parent(setting.memory.trials["t0000"], "the start", START, setting.memory.states["t0000"])
    singles = [c for c in candidates.techniques(setting, start) if c.techniques[0].name in ("relu", "silu")]
    assert len(singles) == 2
    assert len(candidates.combinations(setting, singles)) == offered


def test_too_much_of_a_number_bounds_it() -> None:
    campaign = Campaign()
    up = Delta(numbers=(("optim.py:LR", 0.02, 0.08),))
    proposal = Proposal(
        role="opt", proposer="catalogue", parent="t0000", hypothesis="h", notes=up.line(), operator="numbers:LR",
        edits=(),
    )  # fmt: skip
    campaign.files["t0001"] = START
    campaign.rows.append(
        Row(
            event="trial",
            campaign="told",
            trial="t0001",
            parent="t0000",
            status=Status.CRASH,
            cause="nan",
            notes=proposal.notes,
        )
    )
    low, high = Memory.of(campaign.view, SPEC).bounds["optim.py:LR"]
    assert high == pytest.approx(0.04)
    assert low == -math.inf
    campaign.rows.append(
        Row(
            event="trial", campaign="told", trial="t0002", parent="t0000", status=Status.KEEP, score=1.9,
            notes=Delta(numbers=(("optim.py:LR", 0.02, 0.06),)).line(),
        )
    )  # fmt: skip
    assert Memory.of(campaign.view, SPEC).bounds["optim.py:LR"][1] == pytest.approx(0.06)


def test_a_sibling_is_merged_onto_the_leader(proposer: CatalogueProposer) -> None:
    """Two roles improve the start side by side; what one found goes on top of the other's.

    The other techniques that were tried do nothing, so that a known ten per cent is worth more than an
    unknown technique.
    """
    campaign = Campaign()
    campaign.tell(_by_hand(proposer, "arch", "relu"), 1.8)
    campaign.tell(_by_hand(proposer, "opt", "shorter"), 1.5)
    nothing = (
        ("arch", "group_norm"),
        ("arch", "silu"),
        ("arch", "narrower"),
        ("opt", "lookahead"),
        ("loss", "focal"),
    )
    for role, name in nothing:
        campaign.tell(_by_hand(proposer, role, name), 2.0)
    said = [proposer.propose(campaign.ask("arch", seed)) for seed in range(12)]
    with_relu = [p for p in said if b"relu(x)" in apply_edits(campaign.files[p.parent], p.edits)["model.py"]]
    assert len(with_relu) >= 5, [p.operator for p in said]  # one in twenty if it were drawn uniformly
    found = [p for p in said if p.edit_kind == "crossover"]
    assert found, "no crossover in a dozen asks"
    assert found[0].operator == "crossover:t0001"
    assert found[0].parent == "t0002"
    after = apply_edits(campaign.files["t0002"], found[0].edits)
    assert b"relu(x)" in after["model.py"] and after["optim.py"] == campaign.files["t0002"]["optim.py"]


def test_what_promises_less_than_the_leader_is_no_detour(proposer: CatalogueProposer) -> None:
    """Every edit costs a tenth where runs scatter by a fortieth: no reason to go on from there."""
    campaign = Campaign()
    campaign.rows[0] = campaign.rows[0].model_copy(update={"noise_sd": 0.05})
    said = play(campaign, proposer, 20, lambda proposal, at: {"score": 2.2})
    assert {p.parent for p in said} == {"t0000"}


def test_room_to_spend_makes_a_parent_of_what_is_not_ahead(proposer: CatalogueProposer) -> None:
    campaign = Campaign()
    campaign.tell(_by_hand(proposer, "arch", "relu"), 1.9, room=0.003)
    campaign.tell(_by_hand(proposer, "arch", "group_norm"), 1.905, room=0.07)
    asked = [proposer.propose(campaign.ask("opt", seed)) for seed in range(8)]
    assert {p.parent for p in asked} & {"t0002"}, [p.parent for p in asked]


def test_other_programs_are_edited_when_the_leader_has_nothing_left(
    proposer: CatalogueProposer, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = Campaign()
    campaign.tell(_by_hand(proposer, "arch", "relu"), 2.2)
    build = candidates.build

    def elsewhere(setting: Setting, candidate: candidates.Candidate) -> tuple[dict[str, bytes], Delta]:
        if candidate.parent.trial.id == "t0000":
            raise NotApplicable("spent")
        return build(setting, candidate)

    monkeypatch.setattr(candidates, "build", elsewhere)
    assert proposer.propose(campaign.ask("opt", 1)).parent == "t0001"


def _by_hand(proposer: CatalogueProposer, role: str, name: str) -> Proposal:
    """The technique on the start, as a role proposes that asked before anything was known."""
    technique = proposer._catalogue.get(name)
    assert technique is not None
    made = apply_technique(
        technique, START, draw(technique, START, random.Random(1), True, proposer._catalogue.ranges, {})
    )
    moved = tuple((key, old, new) for key, (old, new) in made.values.items())
    return Proposal(
        role=role,
        proposer="catalogue",
        parent="t0000",
        hypothesis="by hand",
        edits=edits_between(START, made.files),
        operator=f"technique:{name}",
        notes=Delta((name,), moved).line(),
    )


def test_arms(proposer: CatalogueProposer) -> None:
    campaign = Campaign()
    play(campaign, proposer, 16, epochs_work)
    numbers = proposer.propose(campaign.ask("opt", 3, arm="numbers_only"))
    assert numbers.edit_kind == "numbers" and "TPE" in numbers.hypothesis
    for arm in ("random", "no_lineage"):
        kinds = {proposer.propose(campaign.ask("opt", seed, arm=arm)).edit_kind for seed in range(6)}
        assert "technique" in kinds and not kinds & {"crossover", "undo"}
    quoted = [proposer.propose(campaign.ask("opt", seed, arm="no_lineage")).hypothesis for seed in range(6)]
    leader = campaign.view.row_of_leader()
    assert leader is not None
    others = [f"t{n:04d}" for n in range(len(campaign.rows)) if f"t{n:04d}" != leader.trial]
    assert not any(trial in text for text in quoted for trial in others), (
        "an arm without lineage quoted a trial"
    )


def test_a_role_with_a_small_radius_gets_small_edits(proposer: CatalogueProposer) -> None:
    campaign = Campaign()
    role = ROLES["opt"].model_copy(update={"max_changed_lines": 4})
    for seed in range(5):
        request = campaign.ask("opt", seed)
        proposal = proposer.propose(ProposalRequest(**{**request.__dict__, "role": role}))
        after = apply_edits(START, proposal.edits)
        check_surface(SPEC, role, START, after)


def test_nothing_left_is_said(proposer: CatalogueProposer) -> None:
    campaign = Campaign()
    campaign.rows = []
    with pytest.raises(NothingLeft, match="baseline"):
        proposer.propose(campaign.ask("opt", 1))


def test_rows_of_other_proposers_are_understood(proposer: CatalogueProposer) -> None:
    campaign = Campaign()
    edit = proposer.propose(campaign.ask("loss", 1)).model_copy(update={"notes": "an idea", "operator": ""})
    campaign.tell(edit, 1.8)
    memory = Memory.of(campaign.view, SPEC)
    assert memory.states["t0001"].others == {"t0001"}
    assert parse_delta('delta: {"t":1}') is None
    assert proposer.propose(campaign.ask("arch", 4)).parent == "t0001"


def test_failures_are_told_to_tpe_as_graded_constraints() -> None:
    campaign = Campaign()
    line = Delta(numbers=(("optim.py:EPOCHS", 28.0, 20.0),)).line()
    common = {"event": "trial", "campaign": "told", "parent": "t0000", "notes": line}
    campaign.rows += [
        Row(**common, trial="t0001", status=Status.KEEP, score=1.5, numbers_json='{"accuracy_to_spare": 0.007}'),
        Row(**common, trial="t0002", status=Status.DISQUALIFIED, cause="gate_missed", score=1.2,
            numbers_json='{"gate": "accuracy", "short_by": 0.007}'),
        Row(**common, trial="t0003", status=Status.CRASH, cause="crash"),
    ]  # fmt: skip
    told = [tpe.violation(trial) for trial in Memory.of(campaign.view, SPEC).trials.values()]
    assert told[0] <= 0 and told[1] == pytest.approx(-0.5)
    assert told[2] == pytest.approx(0.5)
    assert told[3] == 1.0


def test_an_ask_over_a_thousand_rows_costs_little_more_than_one_over_a_hundred(
    proposer: CatalogueProposer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten times the rows, at most three times the thread's seconds, and no more model than before.

    The seconds themselves are measured by `python -m tests.bench.ask`.
    """
    work = Counter[str]()
    for owner, name in ((surrogate, "_evidence"), (Surrogate, "potential"), (Surrogate, "worth")):
        plain = getattr(owner, name)

        def counted(*given: Any, _plain: Any = plain, _name: str = name) -> Any:
            work[_name] += 1
            return _plain(*given)

        monkeypatch.setattr(owner, name, counted)
    campaign = Campaign()
    play(campaign, proposer, 25, epochs_work)
    seconds, counts = {}, {}
    for rows in (100, 1000):
        view, taken = lengthen(campaign, rows), []
        for seed in range(5):
            request = ProposalRequest(**{**campaign.ask("opt", seed).__dict__, "view": view})
            proposer.propose(request)  # sources read, patterns parsed
            work.clear()
            begin = time.thread_time()
            proposer.propose(request)
            taken.append(time.thread_time() - begin)
        seconds[rows], counts[rows] = sorted(taken)[2], dict(work)
    assert seconds[1000] < 3 * seconds[100], seconds
    assert counts[1000]["_evidence"] == counts[100]["_evidence"] > 0
    assert counts[1000]["potential"] <= 100 and counts[1000]["worth"] <= 1.5 * counts[100]["worth"]


def test_an_ask_does_linear_algebra_on_one_thread(
    proposer: CatalogueProposer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not any(lib["user_api"] == "blas" for lib in threadpool_info()):
        pytest.skip("numpy's linear algebra here is none that threadpoolctl can set (Accelerate on macOS)")
    seen: list[int] = []
    fit = surrogate._fit

    def watched(*args: Any) -> Any:
        seen.append(threads())
        return fit(*args)

    def threads() -> int:
        return max(lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas")

    def set_threads(count: int) -> None:
        """From a thread that ends: one that lives would keep the asks' threads from setting it."""
        setter = threading.Thread(target=threadpool_limits, args=(count, "blas"))
        setter.start()
        setter.join()

    campaign = Campaign()
    play(campaign, proposer, 3, epochs_work)
    monkeypatch.setattr(surrogate, "_fit", watched)
    before = threads()
    set_threads(3)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda seed: proposer.propose(campaign.ask("opt", seed)), range(8)))
        assert threads() == 3
    finally:
        set_threads(before)
    assert set(seen) == {1}
