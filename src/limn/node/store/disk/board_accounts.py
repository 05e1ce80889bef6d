"""The accounts of the board: a small file of names, roles and hashes of passwords (D-245)."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from filelock import FileLock, Timeout

from limn.domain.errors import ConfigWrong
from limn.domain.files import OWNER_ONLY_FILE, write_durably
from limn.domain.one_line import one_line
from limn.node.permissions import check_private, make_private_folder

# "look" sees pages, "act" also releases, discards, sends and runs again.
Role = Literal["look", "act"]
ROLES: tuple[Role, ...] = get_args(Role)
LONGEST_NAME = 64
# Beside letters and digits.
_IN_NAMES = " ._-'@"
LOCK_S = 5.0


@dataclass(frozen=True, slots=True)
class Account:
    """One person, or one screen on a wall.

    Attributes
    ----------
    hashed : the password by argon2id, with its salt and costs (RFC 9106)
    """

    name: str
    role: Role
    hashed: str


def read_accounts(path: Path) -> dict[str, Account]:
    """Every account by its name; none if there is no file.

    Raises
    ------
    ConfigWrong
        If the file is damaged, or others than its owner can read it.
    """
    if not path.exists():
        return {}
    check_private(path, "accounts of the board")
    try:
        found = json.loads(path.read_bytes())
        accounts = [
            Account(str(name), _role(each["role"]), str(each["hash"]))
            for name, each in found["accounts"].items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = (
            f"accounts of the board {path}: damaged ({type(error).__name__}), so nobody can sign "
            "in; delete it and make the accounts again: limn board add NAME --role act"
        )
        raise ConfigWrong(msg) from error
    return {each.name: each for each in accounts}


@contextmanager
def accounts_to_change(path: Path) -> Iterator[dict[str, Account]]:
    """The accounts, which are written when the block ends without an error.

    Raises
    ------
    ConfigWrong
        As `read_accounts`; and if another command changes them.
    """
    make_private_folder(path.parent)
    try:
        with FileLock(path.with_suffix(".lock"), timeout=LOCK_S):
            accounts = read_accounts(path)
            yield accounts
            _write(path, accounts)
    except Timeout as error:
        msg = f"another command changes {path}; run this again when it is done"
        raise ConfigWrong(msg) from error


def _write(path: Path, accounts: Mapping[str, Account]) -> None:
    values = {each.name: {"role": each.role, "hash": each.hashed} for each in accounts.values()}
    text = json.dumps({"accounts": values}, indent=1, ensure_ascii=False)
    write_durably(path, text.encode() + b"\n", OWNER_ONLY_FILE)


def account_name(text: str) -> str:
    """A name as it is kept and compared.

    Raises
    ------
    ConfigWrong
        If it has no letter or digit, is too long, or has characters that no name needs.
    """
    name = unicodedata.normalize("NFC", " ".join(text.split()))
    wrong = "".join(dict.fromkeys(c for c in name if not c.isalnum() and c not in _IN_NAMES))
    if not any(c.isalnum() for c in name):
        why = "it has no letter or digit"
    elif len(name) > LONGEST_NAME:
        why = f"it has {len(name)} characters, {LONGEST_NAME} at most"
    elif wrong or one_line(text) != text:
        why = f"letters, digits, blanks and {_IN_NAMES.strip()} expected"
    else:
        return name
    msg = f"account name {one_line(text)[: 2 * LONGEST_NAME]!r}: {why}"
    raise ConfigWrong(msg)


def _role(text: object) -> Role:
    for role in ROLES:
        if role == text:
            return role
    raise ValueError(text)
