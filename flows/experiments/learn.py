"""Opens the finished campaigns that `bakeoff learn` distils; `flows.report.lessons` makes the text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from flows.campaign.campaign_rows import end_of
from flows.campaign.run_on_this_machine import only_campaign
from flows.engine.campaign_config import campaigns
from flows.report.lessons import Record
from lineage.errors import UsageError
from lineage.log.log_reader import Lineage
from lineage.store.blobs import get_blob
from lineage.store.objects import open_store


def records_of(runs: Sequence[tuple[str, str]]) -> list[Record]:
    """Every campaign of the runs, in the order given; `runs` are pairs of a store root and a campaign id or "".

    Raises UsageError for a campaign that has not ended, and for one that is named twice.
    """
    found: list[Record] = []
    for root, campaign in dict.fromkeys(runs):
        store = open_store(root)
        for name in [campaign] if campaign else _all(campaigns(store)):
            config = only_campaign(root, name or None, imported=True)
            view = Lineage(store, config.id, config.spec.score.direction).refresh()
            if config.start_sha256 and not end_of(view):
                raise UsageError(
                    f"{root}: {config.id} has not ended, so its lessons would be half of them; "
                    f"end it with `bakeoff resume {root}` or `bakeoff stop {root}`"
                )
            label = chr(ord("a") + len(found) % 26) + (str(len(found) // 26) if len(found) > 25 else "")
            found.append(
                Record(label, view, config.spec, config.environment_sha256, partial(get_blob, store))
            )
    return found


def _all(known: Iterable[str]) -> list[str]:
    return list(known) or [""]  # an imported record has no configuration
