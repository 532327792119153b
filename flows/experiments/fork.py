"""`bakeoff fork RUN TRIAL`: a new campaign whose start is the program of a recorded trial.

Use: `fork_campaign(root, config, row, new_root, given)`; `given` are settings that differ from the old campaign's.
The new campaign is complete in itself: it has the start's source, measures it again as its own baseline, and
records its origin in its configuration and its first lineage event.
Limits: the old lineage is not copied. The new campaign does not know what the old one tried, so a
proposer may try it again; the environment is the one that is installed now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.campaign.run_on_this_machine import Start, create_campaign
from flows.engine.campaign_config import CampaignConfig, Origin
from flows.engine.settings import Settings, load_settings
from flows.report.formatting import outcome
from lineage.errors import UsageError
from lineage.records import Row, Status
from lineage.store.blobs import get_tree
from lineage.store.objects import open_store

STARTS = (Status.BASELINE, Status.KEEP, Status.DISCARD)


def fork_campaign(
    root: str, old: CampaignConfig, row: Row, new_root: str, given: Mapping[str, Any]
) -> CampaignConfig:
    """Create the campaign; nothing runs yet. Raises UsageError for a trial that cannot be a start."""
    if row.status not in STARTS or row.source_sha256 is None:
        raise UsageError(
            f"{row.trial} ended as {outcome(row)}: a campaign can only start from a program that passed, "
            "a keep, a discard or the baseline"
        )
    settings = inherited(old.settings, given)
    origin = Origin(run=root, campaign=old.id, trial=row.trial or "", source_sha256=row.source_sha256)
    files = get_tree(open_store(root), row.source_sha256)
    return create_campaign(new_root, settings, f"from-{row.trial}", Start(files=files, forked_from=origin))


def inherited(old: Settings, given: Mapping[str, Any]) -> Settings:
    """The old settings changed by what is given; a fixed list of proposals is dropped, it does not fit another start.

    Another arm brings its own roles. Raises SpecInvalid for a value that cannot be.
    """
    flags = {**old.model_dump(), **{key: value for key, value in given.items() if value is not None}}
    if flags["proposer"] in ("scripted", "replay"):
        flags |= {"proposer": "catalogue", "script": ""}
    if flags["arm"] != old.arm and given.get("roles") is None:
        flags["roles"] = ()
    return load_settings(flags, env={})[0]
