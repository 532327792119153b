"""The ledger: prices, caps that hold under threads, the same sums after a restart."""

from __future__ import annotations

import threading
import time
from importlib.metadata import version
from random import Random

import pytest

from agents.llm.ledger import Cap, Caps, Ledger, TrialCapReached, all_tokens
from agents.llm.prices import FREE, Rate, is_loopback, load_prices
from lineage.errors import BudgetSpent, NothingLeft, SpecInvalid, UnknownName
from lineage.records import Row, Usage

ONE = Usage(calls=1, tokens_in=100, tokens_out=50, tokens_cache_read=20, tokens_cache_write=10, usd=0.01)


def spend(ledger: Ledger, usage: Usage = ONE, role: str = "opt", session: str = "s") -> None:
    with ledger.admitted(role=role, session=session, worst=usage) as bill:
        bill(usage)


# ---- prices ------------------------------------------------------------------------------------


def test_the_list_prices_name_their_version_and_have_the_default_model() -> None:
    prices = load_prices()
    assert prices.version == f"genai-prices {version('genai-prices')}"
    rate, table = prices.rate("claude-opus-5-5")
    assert (rate.input, rate.output, table) == (4.0, 20.0, prices.version)
    assert prices.rate("claude-haiku-4-5-20251001")[0] == prices.rate("claude-haiku-4-5")[0]


def test_every_current_model_of_the_sdk_has_a_price() -> None:
    from typing import get_args

    from anthropic.types import Model

    listed = next(get_args(a) for a in get_args(Model) if get_args(a))
    prices = load_prices()
    missing = []
    for model in listed:
        try:
            prices.rate(model)
        except UnknownName:
            missing.append(model)
    assert set(missing) <= {
        "claude-mythos-5-1",
        "claude-mythos-5",
        "claude-mythos-preview",
        "claude-sonnet-4-5",
        "claude-sonnet-4-5-20250929",
    }, "by invitation or at the end of their life"


def test_cost_counts_every_kind_of_token_at_its_own_rate() -> None:
    rate = Rate(input=4, output=20, cache_read=0.2, cache_write=5, cache_write_1h=8)
    usage = Usage(
        tokens_in=1_000_000, tokens_out=100_000, tokens_cache_read=500_000, tokens_cache_write=200_000
    )
    assert rate.cost(usage) == pytest.approx(4 + 2 + 0.1 + 1.0)
    assert rate.cost(usage, cache_ttl="1h") == pytest.approx(4 + 2 + 0.1 + 1.6)


def test_a_large_input_costs_the_higher_rate() -> None:
    rate = load_prices().rate("claude-haiku-5-5")[0]
    assert rate.cost(Usage(tokens_in=100_000)) == pytest.approx(0.01)
    assert rate.cost(Usage(tokens_in=60_000, tokens_cache_read=40_001)) == pytest.approx(
        5 * (0.006 + 0.00040001)
    )


def test_unknown_models_are_an_error_with_what_to_do() -> None:
    with pytest.raises(UnknownName, match=r"claude-opus-5-5.*free_models"):
        load_prices().rate("claude-opus-5-6", "api.anthropic.com")


def test_own_prices_and_declared_free_models() -> None:
    prices = load_prices(
        {"mine": {"input": 1.0, "output": 2.0}, "claude-opus-5-5": {"output": 10.0}}, ["qwen*"]
    )
    assert prices.rate("mine")[0].output == 2.0
    assert prices.rate("claude-opus-5-5")[0] == Rate(
        input=4, output=10, cache_read=0.2, cache_write=5, cache_write_1h=8, search=10
    )
    assert prices.version.endswith("+own")
    assert prices.priced("qwen3", ONE).usd == 0 and "free" in prices.priced("qwen3", ONE).price_table


@pytest.mark.parametrize(
    "fields", [{"input": 1.0}, {"input": -1.0, "output": 1.0}, {"input": 1.0, "output": 1.0, "in": 2}]
)
def test_a_wrong_price_names_the_model_and_the_key(fields: dict[str, float]) -> None:
    with pytest.raises(SpecInvalid, match=r"prices\.mine"):
        load_prices({"mine": fields})


