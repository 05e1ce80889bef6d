"""The board beside a whole node: it shows a real scan, and its death changes nothing."""

import json
import os
import signal
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from limn.node.heartbeat import SILENT_S
from tests.conftest import free_port, require_peer
from tests.node.whole.test_queue import send, states
from tests.support.node.running import wait_for
from tests.support.node.siege import FakeNode


def pid(node: FakeNode) -> int:
    """The board's process."""
    assert node.process is not None
    (found,) = (
        each.pid
        for each in psutil.Process(node.process.pid).children()
        if each.cmdline()[-3:] == ["--only", "board", "--child"]
    )
    return int(found)


@pytest.mark.peer
def test_the_board_of_a_node(tmp_path: Path) -> None:
    """It follows a scan from the first slice to its delivery; killed, it comes back.

    Takes more than 10 s: a node starts and contours two scans.
    """
    require_peer("/usr/bin/storescu")
    port = free_port()
    destination = '[[destination]]\nkind = "folder"\nname = "out"\nfolder = "out"\n'
    node = FakeNode(tmp_path / "node", f"{destination}[board]\nport = {port}\n")

    def fetched(path: str) -> bytes:
        with urllib.request.urlopen(f"http://localhost:{port}{path}", timeout=5) as answer:
            return bytes(answer.read())

    def page(path: str = "/") -> str:
        return fetched(path).decode()

    def answers() -> bool:
        try:
            return "<title>" in page()
        except OSError:
            return False

    try:
        node.start()
        wait_for(answers, 60, node.explain)
        send(node, 1, tmp_path)
        wait_for(lambda: states(node) == ["contoured"], 100, node.explain)
        wait_for(lambda: "out has it since" in page(), 30, node.explain)
        # It gives signs of life for longer than a process may be silent.
        until_s = time.monotonic() + SILENT_S + 3.0
        while time.monotonic() < until_s:
            assert "no sign of life" not in page()
            time.sleep(0.5)
        shown = page("/scan-00001")
        assert "picture.png" in shown
        assert "Heart" in shown
        assert "contoured in" in shown
        began_s = time.perf_counter()
        assert fetched("/scan-00001/file/picture.png").startswith(b"\x89PNG")
        frame = json.loads(page("/scan-00001/view.json"))
        head = fetched(f"/scan-00001/plane/0/{frame['start'][0]}")[:2]
        # CT and labels are there, before any process has written the planes.
        assert (head, frame["notes"]) == (b"\x01\x01", [])
        assert time.perf_counter() - began_s < 1.0
        wait_for(
            lambda: "1 scan." in page("/history") or "1 scan;" in page("/history"), 30, node.explain
        )
        board = pid(node)
        os.kill(board, signal.SIGKILL)
        send(node, 2, tmp_path)
        wait_for(lambda: states(node) == ["contoured"] * 2, 100, node.explain)
        wait_for(answers, 60, node.explain)
        assert pid(node) != board
        # The receiver writes anew once a second what comes in.
        wait_for(
            lambda: json.loads((node.data / "receiving.json").read_text())["contents"] == [],
            10,
            node.explain,
        )
    finally:
        node.end()
