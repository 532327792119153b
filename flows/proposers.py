"""From the campaign's settings to the proposer that answers its requests."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from agents.protocol import ProposalRequest, Proposer
from flows.config import CampaignConfig
from flows.environments import Environment
from lineage.errors import NothingLeft, SpecInvalid, UsageError
from lineage.records import Proposal


def build_proposer(config: CampaignConfig, environment: Environment) -> Proposer:
    """Raises UsageError when the proposer needs something that is not there (a key, a script)."""
    settings = config.settings
    if settings.proposer == "catalogue":
        from agents.catalogue.proposer import CatalogueProposer

        arm = settings.arm if settings.arm in ("random", "no_lineage") else ""
        return CatalogueProposer(environment.techniques, arm)
    if settings.proposer == "scripted":
        return Script(read_script(Path(settings.script)))
    raise UsageError(f"proposer {settings.proposer!r} cannot be used here")


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
    """Hands trial t0001 the first proposal of the script, t0002 the second: the same after any restart."""

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
            leader = request.view.leader()
            blanks["parent"] = (leader.trial or "") if leader is not None else ""
        return item.model_copy(update={k: v for k, v in blanks.items() if not getattr(item, k)})
