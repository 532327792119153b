"""The MCP server of a campaign: tools, resources and a prompt over `flows.mcp.campaign_access`.

    serve_stdio(access)                     # a client starts `bakeoff mcp RUN` and talks on its pipes
    serve_http(access, port, token, told)   # streamable HTTP on loopback, each request with the token

The docstring of a tool is what a client's model reads of it. Limits: `wait` answers after at most WAIT_S seconds, because clients
end a call that takes longer; the client waits again.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from typing import Any, ParamSpec

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ToolError

from flows.machine.folders import bakeoff_version
from flows.mcp.campaign_access import EXPECTED, CampaignAccess, Draft
from lineage.records import Edit
from lineage.safe_text import for_terminal, one_line

WAIT_S, LOOK_S = 50.0, 1.0
P = ParamSpec("P")

INSTRUCTIONS = """A research campaign on a training recipe. Each trial is one small edit, measured by a judge that nobody
but the campaign controls. Look at status, leaderboard and trials; read the surface of a role and the source; check_edit,
then submit an edit with one sentence of hypothesis; wait for its outcome; learn from it and propose the next one."""

CONTINUE = """Continue the research of this campaign{role}.

1. `status`, `leaderboard`, `trials` and `tried_now`: what leads, what failed and by how much, what is being tried.
2. `surface` of the role: what it may change. `source`: what you start from.
3. Write one edit with one idea that was not tried. `check_edit` it, repair what it finds, then `submit` it.
4. `wait` until its state is `done`; read its numbers; go back to 1.

Stop when `status` has `ended`, or when the budget is used up (`trials` of `trials_wanted`).

