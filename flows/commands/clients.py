"""The command that lets other programs' agents take part in a campaign: mcp."""

from __future__ import annotations

import os
import secrets
import sys

import typer

from flows.commands.chosen_run import run_root
from flows.commands.options import CAMPAIGN, RUN

TOKEN = "BAKEOFF_MCP_TOKEN"


def register(app: typer.Typer) -> None:
    app.command(epilog="Examples: bakeoff mcp runs/first · bakeoff mcp runs/first --http --port 8931")(mcp)


def mcp(
    run: str | None = RUN,
    campaign: str | None = CAMPAIGN,
    http: bool = typer.Option(
        False,
        "--http",
        help="streamable HTTP on 127.0.0.1 with a token, instead of standard input and output",
    ),
    port: int = typer.Option(0, "--port", help="port of --http; default a free one", min=0, max=65535),
) -> None:
    """Serve a campaign to MCP clients: they read it, hand in trials, wait for outcomes, steer.

    The token of --http is the variable BAKEOFF_MCP_TOKEN, or a new one that is printed.
    """
    from flows.mcp.campaign_access import open_access
    from flows.mcp.http import serve_http
    from flows.mcp.server import serve_stdio

    access = open_access(run_root(run), campaign)
    if not http:
        return serve_stdio(access)
    given = os.environ.get(TOKEN, "")
    token = given or secrets.token_urlsafe(24)

    def told(address: str) -> None:
        print(f"MCP: {address}", file=sys.stderr)
        print(
            f"token: {TOKEN} of the environment" if given else f"token: {token}", file=sys.stderr, flush=True
        )

    return serve_http(access, port, token, told)
