"""The board's process."""

from __future__ import annotations

import logging
from pathlib import Path

import uvicorn

from limn.domain.errors import ConfigWrong
from limn.node import oplog
from limn.node.board.app import Board
from limn.node.config import load_config
from limn.node.heartbeat import HEART
from limn.node.host import lifetime

log = logging.getLogger(__name__)

# A browser that says nothing holds a connection for so long; so many are open at once.
KEPT_S, MOST_CONNECTIONS = 5, 200
# It only answers who asks; its work never stands still for others.
SILENT_MAY_BE_S = 1e9


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
    HEART.allow(SILENT_MAY_BE_S)
    board = Board(config, config_path, config.board.port)
    log.info("the board is at http://localhost:%d", config.board.port)
    try:
        uvicorn.run(
            board.app,
            host=config.board.host,
            port=config.board.port,
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=KEPT_S,
            timeout_graceful_shutdown=1,
            lifespan="off",
        )
    finally:
        board.viewer.viewing.close()
