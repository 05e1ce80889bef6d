import threading
import time

import pytest
import uvicorn
from starlette.testclient import TestClient

from limn.node.board.app import Board
from limn.node.config import load_config
from tests.conftest import free_port
from tests.support.node.site import Site

PORT = 8114
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63"
    "606060000000040001f61738550000000049454e44ae426082"
)


@pytest.fixture
def site(tmp_path, capsys):
    """A site without a node; the journal is a node's."""
    site = Site(tmp_path, capsys)
    yield site
    site.journal.close()


@pytest.fixture
def board(site):
    """The board of this site."""
    return Board(load_config(site.config), site.config, PORT)


@pytest.fixture
def browser(board):
    """What asks the board, as a browser at this computer does; it keeps its cookie."""
    return TestClient(board.app, base_url=f"http://localhost:{PORT}", follow_redirects=False)


@pytest.fixture
def served(site):
    """The board's address, with a real server behind it."""
    port = free_port()
    board = Board(load_config(site.config), site.config, port)
    server = uvicorn.Server(
        uvicorn.Config(
            *(board.app, "127.0.0.1", port), log_config=None, lifespan="off", access_log=False
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://localhost:{port}"
    server.should_exit = True
    server.force_exit = True
    thread.join()


def with_picture(site, row):
    """The picture of a scan, where the engine writes it."""
    folder = site.data / "scans" / row.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "picture.png").write_bytes(PNG)
    return folder
