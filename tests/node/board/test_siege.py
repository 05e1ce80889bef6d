"""The board as a process, under siege: slow clients, a thousand streams, TLS."""

import contextlib
import os
import re
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime

import pytest
import uvicorn

from limn.node.board import guard
from limn.node.board.app import Board
from limn.node.board.door import MOST_OF_ADDRESS, Door, Patience
from limn.node.board.streams import MOST_OF_ADDRESS as STREAMS_OF_ADDRESS
from limn.node.board.streams import MOST_OF_BROWSER, MOST_STREAMS, Streams
from limn.node.config import load_config
from limn.node.host import certs
from tests.conftest import free_port
from tests.node.board.conftest import PASSWORDS, give_accounts, token_of

# The same address as the others, so that the bounds of an address are tried too.
HERE = "127.0.0.1"
# On Linux every address of 127.0.0.0/8 is this host's.
FRIEND = "127.0.0.2"


class Process:
    """`limn serve --only board` as the supervisor starts it."""

    def __init__(self, site, port, scheme="http"):
        self.port, self.url = port, f"{scheme}://localhost:{port}"
        self.log = site.folder / "board.err"
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "limn.cli", "serve", "--config", str(site.config)),
                    *("--only", "board", "--child"),
                ],
                stdin=subprocess.PIPE,
                stderr=file,
                env=os.environ | {"LIMN_LOG_TO_SUPERVISOR": "1"},
            )
        give_up_s = time.monotonic() + 60
        while time.monotonic() < give_up_s:
            with contextlib.suppress(OSError), socket.create_connection((HERE, port), 1):
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def end(self):
        """Stop it."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()

    def connect(self, address=HERE):
        """A connection from an address."""
        return socket.create_connection((HERE, self.port), 10, source_address=(address, 0))

    def page(self, address=FRIEND):
        """The live page, as somebody else asks for it; seconds that it took."""
        began_s = time.monotonic()
        with self.connect(address) as friend:
            friend.sendall(request(self.port, "/", "Connection: close"))
            text = received(friend, 10)
        assert b"Nothing comes in, runs or waits." in text, text[:300]
        return time.monotonic() - began_s


def request(port, path, *headers):
    """A GET."""
    lines = (f"GET {path} HTTP/1.1", f"Host: localhost:{port}", *headers, "", "")
    return "\r\n".join(lines).encode()


def received(client, seconds):
    """What comes until the other side closes, for so long at most."""
    client.settimeout(seconds)
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(65536):
            found += piece
    return found


def closed_within(client, seconds, dribble=b""):
    """Seconds until the board closes a connection, to which a byte is sent ten times a second."""
    began_s = time.monotonic()
    while time.monotonic() - began_s < seconds:
        try:
            if dribble:
                client.sendall(dribble)
            if select.select([client], [], [], 0.1)[0] and not client.recv(65536):
                return time.monotonic() - began_s
        except OSError:
            return time.monotonic() - began_s
    return None


@pytest.fixture
def process(site):
    """The board of this site, without accounts."""
    port = free_port()
    with site.config.open("a") as file:
        file.write(f"[board]\nport = {port}\n")
    found = Process(site, port)
    yield found
    found.end()


def test_a_thousand_streams_leave_the_page_for_others(process):
    """From one address: so many are followed, the rest are told so, nobody else waits."""
    process.page()
    streams = []
    for _ in range(1000):
        client = process.connect()
        client.sendall(request(process.port, "/events", "Accept: text/event-stream"))
        streams.append(client)
    assert process.page() < 5.0
    assert process.page(HERE) < 5.0
    followed = refused = gone = 0
    for client in streams:
        client.settimeout(10)
        try:
            head = client.recv(200)
        except ConnectionError:
            head = b""
        followed += head.startswith(b"HTTP/1.1 200")
        refused += head.startswith(b"HTTP/1.1 503")
        gone += not head
        client.close()
    assert 0 < followed <= STREAMS_OF_ADDRESS
    assert followed + refused + gone == 1000
    assert refused > 0
    # Those that were left are free again.
    give_up_s = time.monotonic() + 10
    answer = b""
    while not answer.startswith(b"HTTP/1.1 200") and time.monotonic() < give_up_s:
        with process.connect() as client:
            client.sendall(request(process.port, "/events"))
            answer = client.recv(200)
    assert answer.startswith(b"HTTP/1.1 200")
    assert "Traceback" not in process.log.read_text()


def test_streams_are_counted_in_all_by_browser_and_by_address():
    """One that was refused counts nowhere; one that ended makes room."""
    counted = Streams()
    assert [counted.enter("a", "10.0.0.7") for _ in range(MOST_OF_BROWSER + 1)].count(True) == (
        MOST_OF_BROWSER
    )
    entered = [counted.enter(f"b{k}", "10.0.0.7") for k in range(MOST_STREAMS)].count(True)
    assert entered == STREAMS_OF_ADDRESS - MOST_OF_BROWSER
    others = [counted.enter(f"c{k}", f"10.0.1.{k}") for k in range(MOST_STREAMS)].count(True)
    assert others == MOST_STREAMS - STREAMS_OF_ADDRESS
    counted.leave("a", "10.0.0.7")
    assert [counted.enter("a", "10.0.0.7") for _ in range(2)] == [True, False]


def test_clients_that_never_ask_keep_nobody_out(process):
    """A thousand open connections: the oldest goes for each new one."""
    idle = [process.connect() for _ in range(1000)]
    assert process.page() < 5.0
    assert process.page(HERE) < 5.0
    left = sum(1 for client in idle if not _is_closed(client))
    assert left <= MOST_OF_ADDRESS
    for client in idle:
        client.close()


def _is_closed(client):
    client.setblocking(False)
    try:
        return not client.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


class Impatient:
    """The board with a tenth of its patience, in a thread; what is asked of a process is above."""

    patience = Patience(request_s=1.0, taken_s=2.0, answer_s=5.0)

    def __init__(self, site, monkeypatch):
        monkeypatch.setattr(guard, "FORM_S", 1.0)
        self.port = free_port()
        board = Board(load_config(site.config), site.config, self.port)
        settings = uvicorn.Config(
            *(board.app, HERE, self.port),
            http=Door(None, patience=self.patience),
            log_config=None,
            lifespan="off",
        )
        self.server = uvicorn.Server(settings)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def connect(self):
        """A connection."""
        return socket.create_connection((HERE, self.port), 10)

    def end(self):
        """Stop it."""
        self.server.should_exit = self.server.force_exit = True
        self.thread.join()


@pytest.fixture
def impatient(site, monkeypatch):
    """A board that waits for a second."""
    found = Impatient(site, monkeypatch)
    yield found
    found.end()


@pytest.mark.parametrize(
    ("start", "dribble"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"a"),
        (b"GET / HTTP/1.1\r\nX: ", b"a"),
        # A body that never ends: of a form, and of a request that has none.
        (b"POST /sign-in HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4000\r\n\r\n", b"a"),
        (b"GET / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4000\r\n\r\n", b"a"),
    ],
)
def test_a_slow_client_has_so_many_seconds(impatient, start, dribble):
    """However it dribbles: head, header, body (slowloris)."""
    with impatient.connect() as client:
        client.sendall(start.replace(b"{host}", f"localhost:{impatient.port}".encode()))
        took_s = closed_within(client, 10, dribble)
    assert took_s is not None
    # A form has its second, then the next request one, and once a second somebody looks.
    assert 0.9 < took_s < 4.5


@pytest.mark.parametrize("pause_s", [None, 0.5])
def test_a_reader_that_never_reads_is_cut_off(site, impatient, pause_s):
    """Nor one that takes a little now and then; each frees its file and its memory."""
    row = site.contoured(1, held="why")
    folder = site.data / "scans" / row.name / "forms"
    folder.mkdir(parents=True)
    # More than the kernel keeps on both sides.
    with (folder / "labels.nii.gz").open("wb") as file:
        file.truncate(200_000_000)
    with impatient.connect() as client:
        client.sendall(request(impatient.port, f"/{row.name}/file/labels.nii.gz"))
        patience = impatient.patience
        end_s = time.monotonic() + (patience.taken_s if pause_s is None else patience.answer_s) + 2
        taken = 0
        while time.monotonic() < end_s:
            time.sleep(pause_s or 1.0)
            taken += len(client.recv(100_000)) if pause_s else 0
        assert not impatient.server.server_state.connections
        taken += len(received(client, 10))
    assert taken < 200_000_000


def test_a_head_without_end_is_not_kept(process):
    """A megabyte of a header; lines that are no HTTP; WebSocket; a forged address."""
    with process.connect() as client, contextlib.suppress(ConnectionError):
        client.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 2**20)
        assert received(client, 10)[:12] in (b"", b"HTTP/1.1 400")
    for wrong in (b"\x00" * 1000 + b"\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"\x16\x03\x01\x02\x00"):
        with process.connect() as client:
            client.sendall(wrong + b"\r\n\r\n")
            assert received(client, 15)[:12] in (b"", b"HTTP/1.1 400")
    upgrade = ("Connection: Upgrade, close", "Upgrade: websocket", "Sec-WebSocket-Key: x")
    with process.connect() as client:
        client.sendall(request(process.port, "/events/socket", *upgrade))
        assert received(client, 15)[:12] in (b"HTTP/1.1 404", b"HTTP/1.1 405")
    assert process.page() < 5.0
    assert "Traceback" not in process.log.read_text()


@pytest.mark.parametrize(
    "path",
    [
        *("/scan-00001/file/../../../limn.toml", "/scan-00001/file/..", "/../../etc/passwd"),
        *("/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "//etc/passwd"),
        *(
            "/scan-00001/file/%2e%2e%2f%2e%2e%2f%2e%2e%2flimn.toml",
            "/static/%00",
            "*",
            "x",
            "/static/..",
        ),
        *("http://evil.example/scan-00001", "/%ff%fe", "/scan-00001%0d%0aX: y"),
    ],
)
def test_a_path_that_no_browser_would_send(site, impatient, path):
    """As it is, without a client that makes it plain before it goes out."""
    site.contoured(1, held="why")
    with impatient.connect() as client:
        client.sendall(request(impatient.port, path, "Connection: close"))
        answer = received(client, 5)
    assert answer[:12] in (b"HTTP/1.1 404", b"HTTP/1.1 400", b"HTTP/1.1 405")
    assert b"data_dir" not in answer
    assert b"root:" not in answer
    assert b"import" not in answer


def test_a_request_of_two_lengths_hides_no_other(site, impatient):
    """What follows the shorter one is not answered: a proxy may have let it pass unseen."""
    lines = ("Content-Length: 40", "Transfer-Encoding: chunked")
    head = request(impatient.port, "/sign-in", *lines).replace(b"GET", b"POST", 1)
    with impatient.connect() as client:
        client.sendall(head + b"0\r\n\r\n" + request(impatient.port, "/"))
        answer = received(client, 5)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1 ") == 1


def form(process, browser, path, **values):
    """A form of the board, sent through urllib with its cookies; the page that comes."""
    data = urllib.parse.urlencode(values).encode()
    with browser.open(f"{process.url}{path}", data, timeout=20) as answer:
        return answer.read().decode()


def test_tls_with_the_boards_own_certificate(site):
    """A real handshake: the certificate is checked, old TLS and plain HTTP get nothing."""
    made = site.folder / "certs"
    (folder,) = certs.make(made, [], [certs.Host(("localhost", HERE))], datetime.now(UTC))
    port = free_port()
    with site.config.open("a") as file:
        file.write(
            f'[board]\nhost = "0.0.0.0"\nport = {port}\nnames = ["localhost"]\n'
            f'[board.tls]\ncertificate = "{folder}/cert.pem"\nkey = "{folder}/key.pem"\n'
        )
    give_accounts(site)
    process = Process(site, port, "https")
    try:
        context = ssl.create_default_context(cafile=folder / "ca.pem")
        handler = urllib.request.HTTPSHandler(context=context)
        browser = urllib.request.build_opener(handler, urllib.request.HTTPCookieProcessor())
        browser.addheaders = [("Accept", "text/html"), ("X-Forwarded-For", "6.6.6.6")]
        with browser.open(process.url, timeout=20) as answer:
            page = answer.read().decode()
            assert answer.url == f"{process.url}/sign-in"
        assert "Sign in" in page
        token = re.search(r'name="token" value="([0-9a-f]{64})"', page)[1]
        values = {"token": token, "name": "Anna", "password": PASSWORDS["Anna"]}
        assert "Nothing comes in" in form(process, browser, "/sign-in", **values)
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.build_opener().open(process.url, timeout=20)
        with process.connect() as plain:
            plain.sendall(request(port, "/", "Connection: close"))
            assert b"HTTP" not in received(plain, 10)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with process.connect() as client, pytest.raises((ssl.SSLError, ConnectionError)):
            old.wrap_socket(client, server_hostname="localhost")
        # A client that never shakes hands is cut off; a thousand of them keep nobody out.
        mute = [process.connect() for _ in range(300)]
        with browser.open(process.url, timeout=20) as answer:
            assert "Nothing comes in" in answer.read().decode()
        assert closed_within(mute[-1], 15) is not None
        for client in mute:
            client.close()
        text = process.log.read_text()
        assert "Anna signed in (act) from 127.0.0.1" in text
        assert "6.6.6.6" not in text
        assert "Traceback" not in text
    finally:
        process.end()


def test_a_stream_ends_with_its_session(site):
    """An account that is removed: what its open page gets next is the end."""
    port = free_port()
    with site.config.open("a") as file:
        file.write(f"[board]\nport = {port}\n")
    path = give_accounts(site, "Wall")
    process = Process(site, port)
    try:
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        browser.addheaders = [("Accept", "text/html")]
        with browser.open(process.url, timeout=20) as answer:
            token = token_of(type("Page", (), {"text": answer.read().decode()}))
        form(process, browser, "/sign-in", token=token, name="Wall", password=PASSWORDS["Wall"])
        with browser.open(f"{process.url}/events", timeout=20) as stream:
            assert b"data:" in stream.readline()
            path.unlink()
            give_accounts(site, "Anna")
            began_s = time.monotonic()
            left = stream.read()
        assert b"event: ended" in left
        assert time.monotonic() - began_s < 6.0
        browser.addheaders = []
        with pytest.raises(urllib.error.HTTPError, match="401"):
            browser.open(f"{process.url}/events", timeout=20)
    finally:
        process.end()
