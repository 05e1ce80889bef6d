"""The short form of ``bench/kill.py``: every process of a node is killed, nothing is lost."""

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import require_peer
from tests.support.node.siege import PROCESSES, besiege, mounted

pytestmark = [pytest.mark.node, pytest.mark.peer]

KILLS = len(PROCESSES) + 1


@pytest.fixture(autouse=True)
def _dcmtk():
    require_peer("/usr/bin/storescp")


def test_every_process_killed_with_the_planning_system_down(tmp_path: Path) -> None:
    """Each process dies once, the planning system in between: all delivered, byte for byte.

    Takes half a minute: the node recovers from five kills, one process after the other.
    """
    found = besiege(tmp_path, 12, KILLS, seed=1, tps_down=True, disk=None)
    assert found.sound, str(found)
    assert found.log_lines == {1: 12}, "one line a scan in the physicist's log"


def test_every_process_killed_on_a_disk_that_fills_up(tmp_path: Path) -> None:
    """The last byte of the node's disk goes to somebody else; once it is freed all goes out.

    Takes a minute: five kills, and the disk stays full for up to 20 s.
    """
    disk = mounted(tmp_path / "disk")
    if disk is None:
        pytest.skip("only root can mount a small disk")
    try:
        found = besiege(tmp_path, 12, KILLS, seed=2, tps_down=False, disk=disk)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(disk / "data")
        subprocess.run(["/bin/umount", "-l", str(disk)], check=False)
    assert found.sound, str(found)
