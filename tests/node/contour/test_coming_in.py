"""An idle worker is asked to read what comes in; nothing depends on its answer."""

import time
from types import SimpleNamespace

import pytest
from distributed import Client, LocalCluster

from limn.node.contour import coming_in as coming_in_module
from limn.node.contour.allocation import KIND
from limn.node.contour.coming_in import ComingIn
from limn.node.store.disk.receiving import ReceivingSeries, write_receiving
from limn.node.store.disk.spool import Spool
from tests.support.node.parts import until


def coming(uid, light=""):
    """A series that comes in, or an image that waits for a person."""
    return ReceivingSeries(
        animal="M7",
        sender="CT",
        series_instance_uid=uid,
        since_utc="2026-12-01T10:00:00+00:00",
        slices=4,
        expected=None,
        waits_for="more slices",
        until_utc="",
        light=light,
    )


def site(folder, pixels="path"):
    """What is read of a config."""
    return SimpleNamespace(
        receiving_path=folder / "receiving.json",
        spool_dir=folder / "spool",
        engine=SimpleNamespace(pixels=pixels),
    )


@pytest.fixture
def asked():
    """Folders that the worker was asked to read, with its client and its address."""
    folders = []
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        (worker,) = cluster.workers.values()
        worker.extensions[KIND] = SimpleNamespace(read_ahead=folders.append)
        yield SimpleNamespace(folders=folders, client=client, worker=worker.address)


def test_the_first_series_that_comes_in_is_read_ahead(tmp_path, asked, monkeypatch):
    """In its folder of the spool; asked again while it comes in, and no more afterwards."""
    monkeypatch.setattr(coming_in_module, "ASK_S", 0.2)
    config = site(tmp_path)
    every = [coming("", light="red"), coming("1.2.3"), coming("1.2.4")]
    write_receiving(config.receiving_path, every, time.time())
    node = ComingIn(config)
    node.look(asked.client, asked.worker)
    node.look(asked.client, asked.worker)
    folder = Spool(config.spool_dir, 0).folder("1.2.3")
    until(lambda: asked.folders)
    time.sleep(0.25)
    assert asked.folders == [folder]
    node.look(asked.client, asked.worker)
    until(lambda: asked.folders == [folder] * 2)
    write_receiving(config.receiving_path, every[:1], time.time())
    time.sleep(0.25)
    node.look(asked.client, asked.worker)
    time.sleep(0.1)
    assert asked.folders == [folder] * 2


def test_a_worker_that_gets_bytes_is_not_asked(tmp_path, asked):
    """It can't open the spool."""
    config = site(tmp_path, pixels="bytes")
    write_receiving(config.receiving_path, [coming("1.2.3")], time.time())
    ComingIn(config).look(asked.client, asked.worker)
    time.sleep(0.2)
    assert asked.folders == []


def test_a_worker_that_does_not_answer_holds_nothing_up(tmp_path):
    """Nor is another question put as long as one has no answer."""
    config = site(tmp_path)
    write_receiving(config.receiving_path, [coming("1.2.3")], time.time())
    runs = []

    def run(*_, **__):
        runs.append(1)
        time.sleep(0.3)
        raise OSError("the worker is gone")

    node = ComingIn(config)
    began_s = time.monotonic()
    for _ in range(3):
        node.look(SimpleNamespace(run=run), "tcp://127.0.0.1:1")
        node._asked_s = float("-inf")
    assert time.monotonic() - began_s < 0.2
    assert runs == [1]
    until(lambda: not node._asking.is_alive())
    node.look(SimpleNamespace(run=run), "tcp://127.0.0.1:1")
    until(lambda: runs == [1, 1])
