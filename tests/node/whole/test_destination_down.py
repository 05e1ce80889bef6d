"""A whole node whose planning system is off: degraded, not ended; ready once the system is back."""

import json
import subprocess

import pytest

from tests.conftest import free_port, require_peer
from tests.node.whole.test_operations import page, samples, send
from tests.support.node.running import wait_for
from tests.support.node.siege import FakeNode

pytestmark = [pytest.mark.node, pytest.mark.peer]

TPS = (
    '[[destination]]\nkind = "dicom"\nname = "tps"\nae_title = "TPS"\nhost = "127.0.0.1"\n'
    "port = {tps}\n[health]\ndestination_limit_s = 2.0\n[metrics]\nport = {metrics}\n"
)


def health(node):
    """Status and answer of the health page."""
    status, text = page(node, "/health")
    return status, json.loads(text or "{}")


def test_a_planning_system_that_is_off_degrades_the_node_until_it_takes_the_file(tmp_path):
    """The page is 200 with the cause and what to do, the metrics say which and since when.

    Takes more than 10 s: a node starts, and its courier tries again after some seconds.
    """
    tps = free_port()
    node = FakeNode(tmp_path / "node", TPS.format(tps=tps, metrics=free_port()))
    node.start()
    received = tmp_path / "tps"
    received.mkdir()
    try:
        wait_for(lambda: health(node)[1].get("state") == "ready", 60, node.explain)
        assert send(node, 1) == {0}
        wait_for(lambda: health(node)[1].get("state") == "degraded", 60, node.explain)
        status, answer = health(node)
        assert (status, answer["ok"]) == (200, True)
        assert [each["cause"] for each in answer["causes"]] == ["destination-down"]
        assert "1 structure set waits for it; it last said: TPS@127.0.0.1" in answer["reasons"][0]
        found = samples(node)
        assert found["limn_destination_down", "tps"] == 1
        assert found["limn_destination_failing_seconds", "tps"] > 2
        assert found["limn_delivery_failures_total", "tps", "unanswered"] >= 1
        assert found["limn_health_reasons", "destination-down", "degraded"] == 1
        assert found["limn_scans_waiting", "live"] == 0
        storescp = subprocess.Popen(
            [require_peer("/usr/bin/storescp"), "-od", str(received), str(tps)]
        )
        try:
            wait_for(lambda: health(node)[1].get("state") == "ready", 60, node.explain)
        finally:
            storescp.kill()
            storescp.wait()
        found = samples(node)
        assert found["limn_destination_failing_seconds", "tps"] == 0
        assert found["limn_deliveries", "tps", "delivered"] == 1
        assert len(list(received.glob("RS*"))) == 1
    finally:
        node.stop()
