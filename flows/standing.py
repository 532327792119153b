"""The promotions of an open campaign: the plan it was started with and the book over its rows."""

from __future__ import annotations

from evaluators.promote import ConfirmPlan, plan_for
from evaluators.standing import Book, book_of
from flows.config import CampaignConfig
from lineage.queries import View


def plan_of(config: CampaignConfig) -> ConfirmPlan:
    return plan_for(config.spec, config.settings.trials)


def book(config: CampaignConfig, view: View) -> Book:
    """Leader, incumbent, noise and level left, folded from the rows that decide, in the order recorded."""
    opened = book_of(view.milestones(), plan_of(config))
    opened.trials = view.count()  # trials that neither lead nor start count only by their number
    return opened
