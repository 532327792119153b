"""Builds the proposer of a campaign from its settings."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from agents.llm.prices import load_prices
from agents.protocol import ProposalRequest, Proposer
from flows.engine.campaign_config import CampaignConfig, campaigns, load_config
from flows.engine.settings import Settings
from flows.environments.loading import Environment
from lineage.errors import NothingLeft, SpecInvalid, UsageError
from lineage.log.log_reader import Lineage
from lineage.queries import View
from lineage.records import Proposal, Row
from lineage.store.blobs import get_blob
from lineage.store.objects import Store, open_store


def build_proposer(
    settings: Settings,
    environment: Environment,
    paid: Iterable[Row] = (),
    cancel: threading.Event | None = None,
) -> Proposer:
    """Build the proposer of a campaign; makes no call to a model.

    `paid` are the rows that say what was spent so far; setting `cancel` ends sessions under way.
    Raises UsageError when a key, model, price, file or record is missing, or when the proposer cannot play the arm.
    """
    refuse_arm(settings.proposer, settings.arm)
    if settings.proposer == "catalogue":
        from agents.catalogue.proposer import CatalogueProposer

        arm = settings.arm if settings.arm in ("random", "no_lineage") else ""
        return CatalogueProposer(environment.techniques, arm)
    if settings.proposer == "scripted":
        return Script(read_script(Path(settings.script)))
    if settings.proposer == "replay":
        return replay_of(settings.script, [r.name for r in environment.roster(settings.arm, settings.roles)])
    return llm_proposer(settings, paid, cancel)


def refuse_arm(proposer: str, arm: str) -> None:
    """Raise UsageError for an arm that this proposer would play exactly like another one."""
    if arm == "random" and proposer in ("anthropic", "openai"):
        raise UsageError(
            f"arm random: the proposer {proposer} cannot draw uniformly, a model always chooses; "
            "leave this arm out, or use --proposer catalogue"
        )


def close_proposer(proposer: Proposer) -> None:
    """Close the proposer's connections, if it has any."""
    close = getattr(proposer, "close", None)
    if close is not None:
        close()


def llm_proposer(
    settings: Settings, paid: Iterable[Row] = (), cancel: threading.Event | None = None
) -> Proposer:
    """A proposer that calls a language model; its ledger starts from what lineage records as spent."""
    from agents.llm.anthropic_proposer import anthropic_proposer
    from agents.llm.endpoint_check import require_key
    from agents.llm.ledger import Cap, Caps, Ledger
    from agents.llm.openai_proposer import openai_proposer
    from agents.llm.proposing_session import DEFAULT_MODEL, SessionSettings

    caps = Caps(
        campaign=Cap(usd=settings.usd, tokens=settings.tokens),
        role=Cap(usd=settings.usd_per_role),
        trial=Cap(usd=settings.usd_per_trial),
    )
    ledger = Ledger(caps).rebuilt(paid)
    session = SessionSettings(model=settings.model or DEFAULT_MODEL, models=settings.models)
    prices = load_prices(settings.prices, settings.free_models)
    make = anthropic_proposer if settings.proposer == "anthropic" else openai_proposer
    proposer = make(session, ledger, prices, cancel)
    try:
        require_key(proposer.chat)
    except UsageError:
        proposer.close()
        raise
    return proposer


def replay_of(source: str, roles: Sequence[str]) -> Proposer:
    """The proposals of a recorded campaign again, as far as they are of these roles."""
    from agents.llm.replay_proposer import ReplayProposer, records_of

    store, _, view = _record(source)
    mine = [record for record in records_of(view) if record.role in roles]
    if not mine:
        raise UsageError(f"{source}: the record has no proposal of {', '.join(roles)}; replay with its roles")
    return ReplayProposer(mine, lambda sha: get_blob(store, sha))


def replay_flags(source: str) -> dict[str, Any]:
    """The settings that a replay takes from its record: arm, roles, number of trials."""
    from agents.llm.replay_proposer import records_of

    _, recorded, view = _record(source)
    return {
        "arm": recorded.settings.arm,
        "roles": tuple(role.name for role in recorded.roles),
        "trials": max(1, len(records_of(view))),
    }


def _record(source: str) -> tuple[Store, CampaignConfig, View]:
    """A recorded campaign; `source` is its run directory or store URI, with #CAMPAIGN when there are several."""
    root, _, campaign = source.partition("#")
    if not root:
        raise UsageError("proposer replay needs the recorded run: --replay RUN (or RUN#CAMPAIGN)")
    store = open_store(root)
    found = [campaign] if campaign else campaigns(store)
    if len(found) != 1:
        raise UsageError(
            f"{root}: name the campaign to replay as {root}#CAMPAIGN; it has {', '.join(found) or 'none'}"
        )
    recorded = load_config(store, found[0])
    return store, recorded, Lineage(store, recorded.id, recorded.spec.score.direction).refresh()


def read_script(path: Path) -> list[Proposal]:
    """A JSON list of proposals. Raises SpecInvalid naming the file and the first bad item."""
    try:
        return TypeAdapter(list[Proposal]).validate_json(path.read_bytes())
    except OSError as error:
        raise SpecInvalid(
            f"script {str(path)!r}: cannot be read ({error.strerror}); give one with script = FILE"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecInvalid(f"script {path}: item {first['loc']}: {first['msg']}") from None


class Script:
    """Proposes the first item of the script to trial t0001, the second to t0002; the same after any restart."""

    name = "scripted"

    def __init__(self, items: list[Proposal]) -> None:
        self._items = items

    def propose(self, request: ProposalRequest) -> Proposal:
        number = int(request.trial.removeprefix("t"))
        if number > len(self._items):
            raise NothingLeft(
                f"the script has {len(self._items)} proposals, trial {request.trial} asks for another"
            )
        item = self._items[number - 1]
        blanks = {"role": request.role.name, "proposer": self.name, "parent": ""}
        if not item.parent:
            leader = request.view.ranking.leader()
            blanks["parent"] = leader[0] if leader is not None else ""
        return item.model_copy(update={k: v for k, v in blanks.items() if not getattr(item, k)})
