import functools
import re
import threading
import time

import pytest
import uvicorn
from starlette.testclient import TestClient

from limn.node.board.accounts.passwords import hashed
from limn.node.board.app import Board
from limn.node.config import load_config
from limn.node.store.disk.board_accounts import Account, accounts_to_change
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


PASSWORDS = {"Anna": "an act of kindness", "Wall": "look but don't touch"}
ROLES = {"Anna": "act", "Wall": "look"}
ELSEWHERE = "board.example"


@functools.cache
def hash_of(name):
    """Of one of these passwords; each takes a tenth of a second."""
    return hashed(PASSWORDS[name])


def give_accounts(site, *names):
    """Anna may act, the screen on the wall may look."""
    path = load_config(site.config).board_accounts_path
    with accounts_to_change(path) as accounts:
        for name in names or PASSWORDS:
            accounts[name] = Account(name, ROLES[name], hash_of(name))
    return path


def open_to_others(site, more=""):
    """The board of this site listens for other computers."""
    with site.config.open("a") as file:
        file.write(
            f'[board]\nhost = "0.0.0.0"\nport = {PORT}\nnames = ["{ELSEWHERE}"]\n{more}\n'
            '[board.tls]\ncertificate = "board.pem"\nkey = "board.key"\n'
        )


@pytest.fixture
def elsewhere(site):
    """What asks a board with TLS and accounts from another computer."""
    open_to_others(site)
    give_accounts(site)
    return browser_of(Board(load_config(site.config), site.config, PORT))


def browser_of(board, address="10.0.0.7", name=ELSEWHERE):
    """A browser at another computer."""
    return TestClient(
        board.app,
        base_url=f"https://{name}:{PORT}",
        client=(address, 50000),
        follow_redirects=False,
        headers={"accept": "text/html"},
    )


def token_of(page):
    """The token in a page's forms."""
    return re.search(r'name="token" value="([0-9a-f]{64})"', page.text)[1]


def sign_in(browser, name, password=None, **more):
    """What the board answers to a name and a password."""
    form = {"token": token_of(browser.get("/sign-in")), "name": name} | more
    return browser.post("/sign-in", data=form | {"password": password or PASSWORDS[name]})
