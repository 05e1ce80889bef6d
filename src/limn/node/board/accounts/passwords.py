"""Passwords by argon2id (RFC 9106), one at a time, so that no flood takes memory or cores."""

from __future__ import annotations

import asyncio
import functools
import secrets
import unicodedata
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from limn.domain.errors import ConfigWrong

LEAST_CHARACTERS = 10
MOST_CHARACTERS = 200
# Each takes a tenth of a second and 64 MiB; the next ones wait, and no more than these.
MOST_WAITING = 8


class TooManySignIns(Exception):
    """More people sign in at the same time than can wait."""


def hashed(password: str) -> str:
    """A new password as it is kept.

    Raises
    ------
    ConfigWrong
        If it is too short or too long.
    """
    if not LEAST_CHARACTERS <= len(password) <= MOST_CHARACTERS:
        msg = (
            f"the password has {len(password)} characters; {LEAST_CHARACTERS} to "
            f"{MOST_CHARACTERS} expected. Nothing was changed"
        )
        raise ConfigWrong(msg)
    return PasswordHasher().hash(_normal(password))


@functools.cache
def _nobodys_hash() -> str:
    """With which the password of an unknown name is compared: an answer takes the same time."""
    return PasswordHasher().hash(secrets.token_urlsafe())


class PasswordDesk:
    """Compares passwords in a thread of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "argon2")
        self._waiting = 0

    async def fits(self, kept: str | None, password: str) -> bool:
        """Whether this is the password of the account; never of None, after the same time.

        Raises
        ------
        TooManySignIns
            If too many wait already.
        """
        if self._waiting >= MOST_WAITING:
            raise TooManySignIns
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, _fits, kept, password)
        finally:
            self._waiting -= 1


def _normal(password: str) -> str:
    """The same letters are the same password on every keyboard."""
    return unicodedata.normalize("NFC", password)


def _fits(kept: str | None, password: str) -> bool:
    nobodys = _nobodys_hash()
    try:
        PasswordHasher().verify(kept or nobodys, _normal(password))
    except (Argon2Error, InvalidHashError):
        return False
    return kept is not None
