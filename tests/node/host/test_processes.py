"""The processes of a host: what their environment switches off."""

import json
import os
import subprocess
import sys

import pytest

from limn.domain.errors import ConfigWrong
from limn.node.config import load_config
from limn.node.host.processes import ENVIRONMENT, processes
from limn.node.operate.check import check
from limn.node.serve import ports
from limn.node.serve.board_check import check_board_files

# As the scheduler's and the worker's process see it.
PAGES = """
import asyncio, json, urllib.error, urllib.request
from distributed import Scheduler, Worker

def status(port, page):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code

async def main():
    options = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    async with (
        Scheduler(port=0, **options) as scheduler,
        Worker(scheduler.address, **options) as worker,
    ):
        found = {}
        for server in (scheduler, worker):
            for page in ("/health", "/metrics", "/json/identity.json", "/info/main/workers.html"):
                found[f"{server.id} {page}"] = await asyncio.to_thread(
                    status, server.http_server.port, page
                )
        print(json.dumps(found))

asyncio.run(main())
"""


def node_on_several_hosts(folder, more=""):
    """A config with a board, as each of several hosts has it."""
    path = folder / "limn.toml"
    path.write_text(
        f'data_dir = "data"\n[model]\nbundle = "bundle"\n[board]\n[engine]\ntls_dir = "tls"\n{more}'
        '[[destination]]\nkind = "folder"\nname = "tps"\nfolder = "out"\n'
    )
    return load_config(path), path


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (None, ["scheduler", "worker", "engine", "receiver", "board"]),
        ("receiver", ["engine", "receiver", "board"]),
        ("scheduler", ["scheduler"]),
        ("worker", ["worker"]),
    ],
)
def test_of_several_hosts_the_one_with_the_journal_has_the_board(tmp_path, only, expected):
    """Though all have one config."""
    config, path = node_on_several_hosts(tmp_path)
    assert [each.name for each in processes(config, path, only)] == expected


def test_a_board_alone_is_refused_with_the_way(tmp_path):
    """It reads the journal, which lies on the receiving host."""
    config, path = node_on_several_hosts(tmp_path)
    with pytest.raises(ConfigWrong, match="start limn serve there, or limn serve --only receiver"):
        processes(config, path, "board")


def test_a_host_without_the_board_needs_none_of_its_files(tmp_path, capsys):
    """Neither its certificate nor its accounts: a worker's host starts without them."""
    config, path = node_on_several_hosts(tmp_path)
    text = path.read_text().replace(
        "[board]\n",
        '[board]\nhost = "0.0.0.0"\nnames = ["b"]\n[board.tls]\ncertificate = "a"\nkey = "b"\n',
    )
    path.write_text(text)
    config = load_config(path)
    with pytest.raises(ConfigWrong, match=r"board\.tls|TLS key"):
        check_board_files(config)
    check(path, "worker")
    assert "board:" not in capsys.readouterr().out
    assert "board.port" not in ports_of(config, "worker")


def ports_of(config, only):
    """The keys of the ports that a part opens."""
    return [key for key, *_ in ports._ports(config, only)]


def test_dask_shows_no_pages():
    """Its HTTP port stays open on loopback and answers no user of the host."""
    answered = subprocess.run(
        [sys.executable, "-c", PAGES],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        check=True,
        timeout=60,
    )
    found = json.loads(answered.stdout.splitlines()[-1])
    assert len(found) == 8
    assert set(found.values()) == {404}
