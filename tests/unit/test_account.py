"""What may be spent and until when: allowances on one account, and clock times across clock changes."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect.server.schemas.schedules import CronSchedule

from agents.llm.ledger import Ledger, TrialCapReached
from flows.engine.budget import Spent, allowance, end_of_window
from flows.engine.settings import Settings
from lineage.errors import BudgetSpent
from lineage.records import Allowance, Usage

BERLIN = ZoneInfo("Europe/Berlin")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("started", "until", "hours", "zone"),
    [
        (datetime(2026, 10, 24, 22, tzinfo=BERLIN), "07:00", 10.0, "CET"),  # clocks go back that night
        (datetime(2027, 3, 27, 22, tzinfo=BERLIN), "07:00", 8.0, "CEST"),  # and forward
        (datetime(2026, 7, 1, 22, tzinfo=BERLIN), "07:00", 9.0, "CEST"),
        (datetime(2026, 10, 25, 2, 40, tzinfo=BERLIN), "02:30", 5 / 6, "CET"),  # the second 02:30
        (datetime(2027, 3, 27, 22, tzinfo=BERLIN), "02:30", 4.5, "CEST"),  # left out: 03:30
    ],
)
def test_until_is_right_when_the_clocks_change(
    started: datetime, until: str, hours: float, zone: str
) -> None:
    for given in (started, started.astimezone(UTC)):
        end = end_of_window(until, given, "Europe/Berlin")
        assert end is not None and f"{end:%Z}" == zone
        assert (end.astimezone(UTC) - given.astimezone(UTC)).total_seconds() == pytest.approx(hours * 3600)


@pytest.mark.parametrize("start", [datetime(2026, 10, 23, tzinfo=UTC), datetime(2027, 3, 26, tzinfo=UTC)])
def test_every_night_of_the_schedule_begins_at_ten_when_the_clocks_change(start: datetime) -> None:
    """The schedules of prefect.yaml through Prefect's own arithmetic: four nights, the clock change among them."""
    config = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
    asked = [schedule for entry in config["deployments"] for schedule in entry.get("schedules", ())]
    assert asked
    for schedule in asked:
        cron = CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
        nights = [at.astimezone(BERLIN) for at in asyncio.run(cron.get_dates(4, start))]
        assert [f"{night:%H:%M}" for night in nights] == ["22:00"] * 4
        assert [(b.date() - a.date()).days for a, b in pairwise(nights)] == [1, 1, 1]
        assert len({night.utcoffset() for night in nights}) == 2


@pytest.mark.parametrize("seed", range(30))
def test_four_ledgers_of_four_processes_pass_the_cap_by_at_most_one_reply(seed: int) -> None:
    """Each trial has a ledger of its own, as in a worker; only its allowance joins it to the others."""
    choose, cap, worst = random.Random(seed), 2.0, Usage(usd=0.2)
    settings = Settings(environment="x", usd=cap, slots=4, in_flight=4, proposer="anthropic")
    used, dearest, lanes, replies = 0.0, 0.0, {}, []
    for _ in range(2000):
        if len(lanes) < 4 and used < cap:
            held = {name: Usage(usd=limit.usd or 0.0) for name, (_, limit, _) in lanes.items()}
            spent = Spent(usd=used, dearest_usd=dearest)
            granted = allowance(settings, spent, 0.0, held, len(held), worst, 4)
            if granted is not None:
                lanes[str(len(replies)) + str(choose.random())] = (Ledger(), granted, [])
        if not lanes:
            break
        name = choose.choice(sorted(lanes))
        ledger, limit, costs = lanes[name]
        try:
            with ledger.admitted(role="r", session=name, worst=worst, allowance=limit) as bill:
                cost = choose.uniform(0.01, 0.2)
                bill(Usage(usd=cost))
            costs.append(cost)
            replies.append(cost)
            ended = choose.random() < 0.3
        except (TrialCapReached, BudgetSpent):
            ended = True
        if ended:
            used += sum(costs)
            dearest = max(dearest, sum(costs))
            del lanes[name]
    assert sum(replies) <= cap + max(replies)
    assert sum(replies) > 0.8 * cap, "the caps leave most of the money usable"


def test_a_first_call_that_may_cost_more_than_is_allowed_ends_the_role_and_no_trial() -> None:
    little, worst = Allowance(usd=0.1), Usage(usd=0.2)
    with (
        pytest.raises(BudgetSpent, match=r"0 of the 0\.1 dollars"),
        Ledger().admitted(role="r", session="s", worst=worst, allowance=little),
    ):
        raise AssertionError("it was not admitted")
