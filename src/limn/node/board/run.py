"""The board's process."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from pathlib import Path
from typing import cast

import psutil
import uvicorn

from limn.domain.errors import ConfigWrong
from limn.node import oplog
from limn.node.board.app import Board
from limn.node.board.door import Door
from limn.node.config import BoardSettings, Config, load_config
from limn.node.heartbeat import HEART
from limn.node.host import lifetime
from limn.node.serve.board_check import board_context, check_board

log = logging.getLogger(__name__)

# A browser that says nothing holds a connection for so long.
KEPT_S = 5
# Of the head of a request; browsers send some 2 KiB.
MOST_HEAD_BYTES = 16384
# The contours come first: whoever asks for pages without end gets what they leave.
NICE = 5


def run_board(config_path: Path) -> None:
    """Serve the board until the supervisor stops this process.

    Raises
    ------
    ConfigWrong
        If the config has no board.
    """
    config = load_config(config_path)
    if config.board is None:
        raise ConfigWrong("the config has no [board]")
    oplog.set_up(config.data_dir, "board", config.log)
    lifetime.end_with_supervisor()
    if os.name == "posix":
        psutil.Process().nice(NICE)
    # It says each request that it can't read, and who sends those may send millions.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    try:
        log.info("the board is at %s", check_board(config))
    except ConfigWrong as error:
        # It starts all the same and lets nobody in; `limn board add` is enough to mend it.
        log.error("%s", error)
    serve(config, config_path)


def serve(config: Config, config_path: Path) -> None:
    """Listen as the config says.

    Raises
    ------
    ConfigWrong
        If the certificate can't be used.
    """
    settings = config.board or BoardSettings()
    context = None if settings.tls is None else board_context(settings.tls)
    board = Board(config, config_path, settings.port)
    try:
        _listen(board, settings, context)
    finally:
        board.viewer.viewing.close()


def _listen(board: Board, settings: BoardSettings, context: ssl.SSLContext | None) -> None:
    config = uvicorn.Config(
        board.app,
        host=settings.host,
        port=settings.port,
        # The door speaks TLS, so that it can count whoever has not agreed on it yet.
        http=cast(type[asyncio.Protocol], Door(context)),
        ws="none",
        # A client's own word about its address is not believed.
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
        timeout_keep_alive=KEPT_S,
        timeout_graceful_shutdown=1,
        lifespan="off",
        # Once a second, by the loop that answers everybody: if it stands still, the board does.
        callback_notify=_beat,
        timeout_notify=0,
    )
    uvicorn.Server(config).run()


async def _beat() -> None:
    HEART.beat()
