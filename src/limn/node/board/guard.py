"""What keeps the board's pages for the people at this computer.

The board listens on the loopback address and asks nobody for a password. So another site's page
must not reach it through a browser here: the Host header must name this computer (DNS rebinding), a
change must come from the board's own page (CSRF), and a page runs and loads nothing but the board's
own files.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "limn-board"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Ties a form to the browser that got it; a new secret at each start."""

    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def of(self, session: str) -> str:
        """The token in a form for a browser with this cookie."""
        return hmac.new(self._secret, session.encode(), "sha256").hexdigest()

    def fits(self, session: str, token: str) -> bool:
        """Whether a form came from a page that the browser with this cookie got."""
        return bool(session) and hmac.compare_digest(
            self.of(session).encode(), token.encode(errors="replace")
        )


def session_of(request: Request) -> tuple[str, bool]:
    """The browser's cookie, and whether it is new."""
    known = request.cookies.get(COOKIE, "")
    return (known, False) if len(known) == 43 else (secrets.token_urlsafe(32), True)


class Guard:
    """Answers only requests that name this computer, and sets the headers of every answer."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._hosts = {f"{name}:{port}" for name in NAMES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                del headers["server"]
            await send(message)

        host = Request(scope).headers.get("host", "").lower()
        if host in self._hosts:
            await self._app(scope, receive, guarded)
            return
        answer = PlainTextResponse("this board answers to localhost only\n", status_code=421)
        await answer(scope, receive, guarded)
