"""What stands before every page: whose it is, who asks, and whether a change comes from the board.

A page of the board is reached through a browser, which other sites' pages use too. So the Host
header must be one of the board's names (DNS rebinding), a change must be a form that this browser
got from the board (CSRF), and a page runs and loads nothing but the board's own files. Whoever has
no account gets nothing where accounts are asked for, whatever the path: a route that is added later
is guarded without its doing anything (D-245).
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from limn.node.board.access import METHODS, SIGN_IN, Visitor, may, need_of
from limn.node.board.accounts.sessions import Sessions
from limn.node.board.addresses import network_of
from limn.node.board.streams import Streams
from limn.node.config import BoardSettings

COOKIE = "limn-board"
# Browsers take a cookie of this name from this host alone, over TLS alone (RFC 6265bis 4.1.3).
SECURE_COOKIE = "__Host-limn-board"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": a browser would then keep from us which page sends a form.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
# Of a form: a name, a reason, a password.
MOST_FORM_BYTES = 4096
FORM_S = 10.0
EVENTS = "text/event-stream"
# The page of a stream whose session is over loads itself again, and gets the sign-in.
ENDED = b"event: ended\ndata: signed out\n\n"
_SIGNED_OUT = "nothing was done: nobody is signed in here any more. Sign in and do it again"
_CHANGED_FORM = "this form is not of a page that this browser got; load it again"


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


@dataclass(frozen=True, slots=True)
class Browsers:
    """Knows a browser by its cookie, and which forms it got.

    Attributes
    ----------
    secure : the board speaks TLS
    """

    secure: bool
    tokens: Tokens = field(default_factory=Tokens)

    @property
    def cookie(self) -> str:
        """The cookie's name."""
        return SECURE_COOKIE if self.secure else COOKIE

    def key_of(self, request: Request) -> str:
        """The cookie's value; empty if there is none that the board may have given."""
        key = request.cookies.get(self.cookie, "")
        return key if re.fullmatch(r"[A-Za-z0-9_-]{43}", key) else ""

    def give(self, answer: Response, key: str) -> None:
        """Let the browser keep this key: no script reads it, no other site's page sends it."""
        answer.set_cookie(
            *(self.cookie, key),
            path="/",
            secure=self.secure,
            httponly=True,
            samesite="strict",
        )


