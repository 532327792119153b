"""Builds the proposer of a campaign from its settings."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from agents.llm.prices import load_prices
from agents.protocol import ProposalRequest, Proposer
from flows.engine.campaign_config import CampaignConfig, campaigns, load_config
from flows.engine.role_proposers import RoleProposers
from flows.engine.settings import Settings
from flows.environments.loading import Environment
from lineage.errors import NothingLeft, SpecInvalid, UnknownName, UsageError
from lineage.log.log_reader import Lineage
from lineage.queries import View
from lineage.records import Proposal, Row
from lineage.store.blobs import get_blob
from lineage.store.objects import Store, open_store

if TYPE_CHECKING:
    from agents.llm.ledger import Ledger


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
    refuse_lessons(settings, settings.arm)
    ledger = ledger_of(settings, paid)
    default = _single(settings, environment, ledger, cancel)
    if not settings.proposers:
        return default
    roster = [role.name for role in environment.roster(settings.arm, settings.roles)]
    made: dict[str, Proposer] = {}
    pools: dict[str, list[tuple[Proposer, float]]] = {}
    for role, names in settings.proposers.items():
        if role not in roster:
            raise UnknownName("role", role, roster, hint=f"in proposers, arm {settings.arm}")
        for name in names:
            if name not in made:
                made[name] = _single(as_named(settings, name), environment, ledger, cancel)
        pools[role] = [(made[name], weight) for name, weight in names.items()]
    return RoleProposers(default, pools)


def _single(
    settings: Settings, environment: Environment, ledger: Ledger, cancel: threading.Event | None
) -> Proposer:
    refuse_arm(settings.proposer, settings.arm)
    if settings.proposer == "catalogue":
        from agents.catalogue.proposer import CatalogueProposer

        arm = settings.arm if settings.arm in ("random", "no_lineage") else ""
        return CatalogueProposer(environment.techniques, arm)
    if settings.proposer == "scripted":
        return Script(read_script(Path(settings.script)))
    if settings.proposer == "replay":
        return replay_of(settings.script, [r.name for r in environment.roster(settings.arm, settings.roles)])
    if settings.proposer == "mcp":
        return OnlyClients()
    if settings.proposer == "command":
        return command_proposer(settings, ledger, cancel)
    return llm_proposer(settings, ledger, cancel)


def as_named(settings: Settings, name: str) -> Settings:
    """The settings with which one of `proposers` is built: NAME or NAME:MODEL, NAME a proposer or an agent's preset."""
    head, _, named = name.partition(":")
    # the campaign's own model is of its own proposer; another's default is its own
    model = named or (settings.model if head in (settings.proposer, settings.agent) else "")
    models = {} if named else settings.models
    if head in ("catalogue", "anthropic", "openai"):
        return settings.model_copy(update={"proposer": head, "model": model, "models": models})
    if head != "command":
        from agents.command.preset import load_preset

        load_preset(head)  # tells an unknown name
        return settings.model_copy(
            update={"proposer": "command", "agent": head, "command": (), "model": model, "models": models}
        )
    if not settings.command:
        raise UsageError("proposers name `command`, but none is given: [proposer] command = [...]")
    return settings.model_copy(update={"proposer": "command", "agent": "", "model": model, "models": models})


def refuse_lessons(settings: Settings, arm: str) -> None:
    """Raise UsageError for lessons in an arm without lineage, and where no proposer would read them."""
    if not settings.lessons:
        return
    if arm == "no_lineage":
        raise UsageError(
            f"lessons {settings.lessons!r}: the arm no_lineage sees nothing of earlier trials, and lessons are made of "
            "them; leave out --lessons or this arm"
        )
    named = {name.partition(":")[0] for names in settings.proposers.values() for name in names}
    if {settings.proposer, *named} <= {"catalogue", "scripted", "replay"}:
        raise UsageError(
            f"lessons {settings.lessons!r}: the proposer {settings.proposer} reads no text, so they would change nothing; "
            "leave out --lessons, or name a proposer that reads: anthropic, openai, command or mcp"
        )


def refuse_arm(proposer: str, arm: str) -> None:
    """Raise UsageError for an arm that this proposer would play exactly like another one."""
    if arm == "random" and proposer in ("anthropic", "openai", "command"):
        raise UsageError(
            f"arm random: the proposer {proposer} cannot draw uniformly, a model always chooses; "
            "leave this arm out, or use --proposer catalogue"
        )
    if proposer == "mcp" and arm in ("random", "no_lineage"):
        raise UsageError(
            f"arm {arm}: a client of `bakeoff mcp` reads the record before it proposes; "
            "leave this arm out, or use another --proposer"
        )


def close_proposer(proposer: Proposer) -> None:
    """Close the proposer's connections, if it has any."""
    close = getattr(proposer, "close", None)
    if close is not None:
        close()


def llm_proposer(settings: Settings, ledger: Ledger, cancel: threading.Event | None = None) -> Proposer:
    """A proposer that calls a language model."""
    from agents.llm.anthropic_proposer import anthropic_proposer
    from agents.llm.endpoint_check import require_key
    from agents.llm.openai_proposer import openai_proposer
    from agents.llm.proposing_session import DEFAULT_MODEL, SessionSettings

    session = SessionSettings(
        model=settings.model or DEFAULT_MODEL,
        models=settings.models,
        searches=settings.research_searches if settings.research and settings.proposer == "anthropic" else 0,
        blocked_domains=settings.research_blocked_domains,
    )
    prices = load_prices(settings.prices, settings.free_models)
    make = anthropic_proposer if settings.proposer == "anthropic" else openai_proposer
    proposer = make(session, ledger, prices, cancel)
    try:
        require_key(proposer.chat)
    except UsageError:
        proposer.close()
        raise
    return proposer


def ledger_of(settings: Settings, paid: Iterable[Row]) -> Ledger:
    """The account of a campaign's model calls, with its caps, and what lineage records as spent."""
    from agents.llm.ledger import Cap, Caps, Ledger

    caps = Caps(
        campaign=Cap(usd=settings.usd, tokens=settings.tokens),
        role=Cap(usd=settings.usd_per_role),
        trial=Cap(usd=settings.usd_per_trial),
    )
    return Ledger(caps).rebuilt(paid)


def command_proposer(settings: Settings, ledger: Ledger, cancel: threading.Event | None = None) -> Proposer:
    """A coding agent in the box of this machine. Raises IsolationRefused where there is none and it is not trusted."""
    from agents.command.preset import load_preset, own_command
    from agents.command.proposer import AgentSettings, CommandProposer
    from flows.machine.agent_box import agent_box

    preset = load_preset(settings.agent) if settings.agent else own_command(settings.command)
    chosen = AgentSettings(
        model=settings.model,
        models=settings.models,
        seconds=60 * settings.agent_minutes,
        hosts=settings.agent_hosts,
        variables=settings.agent_variables,
        folders=settings.agent_folders,
    )
    return CommandProposer(preset, agent_box(settings.trust_agent), chosen, ledger, cancel)


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


class OnlyClients:
    """Proposes nothing: every trial is begun for a proposal that a client handed in."""

    name = "mcp"

    def propose(self, request: ProposalRequest) -> Proposal:
        raise NothingLeft(f"trial {request.trial} was begun for no client's proposal")


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