{now}
"""


def _answers(function: Callable[P, Any]) -> Callable[P, Any]:
    """A mistake of the client is an answer that it can act on, not a fault of the server."""

    @functools.wraps(function)
    def tool(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return function(*args, **kwargs)
        except EXPECTED as mistake:
            raise ToolError(for_terminal(str(mistake))[:3000]) from mistake

    return tool


def client_name(context: Context[Any, Any]) -> str:
    """Name and version that the client gave when it connected; one line, bounded."""
    known = context.session.client_params
    if known is None:
        return "unnamed client"
    info = known.client_info
    return one_line(f"{info.name} {info.version}", 100).strip() or "unnamed client"


def make_server(access: CampaignAccess) -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer(
        name="bakeoff",
        title=f"Bakeoff campaign {access.config.id}",
        instructions=INSTRUCTIONS,
        version=bakeoff_version(),
        log_level="WARNING",
    )
    _add_reading(server, access)
    _add_proposing(server, access)
    _add_steering(server, access)
    _add_resources(server, access)
    return server


def _add_reading(server: MCPServer[Any], access: CampaignAccess) -> None:
    @server.tool()
    @_answers
    def status() -> dict[str, Any]:
        """The campaign now: roles, trials done and wanted, what is under way, what is spent, who leads, whether it has ended."""
        return access.status()

    @server.tool()
    @_answers
    def leaderboard(limit: int = 20) -> str:
        """The best trials, best first, with their scores and hypotheses."""
        return access.leaderboard(limit)

    @server.tool()
    @_answers
    def trials(role: str = "", limit: int = 30) -> str:
        """The newest trials, one line each: outcome, score, numbers, hypothesis. Of one role, or of all."""
        return access.trials(role, limit)

    @server.tool()
    @_answers
    def failures(role: str = "", limit: int = 30) -> str:
        """The newest trials without a valid score, each with its cause and by how much it failed."""
        return access.trials(role, limit, failed=True)

    @server.tool()
    @_answers
    def tried_now() -> str:
        """What is being tried right now: trials under way, and proposals that wait for a trial."""
        return access.tried_now()

    @server.tool()
    @_answers
    def read_trial(trial: str) -> str:
        """Everything recorded of one trial, with its diff against its parent. trial: t0042, 42, leader, best, baseline, last."""
        return access.trial(trial)

    @server.tool()
    @_answers
    def diff(trial: str, other: str = "") -> str:
        """The source diff of a trial against its parent, or against another trial."""
        return access.diff(trial, other)

    @server.tool()
    @_answers
    def surface(role: str) -> str:
        """The environment with its rules and limits, what this role may change, and its brief."""
        return access.surface(role)

    @server.tool()
    @_answers
    def source(path: str = "", trial: str = "") -> str:
        """The text of a source file, as of a trial (default: the one that leads). Without a path: all files and definitions."""
        return access.source(path, trial)

    @server.tool()
    @_answers
    def knowledge(path: str = "", first: int = 1) -> str:
        """Notes and papers that came with the environment, and lessons of earlier campaigns. Without a path: what there is."""
        return access.knowledge(path, first)


def _add_proposing(server: MCPServer[Any], access: CampaignAccess) -> None:
    @server.tool()
    @_answers
    def check_edit(
        role: str, edits: list[Edit] | None = None, files: dict[str, str] | None = None, parent: str = ""
    ) -> str:
        """Check an edit without handing it in: surface, duplicates, parse, sizes.

        edits: blocks whose `search` occurs exactly once in `path` and is replaced. files: path -> whole new text.
        parent: the trial to start from; default the one that leads.
        """
        return access.check(Draft(role=role, edits=tuple(edits or ()), files=files or {}, parent=parent))

    @server.tool()
    @_answers
    def submit(
        role: str,
        hypothesis: str,
        ctx: Context[Any, Any],
        edits: list[Edit] | None = None,
        files: dict[str, str] | None = None,
        parent: str = "",
        expected_delta: float | None = None,
        notes: str = "",
        edit_kind: str = "",
    ) -> dict[str, str]:
        """Hand an edit in as a trial of a role. Gives the id to `wait` for; the same edit again gives the same id.

        It is refused, and costs no trial, if it fails the checks of check_edit. hypothesis: one sentence, what changes and why
        it should help. expected_delta: signed change of the score. edit_kind: number, technique, structure, removal, repair
        or combination. edits, files and parent as in check_edit.
        """
        draft = Draft(
            role=role,
            hypothesis=hypothesis,
            edits=tuple(edits or ()),
            files=files or {},
            parent=parent,
            expected_delta=expected_delta,
            notes=notes,
            edit_kind=edit_kind,
        )
        return {"proposal": access.submit(client_name(ctx), draft), "next": "wait"}

    @server.tool()
    async def wait(proposal: str, seconds: float = WAIT_S) -> dict[str, Any]:
        """Wait for the outcome of a proposal, at most 50 seconds. state: waiting, under way, done or not taken; wait again."""
        until = time.monotonic() + max(0.0, min(seconds, WAIT_S))
        while True:
            found: dict[str, Any] = await anyio.to_thread.run_sync(_answers(access.outcome), proposal)
            if found["state"] in ("done", "not taken") or time.monotonic() >= until:
                return found
            await anyio.sleep(LOOK_S)


def _add_steering(server: MCPServer[Any], access: CampaignAccess) -> None:
    @server.tool()
    @_answers
    def steer(note: str, ctx: Context[Any, Any]) -> str:
        """Leave a note that every specialist's next prompt carries; empty text ends it. Recorded as an intervention."""
        return access.steer(client_name(ctx), note)

    @server.tool()
    @_answers
    def veto(trial: str, why: str, ctx: Context[Any, Any]) -> str:
        """Exclude a trial from leading and from confirmation. Recorded as an intervention; it cannot be taken back."""
        return access.veto(client_name(ctx), trial, why)

    @server.tool()
    @_answers
    def pause(why: str, ctx: Context[Any, Any]) -> str:
        """Start no further trial until `unpause`; trials under way end as usual. Recorded as an intervention."""
        return access.pause(client_name(ctx), why, on=True)

    @server.tool()
    @_answers
    def unpause(ctx: Context[Any, Any], why: str = "") -> str:
        """Let new trials start again. Recorded as an intervention."""
        return access.pause(client_name(ctx), why, on=False)


def _add_resources(server: MCPServer[Any], access: CampaignAccess) -> None:
    def read(make: Callable[[], str]) -> str:
        try:
            return make()
        except EXPECTED as mistake:
            raise ResourceError(for_terminal(str(mistake))[:3000]) from mistake

    @server.resource("bakeoff://figures", mime_type="application/json")
    def figures() -> str:
        """The report's figures: counts by outcome, role and proposer, noise, best, spent."""
        return read(lambda: json.dumps(access.figures(), indent=2, sort_keys=True, default=str))

    @server.resource("bakeoff://leaderboard", mime_type="text/plain")
    def board() -> str:
        """The best trials, best first."""
        return read(access.leaderboard)

    @server.resource("bakeoff://trials/{trial}", mime_type="text/plain")
    def one(trial: str) -> str:
        """One trial with its diff."""
        return read(lambda: access.trial(trial))

    @server.prompt()
    def continue_research(role: str = "") -> str:
        """Continue the research of this campaign, as one role or as any."""
        now = access.surface(role) if role else ""
        return CONTINUE.format(role=f" as the role {role}" if role else "", now=now)


def serve_stdio(access: CampaignAccess) -> None:
    """Serve the client at the other end of this process's pipes, until it closes them."""
    anyio.run(make_server(access).run_stdio_async)