class Guard:
    """Answers only who may ask, and sets the headers of every answer.

    Parameters
    ----------
    refused : the page that says why something is not done
    """

    def __init__(
        self,
        app: ASGIApp,
        board: BoardSettings,
        sessions: Sessions,
        browsers: Browsers,
        asks: Callable[[], bool],
        refused: Callable[[Request, int, str], Response],
    ) -> None:
        self._app = app
        self._hides_animals = board.hides_animals
        self._scheme = "http" if board.tls is None else "https"
        self._hosts = hosts_of(board)
        self._sessions = sessions
        self._browsers = browsers
        self._asks = asks
        self._refused = refused
        self._streams = Streams()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            msg = f"the board speaks HTTP alone, not {scope['type']}"
            raise RuntimeError(msg)
        request = Request(scope)
        state = scope.setdefault("state", {})
        visitor = self._visitor(request, use=True)
        state["visitor"] = visitor
        answer = self._refusal(request, visitor)
        if answer is None and request.method == "POST":
            try:
                async with asyncio.timeout(FORM_S):
                    body = await _body(receive)
            except TimeoutError:
                answer = PlainTextResponse("the form came too slowly\n", 408)
            except ClientDisconnect:
                return
            else:
                answer = self._wrong_form(request, body)
                receive = _again(body, receive)
        guarded = _with_headers(send)
        if answer is not None:
            await answer(scope, receive, guarded)
            return
        followed = _Followed(
            guarded,
            scope,
            self._streams,
            (self._browsers.key_of(request), self._address(request)),
            lambda: self._still(request, visitor),
        )
        try:
            await self._app(scope, receive, followed.send)
        finally:
            followed.end()

    def _refusal(self, request: Request, visitor: Visitor | None) -> Response | None:
        """Why a request gets no answer, before its form is read; None if it may go on."""
        if {"transfer-encoding", "content-length"} <= set(request.headers):
            # A proxy may take the other one for the end of the request (RFC 9112 6.3).
            return PlainTextResponse("two lengths\n", 400, {"Connection": "close"})
        if request.headers.get("host", "").lower() not in self._hosts:
            return PlainTextResponse("this board does not answer to that name\n", 421)
        if request.method not in METHODS:
            return PlainTextResponse("the board takes GET and POST\n", 405)
        need = need_of(request.method, str(request.scope["path"]))
        if not may(visitor, need, hides_animals=self._hides_animals):
            return self._not_allowed(request, visitor)
        return self._unread_form(request) if request.method == "POST" else None

    def _not_allowed(self, request: Request, visitor: Visitor | None) -> Response:
        if visitor is not None:
            words = f"{visitor.name} may look and no more; ask who keeps this node"
            return self._refused(request, 403, words)
        if request.method == "POST":
            return self._refused(request, 401, _SIGNED_OUT)
        if "text/html" not in request.headers.get("accept", ""):
            return PlainTextResponse("sign in first\n", 401)
        path = str(request.scope["path"])
        back = f"?{urlencode({'next': path})}" if path != "/" else ""
        return RedirectResponse(f"{SIGN_IN}{back}", 303)

    def _unread_form(self, request: Request) -> Response | None:
        """Why a form is not read: another site sends it, or it is too long."""
        origin = request.headers.get("origin")
        own = f"{self._scheme}://{request.headers['host'].lower()}"
        site = request.headers.get("sec-fetch-site", "same-origin")
        if origin not in (None, own) or site not in ("same-origin", "none"):
            return self._refused(request, 403, _CHANGED_FORM)
        length = request.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > MOST_FORM_BYTES:
            return self._refused(request, 413, "the form is too long")
        return None

    def _wrong_form(self, request: Request, body: bytes) -> Response | None:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            return self._refused(request, 415, "a form of the board expected")
        try:
            form = parse_qs(body.decode("ascii"), max_num_fields=20)
        except ValueError:
            return self._refused(request, 400, "a form of the board expected")
        token = form.get("token", [""])[0]
        if self._browsers.tokens.fits(self._browsers.key_of(request), token):
            return None
        return self._refused(request, 403, _CHANGED_FORM)

    def _visitor(self, request: Request, *, use: bool) -> Visitor | None:
        """Who asks; None if that person must sign in first."""
        address = self._address(request)
        session = self._sessions.find(self._browsers.key_of(request), use=use)
        if session is not None:
            return Visitor(session.account.name, session.account.role, address)
        return None if self._asks() else Visitor("", "act", address)

    def _still(self, request: Request, visitor: Visitor | None) -> bool:
        """Whether a stream may go on; an open page keeps only those signed in who only look."""
        looks = visitor is not None and visitor.role == "look"
        return self._visitor(request, use=looks) == visitor

    @staticmethod
    def _address(request: Request) -> str:
        return network_of(request.client.host if request.client else "")


class _Followed:
    """Counts an answer that is a stream, and ends it with its session."""

    def __init__(
        self,
        send: Send,
        scope: Scope,
        streams: Streams,
        who: tuple[str, str],
        still: Callable[[], bool],
    ) -> None:
        self._send = send
        self._scope = scope
        self._streams = streams
        self._who = who
        self._still = still
        self._counted = False
        self._over = False

    async def send(self, message: Message) -> None:
        """As ASGI has it."""
        if self._over:
            return
        if message["type"] == "http.response.start" and _is_stream(message):
            if not self._streams.enter(*self._who):
                self._over = True
                await _too_many(self._send)
                return
            self._counted = True
            # The door gives it more time than another answer.
            self._scope["state"]["stream"] = True
        elif self._counted and not self._still():
            self._over = True
            message = {"type": "http.response.body", "body": ENDED, "more_body": False}
        await self._send(message)

    def end(self) -> None:
        """The answer has ended."""
        if self._counted:
            self._streams.leave(*self._who)


def hosts_of(board: BoardSettings) -> frozenset[str]:
    """What the Host header of a browser may be."""
    own = f"[{board.host}]" if ":" in board.host else board.host
    found = set()
    for name in (*LOCAL_NAMES, own, *board.names):
        has_port = ":" in name.rpartition("]")[2]
        found.add(name.lower() if has_port else f"{name.lower()}:{board.port}")
    # A browser leaves out the usual port of its scheme.
    usual = ":80" if board.tls is None else ":443"
    return frozenset(found | {each.removesuffix(usual) for each in found if each.endswith(usual)})


def _with_headers(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            del headers["server"]
        await send(message)

    return guarded


async def _body(receive: Receive) -> bytes:
    """A form; its length was announced, and more than that never comes."""
    found = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        found += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(found)


def _again(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the form that was read here, then what comes after it."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return left.pop() if left else await receive()

    return replayed


def _is_stream(message: Message) -> bool:
    return MutableHeaders(scope=message).get("content-type", "").startswith(EVENTS)


async def _too_many(send: Send) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    body = b"too many pages are open\n"
    await send({"type": "http.response.body", "body": body, "more_body": False})
