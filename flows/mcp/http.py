"""The MCP server over streamable HTTP: on loopback only, and each request must carry the token.

    serve_http(access, port, token, told)

The SDK refuses other hosts and origins than loopback's, so a web page in a browser here cannot reach it by DNS rebinding; the token
keeps out other users of the machine.
"""

from __future__ import annotations

import hmac
import socket
from collections.abc import Callable

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.mcp.campaign_access import CampaignAccess
from flows.mcp.server import make_server
from lineage.errors import UsageError

HOST = "127.0.0.1"


def with_token(app: ASGIApp, token: str) -> ASGIApp:
    """Answer 401 to each HTTP request without `Authorization: Bearer TOKEN`."""
    wanted = f"Bearer {token}".encode()

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, wanted):
                body = {
                    "error": "this server wants the header Authorization: Bearer TOKEN; `bakeoff mcp` printed the token"
                }
                await JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        await app(scope, receive, send)

    return guarded


def serve_http(access: CampaignAccess, port: int, token: str, told: Callable[[str], None]) -> None:
    """Serve until Ctrl-C. `port` 0: a free one; `told` gets the address. Raises UsageError for a port that is taken."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(128)  # before the address is told: who connects at once waits, and is not refused
    except (OSError, OverflowError) as error:
        listening.close()
        raise UsageError(
            f"port {port} of {HOST} cannot be used ({error}); give another with --port"
        ) from None
    with listening:
        told(f"http://{HOST}:{listening.getsockname()[1]}/mcp")
        app = with_token(make_server(access).streamable_http_app(host=HOST), token)
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listening])
