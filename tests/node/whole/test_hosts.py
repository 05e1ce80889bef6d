"""Two hosts receive, two contour, one schedules; a worker, the scheduler and a link fail."""

from pathlib import Path

import pytest

from tests.conftest import require_peer
from tests.support.node.hosts import RECEIVERS, endure

pytestmark = [pytest.mark.node, pytest.mark.peer]


@pytest.mark.timeout(900)
def test_a_worker_the_scheduler_and_a_link_fail_and_every_scan_is_delivered_once(
    tmp_path: Path,
) -> None:
    """By configuration and certificates alone; the short form of ``bench/hosts.py``.

    Takes a minute: five hosts start, and Dask needs its own time-outs to notice a cut link.
    """
    require_peer("/usr/bin/storescp")
    found, site = endure(tmp_path)
    assert found.sound, f"{found}\n{site.explain()}"
    sent, shared = (host.rows() for host in site.receivers)
    assert all(float(row["transfer_s"]) > 0 for row in sent), "pixels went over the wire"
    assert all(float(row["transfer_s"]) == 0 for row in shared), f"{RECEIVERS[1]} shares its disk"
    for row in (*sent, *shared):
        assert row["device"] == "threshold"
