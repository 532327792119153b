"""Commands about the model behind the specialists: propose (the prompt, dry) and ask (one tiny call)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from flows.commands.chosen_run import run_root
from flows.commands.options import AS_JSON, CAMPAIGN, print_json

_ADDRESS = {"anthropic": "ANTHROPIC_BASE_URL", "openai": "OPENAI_BASE_URL"}


def register(app: typer.Typer) -> None:
    app.command(
        epilog="Examples: bakeoff propose airbench_mini --role opt --dry-run · "
        "bakeoff propose airbench_mini --role opt --run runs/first --dry-run"
    )(propose)
    app.command(epilog="Examples: bakeoff ask · bakeoff ask --model claude-haiku-5-5 --json")(ask)


def propose(
    environment: str = typer.Argument(
        ..., help="name of an environment, or a folder with an environment.toml"
    ),
    role: str = typer.Option(
        "", "--role", help="the specialist whose prompt it is; needed where there are several"
    ),
    run: str | None = typer.Option(None, "--run", help="render from this run's lineage; default: from none"),
    campaign: str | None = CAMPAIGN,
    arm: str | None = typer.Option(
        None, "--arm", help="specialists | generic | single | no_lineage; default the run's, or specialists"
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="print the prompt and its size; makes no call"),
) -> None:
    """Print the prompt that a specialist would get now, and how large each section of it is."""
    from agents.llm.prompt import render_dry_run
    from flows.campaign.prompt_preview import preview_request
    from lineage.errors import UsageError

    if not dry_run:
        raise UsageError(
            "propose: give --dry-run to print the prompt; proposals are made inside a campaign: "
            f"bakeoff run {environment} --proposer anthropic"
        )
    root = run_root(run) if run is not None else None
    print(render_dry_run(preview_request(environment, role, arm, root, campaign)), end="")


def ask(
    model: str | None = typer.Option(None, "--model", help="default: the one that campaigns use"),
    proposer: str = typer.Option("anthropic", "--proposer", help="anthropic | openai"),
    config: Path | None = typer.Option(
        None, "--config", help="campaign.toml, for its model, prices and free_models"
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Make one tiny call, to check endpoint, key, model and price."""
    from lineage.errors import ProposerOutage

    try:
        facts = _ask(proposer, model, config)
    except ProposerOutage as away:
        raise ProposerOutage(
            f"no answer from the model endpoint: {away}; check the network and {_ADDRESS[proposer]}, then ask again"
        ) from away
    if as_json:
        return print_json(facts)
    print(f"endpoint: {facts['host']} ({facts['proposer']}; key: {facts['key']})")
    print(f"model: {facts['model']}, answered by {facts['answered_by'] or 'a server that does not say'}")
    print(f"reply: {facts['reply'] or '(empty)'}")
    counted = " (estimated: the server does not count)" if facts["usage_estimated"] else ""
    print(f"tokens: {facts['tokens_in']} in, {facts['tokens_out']} out{counted}")
    print(
        f"dollars: {facts['usd']:.6f} at {facts['price_input']:g} in and {facts['price_output']:g} out a million "
        f"(price table {facts['price_table']})"
    )
    print(f"seconds: {facts['seconds']:.2f}")
    return None


def _ask(proposer: str, model: str | None, config: Path | None) -> dict[str, Any]:
    """Make the call and return its facts. Raises the UsageError family before the call, ProposerOutage after it."""
    from agents.llm.anthropic_proposer import ask_once
    from agents.llm.endpoint_check import require_key
    from agents.llm.prices import load_prices
    from agents.llm.proposing_session import DEFAULT_MODEL
    from flows.engine.settings import load_settings
    from lineage.errors import UnknownName, UsageError

    if proposer not in _ADDRESS:
        raise UnknownName("endpoint kind", proposer, _ADDRESS, "give it with --proposer")
    # settings need the name of an environment; one call does not use it
    settings, _ = load_settings({"environment": "none", "proposer": proposer, "model": model}, config)
    if proposer == "openai" and not settings.model:
        raise UsageError("ask: the openai endpoint needs a model name that it knows; give --model NAME")
    chat = _chat(proposer)
    try:
        require_key(chat)
        prices = load_prices(settings.prices, settings.free_models)
        return ask_once(settings.model or DEFAULT_MODEL, prices, chat)
    finally:
        chat.close()


def _chat(proposer: str) -> Any:
    if proposer == "openai":
        from agents.llm.openai_client import OpenAIChat

        return OpenAIChat()
    from agents.llm.anthropic_client import AnthropicChat

    return AnthropicChat()
