"""The accounts as the board knows them: the file is read again when it changes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from limn.domain.errors import ConfigWrong
from limn.node.store.disk.board_accounts import Account, read_accounts

log = logging.getLogger(__name__)


class Register:
    """Follows the file of accounts.

    Parameters
    ----------
    must_ask : other computers can reach the board, so that nobody gets a page without an account
    """

    def __init__(self, path: Path, *, must_ask: bool) -> None:
        self._path = path
        self._must_ask = must_ask
        self._stamp: tuple[int, ...] = ()
        self._accounts: Mapping[str, Account] = {}
        self._damaged = False

    def accounts(self) -> Mapping[str, Account]:
        """Every account by its name; none if the file can't be read, which the log says once."""
        stamp = self._stamp_now()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._accounts, self._damaged = read_accounts(self._path), False
            except ConfigWrong as error:
                self._accounts, self._damaged = {}, True
                log.error("%s", error)
        return self._accounts

    @property
    def asks(self) -> bool:
        """Whether a person must sign in: off this computer always, on it once there are accounts.

        A file that can't be read is no reason to let everybody in.
        """
        return bool(self.accounts()) or self._damaged or self._must_ask

    def _stamp_now(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return ()
        except OSError as error:
            return (error.errno or 0,)
        return (found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode)
