"""Campaigns of the embedded proposer that are told their outcomes: no recipe runs, rows and sources are real.

    campaign = Campaign(); said = play(campaign, CatalogueProposer(ENVIRONMENT.techniques), 24, epochs_work)

An outcome is a function of the proposal and its number; the worlds below are the ones that tests and
`tests.bench.ask` share. `lengthen` repeats rows, for questions of scale.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from agents.catalogue.memory import parse_delta
from agents.catalogue.proposer import CatalogueProposer
from agents.edits.normal_form import ast_hash
from agents.edits.search_replace import apply_edits
from agents.protocol import ProposalRequest
from flows.environments.loading import load_environment
from lineage.ids import tree_hash
from lineage.queries import View
from lineage.records import Proposal, Row, Status

ENVIRONMENT = load_environment("airbench_mini")
SPEC, START = ENVIRONMENT.spec, ENVIRONMENT.source()
ROLES = {role.name: role for role in ENVIRONMENT.roster("specialists")}
Files = dict[str, bytes]


class Campaign:
    """Rows and sources of a campaign that is told its outcomes."""

    def __init__(self) -> None:
        self.files: dict[str, Files] = {"t0000": START}
        self.rows = [
            Row(
                event="trial",
                campaign="told",
                trial="t0000",
                status=Status.BASELINE,
                score=2.0,
                noise_sd=0.02,
                numbers_json=json.dumps({"accuracy_to_spare": 0.014, "bytes_to_spare": 1_700_000}),
                ast_sha256=ast_hash(START),
            )
        ]

    @property
    def view(self) -> View:
        return View.from_rows(self.rows, "min")

    def ask(self, role: str, seed: int, **more: Any) -> ProposalRequest:
        return ProposalRequest(
            spec=SPEC,
            role=ROLES[role],
            view=self.view,
            files_of=lambda t: self.files[t],
            seed=seed,
            **more,
        )

    def tell(
        self, proposal: Proposal, score: float | None, room: float = 0.012, cause: str | None = None
    ) -> str:
        trial = f"t{len(self.rows):04d}"
        self.files[trial] = apply_edits(self.files[proposal.parent], proposal.edits)
        best = min(
            row.score for row in self.rows if row.status in ("baseline", "keep") and row.score is not None
        )
        if cause == "gate_missed":
            status, numbers = Status.DISQUALIFIED, {"gate": "accuracy", "short_by": -room}
        elif cause is not None:
            status, numbers = Status.CRASH, {}
        else:
            status, numbers = (
                Status.KEEP if score is not None and score < best else Status.DISCARD,
                {"accuracy_to_spare": room},
            )
        self.rows.append(
            Row(
                event="trial",
                campaign="told",
                trial=trial,
                parent=proposal.parent,
                role=proposal.role,
                operator=proposal.operator,
                edit_kind=proposal.edit_kind,
                notes=proposal.notes,
                status=status,
                cause=cause,
                score=score,
                numbers_json=json.dumps(numbers),
                ast_sha256=ast_hash(self.files[trial]),
                source_sha256=tree_hash(self.files[trial]),
            )
        )
        return trial


def play(
    campaign: Campaign,
    proposer: CatalogueProposer,
    count: int,
    outcome: Callable[[Proposal, int], dict[str, Any]],
    roles: Sequence[str] = tuple(ROLES),
) -> list[Proposal]:
    said = []
    for at in range(count):
        role = roles[at % len(roles)]
        said.append(proposer.propose(campaign.ask(role, at)))
        campaign.tell(said[-1], **outcome(said[-1], at))
    return said


def nothing_works(proposal: Proposal, at: int) -> dict[str, Any]:
    return {"score": 2.1 + 0.01 * math.sin(at)}


def epochs_work(proposal: Proposal, at: int) -> dict[str, Any]:
    """Fewer epochs are the only thing that helps, as long as eight are left."""
    delta = parse_delta(proposal.notes)
    assert delta is not None
    for key, old, new in delta.numbers:
        if key == "optim.py:EPOCHS" and old and new:
            return {"score": 2.0 * new / 28, "room": 0.012} if new >= 8 else {"score": None, "cause": "crash"}
    return {"score": 2.2}


def added(proposal: Proposal) -> frozenset[str]:
    """The techniques that a proposal brings in."""
    delta = parse_delta(proposal.notes)
    return frozenset(name for name in (delta.techniques if delta else ()) if not name.startswith("-"))


def world(breaks_from: int) -> Callable[[Proposal, int], dict[str, Any]]:
    """Nothing helps, and a program that brings in this many techniques at once crashes."""

    def outcome(proposal: Proposal, at: int) -> dict[str, Any]:
        broken = len(added(proposal)) >= breaks_from
        return {"score": None, "cause": "crash"} if broken else {"score": 2.05}

    return outcome


def lengthen(campaign: Campaign, rows: int) -> View:
    """The campaign with its first 25 trials told again and again, up to this many; its view, rows built."""
    for n in range(len(campaign.rows), rows + 1):
        source = campaign.rows[1 + n % 25]
        campaign.rows.append(source.model_copy(update={"trial": f"t{n:04d}", "ast_sha256": f"{n:064d}"}))
        campaign.files[f"t{n:04d}"] = campaign.files[source.trial or ""]
    view = campaign.view
    view.trials()
    return view
