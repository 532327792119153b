"""The state of a campaign's promotions, computed from its rows under the plan that it was started with."""

from __future__ import annotations

from collections.abc import Mapping

from evaluators.judge.item_scores import Items, unpack
from evaluators.statistics.confirmation_book import Book, book_of
from evaluators.statistics.confirmation_inputs import Read
from flows.engine.campaign_config import CampaignConfig
from lineage.queries import View
from lineage.records import Measurement
from lineage.store.blobs import get_blob
from lineage.store.objects import Store


def book(config: CampaignConfig, view: View) -> Book:
    """Leader, incumbent, noise and level left, folded from the rows that decide, in the order recorded."""
    opened = book_of(view.milestones(), config.plan)
    opened.trials = view.count()  # trials that neither lead nor start count only by their number
    return opened


def reader(store: Store) -> Read:
    """Reads the test items of a measurement; each artifact once."""
    held: dict[str, Mapping[str, Items]] = {}

    def read(measurement: Measurement) -> Mapping[str, Items] | None:
        sha = measurement.items_sha256
        if sha and sha not in held:
            held[sha] = unpack(get_blob(store, sha))[1]
        return held[sha] if sha else None

    return read


def must_depend(config: CampaignConfig, view: View, parent: str | None) -> bool:
    """Must the runs of an edit of `parent` depend on the seed, because those of the start or of the parent do?"""
    rows = [view.baseline(), view.trial(parent) if parent else None]
    return config.plan.rules >= 2 and any(row is not None and row.deterministic is False for row in rows)
