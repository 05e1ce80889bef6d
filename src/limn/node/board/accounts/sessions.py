"""Who is signed in: in memory alone, so that a restart of the board signs everybody out."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from limn.node.board.accounts.register import Register
from limn.node.store.disk.board_accounts import Account, Role

MOST_SESSIONS, MOST_OF_ACCOUNT = 1000, 20


@dataclass(frozen=True, slots=True)
class Ends:
    """When a session ends by itself.

    Attributes
    ----------
    idle_s : after the last page
    whole_s : after the sign-in
    """

    idle_s: float
    whole_s: float


# A screen on a wall only looks, and an open page keeps it there for a week. A person who acts has
# asked for a page within the hour, and signs in every day.
ENDS: dict[Role, Ends] = {
    "look": Ends(idle_s=12 * 3600.0, whole_s=7 * 86400.0),
    "act": Ends(idle_s=3600.0, whole_s=12 * 3600.0),
}


@dataclass(slots=True)
class Session:
    """One browser in which somebody has signed in."""

    key: str
    account: Account
    began_s: float
    used_s: float


class Sessions:
    """Knows the sessions by their keys, which the browsers have as cookies."""

    def __init__(self, register: Register, clock: Callable[[], float] = time.monotonic) -> None:
        self._register = register
        self._clock = clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def begin(self, account: Account) -> Session:
        """A session under a new key, whatever the browser had before (session fixation)."""
        now_s = self._clock()
        session = Session(secrets.token_urlsafe(32), account, now_s, now_s)
        own = [each.key for each in self._sessions.values() if each.account.name == account.name]
        for key in own[: max(0, len(own) + 1 - MOST_OF_ACCOUNT)]:
            self.end(key)
        if len(self._sessions) >= MOST_SESSIONS:
            self._sessions.popitem(last=False)
        self._sessions[session.key] = session
        return session

    def find(self, key: str, *, use: bool) -> Session | None:
        """The session of a cookie; None if it has ended, or its account is not as it was.

        Parameters
        ----------
        use : the person asks for something, which puts the idle end off
        """
        session = self._sessions.get(key)
        if session is None:
            return None
        now_s, ends = self._clock(), ENDS[session.account.role]
        over = now_s - session.began_s > ends.whole_s or now_s - session.used_s > ends.idle_s
        if over or self._register.accounts().get(session.account.name) != session.account:
            self.end(key)
            return None
        if use:
            session.used_s = now_s
        return session

    def end(self, key: str) -> None:
        """Forget a session."""
        self._sessions.pop(key, None)
