"""What `limn board` does: add, change, remove and list accounts of the board."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

from limn.domain.errors import ConfigWrong
from limn.node.board.accounts.passwords import LEAST_CHARACTERS, hashed
from limn.node.config import Config, load_config
from limn.node.operate.decisions import given_text
from limn.node.store.disk.board_accounts import (
    Account,
    Role,
    account_name,
    accounts_to_change,
    read_accounts,
)
from limn.node.store.remedies import NAME


def add(config_path: Path, name: str, role: Role) -> str:
    """Make an account, or give one another password and role; returns what was done.

    Raises
    ------
    ConfigWrong
        If name or password can't be taken, or two names differ in their case alone.
    """
    config = load_config(config_path)
    # As a release keeps it, for whom the account acts.
    wanted = account_name(given_text("NAME", name, NAME))
    known = read_accounts(config.board_accounts_path)
    for each in known:
        if each != wanted and each.casefold() == wanted.casefold():
            msg = f"{wanted}: there is {each} already; use that name, or remove it first"
            raise ConfigWrong(msg)
    new = Account(wanted, role, hashed(_password(wanted)))
    with accounts_to_change(config.board_accounts_path) as accounts:
        before = accounts.get(wanted)
        accounts[wanted] = new
    what = "may look and act" if role == "act" else "may look"
    if before is None:
        return f"{wanted} {what}; {_where(config)}"
    return f"{wanted} has a new password and {what}; sessions of before have ended"


def remove(config_path: Path, name: str) -> str:
    """Remove an account, whose sessions end at once.

    Raises
    ------
    ConfigWrong
        If there is none of this name.
    """
    config = load_config(config_path)
    wanted = account_name(name)
    with accounts_to_change(config.board_accounts_path) as accounts:
        if accounts.pop(wanted, None) is None:
            msg = f"{wanted}: no such account; there are: {', '.join(accounts) or 'none'}"
            raise ConfigWrong(msg)
        left = len(accounts)
    done = f"{wanted} is removed, and signed out everywhere"
    if left:
        return done
    if config.board is not None and config.board.leaves_this_computer:
        return f"{done}; nobody can sign in now"
    return f"{done}; it was the last: everybody at this computer can use the board now"


def listed(config_path: Path) -> str:
    """Names and roles, one a line."""
    accounts = read_accounts(load_config(config_path).board_accounts_path)
    return "\n".join(f"{each.role:5} {each.name}" for each in accounts.values()) or "no accounts"


def _where(config: Config) -> str:
    if config.board is None:
        return "the config has no [board] yet"
    if config.board.leaves_this_computer:
        return "a running board knows it at once"
    return "from now on the board asks for an account, at this computer too"


def _password(name: str) -> str:
    """What a person types twice at a terminal, or the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    typed = getpass.getpass(f"password of {name}, {LEAST_CHARACTERS} characters or more: ")
    if getpass.getpass("once more: ") != typed:
        raise ConfigWrong("the two passwords differ; nothing was changed")
    return typed
