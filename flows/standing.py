"""The promotions of an open campaign: the book over its rows, under the plan it was started with."""

from __future__ import annotations

from evaluators.standing import Book, book_of
from flows.config import CampaignConfig
from lineage.queries import View


def book(config: CampaignConfig, view: View) -> Book:
    """Leader, incumbent, noise and level left, folded from the rows that decide, in the order recorded."""
    opened = book_of(view.milestones(), config.plan)
    opened.trials = view.count()  # trials that neither lead nor start count only by their number
    return opened
