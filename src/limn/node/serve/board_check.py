"""What the board needs before other computers may reach it: certificate, key and accounts."""

from __future__ import annotations

import ssl

from limn.domain.errors import ConfigWrong
from limn.node.config import BoardSettings, BoardTls, Config
from limn.node.permissions import check_private
from limn.node.store.disk.board_accounts import read_accounts

_ADD = "limn board add NAME --role act --config FILE"


def check_board_files(config: Config) -> None:
    """Refuse a board without the files that its config needs; called before the node starts.

    A file of accounts from which the last was removed starts: the node must contour all the same.

    Raises
    ------
    ConfigWrong
        Names the file or the key, and what to do.
    """
    board = config.board
    if board is None:
        return
    if board.tls is not None:
        board_context(board.tls)
    if board.leaves_this_computer and not config.board_accounts_path.exists():
        raise _without_accounts(board)


def check_board(config: Config) -> str:
    """The same, and that somebody can sign in; says at which address.

    Raises
    ------
    ConfigWrong
        Names the file or the key, and what to do.
    """
    check_board_files(config)
    board = config.board
    if board is None:
        return "none: there is no [board]"
    accounts = read_accounts(config.board_accounts_path)
    if board.leaves_this_computer and not accounts:
        raise _without_accounts(board)
    return (
        f"{address_of(board)} for {'others' if board.leaves_this_computer else 'this computer'}, "
        f"accounts: {', '.join(accounts) or 'none'}; animals' names are "
        f"{'hidden' if board.hides_animals else 'shown'}"
    )


def address_of(board: BoardSettings) -> str:
    """What people type into a browser."""
    own = f"[{board.host}]" if ":" in board.host else board.host
    name = (*board.names, own if board.leaves_this_computer else "localhost")[0]
    has_port = ":" in name.rpartition("]")[2]
    scheme = "http" if board.tls is None else "https"
    return f"{scheme}://{name}" if has_port else f"{scheme}://{name}:{board.port}"


def board_context(tls: BoardTls) -> ssl.SSLContext:
    """For browsers: TLS 1.2 or newer, with the board's certificate.

    Raises
    ------
    ConfigWrong
        Names the file that can't be used.
    """
    check_private(tls.key, "TLS key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # An empty password: without one OpenSSL would wait for it at the terminal.
        context.load_cert_chain(tls.certificate, tls.key, password=b"")
    except (OSError, ValueError) as error:
        msg = f"board.tls: certificate {tls.certificate} with key {tls.key}: {error}"
        raise ConfigWrong(msg) from error
    return context


def _without_accounts(board: BoardSettings) -> ConfigWrong:
    return ConfigWrong(
        f"board.host {board.host} lets other computers in, and nobody has an account: {_ADD}; or "
        "leave board.host out for this computer alone"
    )
