"""A dollar cap with four workers: separate processes that propose at once against one scripted endpoint."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import quick
from llm_run import KEY
from prefect_lab import Lab

from tests.fakes.messages_server import FakeMessages
from tests.fakes.repairs import edit, submit
from tests.fakes.script import Json, Step, tool_use, tool_uses

# a reply of 4,000 tokens costs a tenth of a dollar; a fourth of the cap is enough for a whole proposal, so four run at once
CAP_USD, WORKERS, TOKENS = 5.0, 4, 4000


def answers() -> Iterator[float]:
    """A learning rate that no session had before."""
    return (0.1 + number / 1000 for number in itertools.count(1))


def script() -> tuple[list[int], Callable[[Json], Step]]:
    """What the endpoint charged, reply by reply, and its script: two looks, then an edit of its own."""
    charged: list[int] = []
    rates = answers()

    def answer(body: Json) -> Step:
        turn = sum(1 for message in body["messages"] if message["role"] == "assistant")
        tokens = TOKENS + 500 * (len(charged) % 5)
        charged.append(tokens)
        usage = {"output_tokens": tokens}
        if turn < 2:
            return tool_use("view", {"path": "fitting.py"}, usage=usage, delay=0.2)
        change = [edit("fitting.py", "LR = 0.1", f"LR = {next(rates):.3f}"), submit("Another rate")]
        return tool_uses(change, usage=usage)

    return charged, answer


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_four_workers_spend_at_most_the_cap_and_one_reply(tmp_path: Path) -> None:
    charged, answer = script()
    with FakeMessages(answer) as server:
        lab = Lab(tmp_path, extra={"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": KEY})
        try:
            lab.start_server()
            quick.bakeoff("prepare", "quick", env=lab.env, cwd=lab.folder)
            lab.set_up()
            lab.worker("campaigns")
            for number in range(WORKERS):
                lab.worker("trials", f"trials-{number}", limit=1)
            store = lab.folder / "store"
            lab.prefect(
                "deployment", "run", "campaign/campaign", "--watch",
                "--param", "environment=quick", "--param", f"store={store}", "--param", "trials=200",
                "--param", "proposer=anthropic", "--param", f"usd={CAP_USD}", "--param", "confirm=false",
                "--param", f"in_flight={WORKERS}", "--param", f"slots={WORKERS}", timeout=2300,
            )  # fmt: skip
            verified = quick.bakeoff("verify", str(store), env=lab.env, cwd=lab.folder, check=False)
            assert verified.returncode == 0, verified.stdout
        finally:
            lab.stop()
    trials = pd.read_parquet(store / "lineage").query("event == 'trial' and trial != 't0000'")
    assert trials["tokens_out"].sum() == sum(charged), "every reply is in the account"
    spent = trials["usd"].sum()
    dearest = (trials["usd"] / trials["tokens_out"]).max() * max(charged)
    print(
        f"{spent:.3f} of {CAP_USD} dollars, {len(charged)} replies, the dearest {dearest:.3f}, {len(trials)} trials"
    )
    assert spent <= CAP_USD + dearest, f"{spent:.3f} dollars, {len(charged)} replies, {len(trials)} trials"
    assert spent > 0.7 * CAP_USD, f"{spent:.3f} dollars: the cap leaves most of the money usable"
    begun = trials.sort_values("t_started")
    assert overlapping(begun) >= 3, "trials were proposed at the same time"


def overlapping(trials: pd.DataFrame) -> int:
    """The largest number of trials under way at one moment."""
    steps = [(start, 1) for start in trials["t_started"]] + [(end, -1) for end in trials["t_finished"]]
    return max(itertools.accumulate(step for _, step in sorted(steps)))
