"""From the campaign's settings to the proposer that answers its requests."""

from __future__ import annotations

from agents.protocol import Proposer
from flows.config import CampaignConfig
from flows.environments import Environment
from lineage.errors import UsageError


def build_proposer(config: CampaignConfig, environment: Environment) -> Proposer:
    """Raises UsageError when the proposer needs something that is not there (a key, a script)."""
    name = config.settings.proposer
    if name == "catalogue":
        from agents.catalogue.proposer import CatalogueProposer

        return CatalogueProposer(environment.techniques)
    raise UsageError(f"proposer {name!r} cannot be used here")
