"""The page on which a person signs in, and the way out."""

from __future__ import annotations

import logging
import math
import re
import secrets
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from limn.domain.errors import ConfigWrong
from limn.domain.one_line import one_line
from limn.node.board.access import SIGN_IN, SIGN_OUT, Visitor
from limn.node.board.accounts.passwords import PasswordDesk, TooManySignIns
from limn.node.board.accounts.register import Register
from limn.node.board.accounts.sessions import Sessions
from limn.node.board.accounts.tries import Tries
from limn.node.board.addresses import network_of
from limn.node.board.guard import Browsers
from limn.node.store.disk.board_accounts import LONGEST_NAME, account_name

log = logging.getLogger(__name__)

# A page of this board, to which a person goes on; nothing that a browser takes for another site.
_PAGE = re.compile(r"/(?![/\\])[A-Za-z0-9/_.-]{0,200}")
WRONG = "name or password is wrong"


class SignIn:
    """Signs people in and out.

    Parameters
    ----------
    page : a page by its template, status and values
    """

    def __init__(
        self,
        register: Register,
        sessions: Sessions,
        browsers: Browsers,
        page: Callable[..., Response],
    ) -> None:
        self._register = register
        self._sessions = sessions
        self._browsers = browsers
        self._page = page
        self._tries = Tries()
        self._desk = PasswordDesk()
        self.routes = [
            Route(SIGN_IN, self.form, methods=["GET"]),
            Route(SIGN_IN, self.sign_in, methods=["POST"]),
            Route(SIGN_OUT, self.sign_out, methods=["POST"]),
        ]

    async def form(self, request: Request) -> Response:
        """The empty form; the way to the board where nobody must sign in, or somebody has."""
        visitor: Visitor | None = request.state.visitor
        if visitor is not None:
            return RedirectResponse(_next(request.query_params.get("next", "")), 303)
        return self._shown(request, 200, "", request.query_params.get("next", ""))

    async def sign_in(self, request: Request) -> Response:
        """A session under a new key, or why there is none."""
        form = await request.form()
        typed, password = str(form.get("name", "")), str(form.get("password", ""))
        target, address = str(form.get("next", "")), _address(request)
        name = _known_form(typed)
        if (wait_s := self._tries.wait_s(name, address)) > 0.0:
            words = f"too many wrong passwords: try again in {_in_words(wait_s)}"
            return self._shown(request, 429, words, target)
        self._tries.begin(name, address)
        account = self._register.accounts().get(name)
        try:
            good = await self._desk.fits(account.hashed if account else None, password)
        except TooManySignIns:
            return self._shown(request, 503, "many people sign in just now: try again", target)
        # It may have been removed or changed while the password was compared.
        if not good or account is None or self._register.accounts().get(name) != account:
            log.warning("board: %r did not sign in from %s: %s", one_line(name), address, WRONG)
            return self._shown(request, 403, WRONG, target)
        self._tries.succeeded(name, address)
        self._sessions.end(self._browsers.key_of(request))
        session = self._sessions.begin(account)
        log.info("board: %s signed in (%s) from %s", one_line(name), account.role, address)
        answer = RedirectResponse(_next(target), 303)
        self._browsers.give(answer, session.key)
        return answer

    async def sign_out(self, request: Request) -> Response:
        """End the session; the browser gets a key that is nobody's."""
        visitor: Visitor | None = request.state.visitor
        self._sessions.end(self._browsers.key_of(request))
        if visitor is not None and visitor.name:
            log.info("board: %s signed out from %s", one_line(visitor.name), visitor.address)
        answer = RedirectResponse(SIGN_IN, 303)
        self._browsers.give(answer, secrets.token_urlsafe(32))
        return answer

    def _shown(self, request: Request, status: int, words: str, target: str) -> Response:
        nobody = not self._register.accounts()
        return self._page(
            request, "sign_in.html", status, words=words, next=_next(target), nobody=nobody
        )


def _address(request: Request) -> str:
    return network_of(request.client.host if request.client else "")


def _known_form(typed: str) -> str:
    """A typed name as accounts have it; as typed and cut, if no account can have it."""
    try:
        return account_name(typed)
    except ConfigWrong:
        return typed[:LONGEST_NAME]


def _next(path: str) -> str:
    return path if _PAGE.fullmatch(path) and path not in (SIGN_IN, SIGN_OUT) else "/"


def _in_words(seconds: float) -> str:
    whole = math.ceil(seconds)
    return f"{whole} s" if whole <= 90 else f"{math.ceil(whole / 60)} min"
