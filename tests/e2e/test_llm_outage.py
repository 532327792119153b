"""Campaigns of LLM specialists when the endpoint goes away, and when the money runs out."""

from __future__ import annotations

import time

import pytest
from llm_run import Done, prepared, run

from lineage.records import Status
from tests.fakes.repairs import edit, submit
from tests.fakes.script import Json, Step, disconnect, status, tool_use, tool_uses

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a campaign beside busy neighbours takes minutes

REPLY = {
    "input_tokens": 100,
    "output_tokens": 8000,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
}
REPLY_USD = (100 * 4.0 + 8000 * 20.0) / 1e6  # list price of the default model
CAP_USD = 0.9  # the sixth reply reaches it
AWAY_S = 4.5  # longer than the retries of one call


class Flaky:
    """Answers one reply, is away for `AWAY_S` (503, then dropped connections), then comes back."""

    def __init__(self) -> None:
        self.gone_at: float | None = None
        self.refused = 0
        self.sessions = 0

    def __call__(self, body: Json) -> Step:
        turn = sum(m["role"] == "assistant" for m in body["messages"])
        if turn and self.gone_at is None:
            self.gone_at = time.monotonic()
        away = 0.0 if self.gone_at is None else time.monotonic() - self.gone_at
        if self.gone_at is not None and away < AWAY_S:
            self.refused += 1
            return status(503) if away < AWAY_S / 2 else disconnect()
        self.sessions += turn == 0
        if turn == 0:
            return tool_use("view", {"path": "fitting.py"}, usage=REPLY)
        steps = f"STEPS = {300 + self.sessions}"
        return tool_uses(
            [("choose_parent", {"trial": "t0000"}), edit("fitting.py", "STEPS = 300", steps), submit(steps)],
            usage=REPLY,
        )


@pytest.fixture(scope="module")
def flaky_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Flaky]:
    folder = tmp_path_factory.mktemp("flaky")
    endpoint = Flaky()
    return run(
        folder, prepared(folder), endpoint, "--role", "training", "--trials", "20", "--usd", str(CAP_USD)
    ), endpoint


def test_an_outage_pauses_the_campaign_and_burns_no_trial(flaky_run: tuple[Done, Flaky]) -> None:
    done, endpoint = flaky_run
    assert endpoint.refused >= 4
    outages = [row for row in done.view.events("campaign") if row.operator == "outage"]
    assert len(outages) == 1 and outages[0].usd == pytest.approx(REPLY_USD), (
        "the reply before it was paid for"
    )
    assert "503" in done.blob(outages[0].exchange_sha256).decode()
    assert "waits for its proposer" in done.stderr + done.stdout
    rows = done.of("training")
    assert [row.trial for row in rows] == ["t0001", "t0002", "t0003"]
    assert all(row.status in (Status.KEEP, Status.DISCARD) for row in rows[:2])
    assert len([row for row in done.view.events("submitted") if row.trial == "t0001"]) == 1


def test_a_cap_in_dollars_ends_it_and_is_passed_by_one_reply_at_most(flaky_run: tuple[Done, Flaky]) -> None:
    done, _ = flaky_run
    spent = done.show()
    assert spent["spent"]["usd"] == pytest.approx(6 * REPLY_USD)
    assert spent["spent"]["usd"] - REPLY_USD < CAP_USD <= spent["spent"]["usd"]
    assert "dollars are spent" in spent["ended"]
    last = done.of("training")[-1]
    assert last.cause == "abandoned" and last.usd == pytest.approx(REPLY_USD)