def test_models_of_other_providers_have_their_list_price_but_a_local_server_is_free() -> None:
    prices = load_prices()
    away, table = prices.rate("gpt-5", "api.openai.com")
    assert away.output > away.input > 0 and table == prices.version
    assert prices.rate("gpt-5", "127.0.0.1") == (FREE, f"{prices.version}:local")
    assert prices.rate("claude-opus-5-5", "127.0.0.1")[0].input == 4.0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "box.localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    assert not is_loopback(host + ".example.com")


# ---- caps --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caps", "fault"),
    [
        (Caps(campaign=Cap(tokens=300)), BudgetSpent),
        (Caps(campaign=Cap(usd=0.02)), BudgetSpent),
        (Caps(role=Cap(usd=0.02)), NothingLeft),
        (Caps(trial=Cap(tokens=300)), TrialCapReached),
    ],
)
def test_each_cap_lets_through_the_reply_that_reaches_it_and_no_other(
    caps: Caps, fault: type[Exception]
) -> None:
    ledger = Ledger(caps)
    spend(ledger)
    spend(ledger)
    with pytest.raises(fault, match=r"used .* of"):
        spend(ledger)
    assert ledger.spent().calls == 2


def test_a_role_that_spent_its_cap_leaves_the_others_running() -> None:
    ledger = Ledger(Caps(role=Cap(tokens=100)))
    spend(ledger, role="opt")
    with pytest.raises(NothingLeft):
        spend(ledger, role="opt")
    spend(ledger, role="arch")
    assert ledger.spent("arch") == ONE.model_copy(update={"price_table": ""})


def test_a_failed_call_gives_its_reservation_back() -> None:
    ledger = Ledger(Caps(campaign=Cap(usd=0.05)))
    with pytest.raises(RuntimeError), ledger.admitted(role="opt", session="s", worst=ONE):
        raise RuntimeError("no reply")
    assert ledger.spent() == Usage()
    spend(ledger)


def test_a_call_waits_while_others_could_reach_the_cap_and_gives_up_at_its_deadline() -> None:
    ledger = Ledger(Caps(campaign=Cap(tokens=200)))
    with (
        ledger.admitted(role="a", session="1", worst=Usage(tokens_out=200)),
        pytest.raises(TrialCapReached, match="deadline"),
        ledger.admitted(role="b", session="2", worst=ONE, deadline=time.monotonic() + 0.05),
    ):
        pytest.fail("admitted although the open call may use everything")


@pytest.mark.parametrize("seed", range(4))
def test_threads_pass_a_cap_by_at_most_one_reply(seed: int) -> None:
    cap, largest = 20_000, 900
    ledger = Ledger(Caps(campaign=Cap(tokens=cap)))
    worst = Usage(calls=1, tokens_out=largest)

    def lane(number: int) -> None:
        rng = Random(f"{seed}.{number}")
        while True:
            try:
                with ledger.admitted(role=f"r{number}", session=f"s{number}", worst=worst) as bill:
                    time.sleep(rng.random() / 5_000)
                    if rng.random() < 0.8:
                        bill(Usage(calls=1, tokens_out=rng.randint(1, largest)))
            except BudgetSpent:
                return

    lanes = [threading.Thread(target=lane, args=(n,)) for n in range(8)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join(20)
    assert cap <= all_tokens(ledger.spent()) < cap + largest
    assert ledger.status()["in_flight"] == 0


def test_the_account_is_rebuilt_from_lineage() -> None:
    def row(event: str, trial: str | None, role: str | None, usage: Usage) -> Row:
        fields = usage.model_dump(
            include={"tokens_in", "tokens_out", "tokens_cache_read", "tokens_cache_write", "usd"}
        )
        return Row.model_validate({"event": event, "campaign": "c", "trial": trial, "role": role, **fields})

    rows = [
        row("trial", "t0001", "opt", ONE),
        row("trial", "t0002", "arch", ONE),
        row("campaign", None, None, ONE),
        row("confirmation", "t0001", "opt", ONE),
    ]
    ledger = Ledger(Caps(role=Cap(tokens=100))).rebuilt(rows)
    assert all_tokens(ledger.spent()) == 3 * all_tokens(ONE)
    assert ledger.spent().usd == pytest.approx(0.03)
    assert all_tokens(ledger.spent("opt")) == all_tokens(ONE)
    with pytest.raises(NothingLeft):
        spend(ledger)
