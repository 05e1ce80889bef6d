"""``limn board``: the accounts of the web pages."""

from __future__ import annotations

import argparse
from pathlib import Path

from limn.cli.exits import Commands


def add_commands(commands: Commands) -> None:
    """``limn board add``, ``remove`` and ``list``."""
    board = commands.add_parser("board", help="who may use the board, the node's web pages")
    verbs: Commands = board.add_subparsers(metavar="COMMAND", required=True)
    add = _with_config(verbs, "add", "make an account, or change its password and role")
    add.add_argument("name", metavar="NAME", help="by which the person signs in")
    add.add_argument(
        "--role",
        choices=["look", "act"],
        required=True,
        help="look: see pages; act: also release, discard, dismiss, send again, run again, try a "
        "destination and note that one has looked at a scan",
    )
    add.set_defaults(run=_add)
    remove = _with_config(verbs, "remove", "remove an account; its sessions end at once")
    remove.add_argument("name", metavar="NAME")
    remove.set_defaults(run=_remove)
    _with_config(verbs, "list", "names and roles").set_defaults(run=_list)


def _add(parsed: argparse.Namespace) -> None:
    from limn.node.board.accounts.orders import add

    print(add(parsed.config, parsed.name, parsed.role))


def _remove(parsed: argparse.Namespace) -> None:
    from limn.node.board.accounts.orders import remove

    print(remove(parsed.config, parsed.name))


def _list(parsed: argparse.Namespace) -> None:
    from limn.node.board.accounts.orders import listed

    print(listed(parsed.config))


def _with_config(verbs: Commands, name: str, purpose: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=purpose)
    verb.add_argument("--config", type=Path, required=True)
    return verb
