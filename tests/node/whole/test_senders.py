"""Senders as they are, at a whole node: what broke off, stalls, shares or mixes up."""

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from tests.conftest import require_peer
from tests.support.node.running import ENVIRONMENT, wait_for
from tests.support.node.siege import FakeNode, Scanner, Tps
from tests.support.node.toy import Toy, slices_named_by, toy, write_toy

pytestmark = [pytest.mark.node, pytest.mark.peer]

IDLE_S = 3.0
FOURTEEN = range(100, 114)


class Site:
    """A node, its planning system, and what came to it."""

    def __init__(self, folder: Path) -> None:
        require_peer("/usr/bin/storescu")
        self.folder = folder
        self.tps = Tps(folder / "tps")
        self.node = FakeNode(folder / "node", self.tps.destination(), idle_s=IDLE_S)
        self.tps.start()
        self.node.start()

    def of(self, series: Toy) -> list[Path]:
        """The structure sets that the planning system has of an animal."""
        found = []
        for path in self.tps.folder.iterdir():
            ds = pydicom.dcmread(path, force=True)
            if ds.get("PatientID") == series.animal:
                found.append(path)
        return found

    def delivered(self, series: Toy) -> Path:
        """The animal's one structure set, once it is there."""
        query = (
            "select delivery.state from delivery join structure_set on structure_set.id = "
            "delivery.structure_set join scan on scan.id = structure_set.scan where animal = ?"
        )
        wait_for(
            lambda: self.node.query(query, series.animal) == [("delivered",)],
            60,
            self.node.explain,
        )
        (path,) = self.of(series)
        return path

    def scans(self, series: Toy) -> list[tuple]:
        """State and number of slices of each of the animal's scans."""
        return self.node.query(
            "select state, json_array_length(files) from scan join scan_files on scan_files.scan = "
            "scan.id where animal = ?",
            series.animal,
        )

    def send(self, series: Toy) -> None:
        """Send it whole, as a scanner does."""
        Scanner(self.node.port, [series]).run(threading.Event())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running node for all of these."""
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.node.end()
    site.tps.kill()


def test_a_broken_off_series_is_completed_by_its_resend(site: Site) -> None:
    """Aborted after half: nothing is contoured until the rest has come, and then all of it once."""
    series = toy(1)
    association = Scanner(site.node.port, []).associate()
    for ds in series.datasets[:10]:
        assert association.send_c_store(ds).Status == 0
    association.abort()
    # Half a series is uniform and has more than min_slices; longer than settle_s it is left alone.
    time.sleep(2.0)
    assert site.scans(series) == []
    site.send(series)
    assert slices_named_by(site.delivered(series)) <= series.uids
    assert site.scans(series) == [("contoured", 20)]


def test_fourteen_at_once_give_fourteen_structure_sets(site: Site) -> None:
    """None refused, none mixed: each structure set names slices of its own animal alone."""
    sent = [toy(number) for number in FOURTEEN]
    sending = []
    for series in sent:
        paths = write_toy(series, site.folder / "sent")
        command = [
            *("/usr/bin/storescu", "-aet", series.animal, "-aec", "LIMN"),
            *("127.0.0.1", str(site.node.port), *map(str, paths)),
        ]
        sending.append(subprocess.Popen(command, env=ENVIRONMENT))
    assert [process.wait(120) for process in sending] == [0] * len(sent)
    for series in sent:
        named = slices_named_by(site.delivered(series))
        assert named
        assert named <= series.uids
        assert site.scans(series) == [("contoured", 20)]
        senders = site.node.query("select sender from scan where animal = ?", series.animal)
        assert senders == [(f"{series.animal}@127.0.0.1",)]


def test_a_stalled_sender_is_closed_and_others_go_on(site: Site) -> None:
    """One that falls silent with its association open: closed, held as broken off, resent."""
    series, other = toy(2), toy(3)
    association = Scanner(site.node.port, []).associate()
    for ds in series.datasets[:10]:
        assert association.send_c_store(ds).Status == 0
    site.send(other)
    assert site.delivered(other)
    wait_for(lambda: not association.is_established, IDLE_S + 20, site.node.explain)
    assert site.scans(series) == []
    site.send(series)
    assert site.delivered(series)
    assert site.scans(series) == [("contoured", 20)]


def test_a_reused_uid_with_other_bytes_is_refused_and_told(site: Site) -> None:
    """0x0111, the first one kept and contoured, an error in the log that names it."""
    series, changed = toy(4), toy(4).datasets[7]
    changed.PixelData = bytes(len(changed.PixelData))
    association = Scanner(site.node.port, []).associate()
    for ds in series.datasets:
        assert association.send_c_store(ds).Status == 0
    assert association.send_c_store(changed).Status == 0x0111
    association.release()
    assert site.delivered(series)
    assert site.scans(series) == [("contoured", 20)]
    (told,) = (line for line in site.node.log().splitlines() if "0x0111" in line)
    assert "ERROR" in told
    assert str(changed.SOPInstanceUID) in told
    kept = [
        path
        for path in (site.node.data / "spool").rglob("*.dcm")
        if pydicom.dcmread(path).SOPInstanceUID == changed.SOPInstanceUID
    ]
    assert [pydicom.dcmread(path).PixelData for path in kept] == [series.datasets[7].PixelData]


def test_a_series_over_five_associations_gives_one_structure_set(site: Site) -> None:
    """Four slices in each, one after the other without a pause."""
    series = toy(5)
    for part in range(5):
        association = Scanner(site.node.port, []).associate()
        for ds in series.datasets[part::5]:
            assert association.send_c_store(ds).Status == 0
        association.release()
    assert site.delivered(series)
    assert site.scans(series) == [("contoured", 20)]


def test_a_series_of_two_animals_is_refused(site: Site) -> None:
    """The second PatientID under one SeriesInstanceUID: every slice refused, no second scan."""
    series, other = toy(6), toy(7)
    site.send(series)
    assert site.delivered(series)
    association = Scanner(site.node.port, []).associate()
    for ds in other.datasets:
        ds.SeriesInstanceUID = series.datasets[0].SeriesInstanceUID
        ds.StudyInstanceUID = series.datasets[0].StudyInstanceUID
        assert association.send_c_store(ds).Status == 0xC000
    association.release()
    time.sleep(1.5)
    assert site.scans(series) == [("contoured", 20)]
    assert site.scans(other) == []
    assert "whose scan is it?" in site.node.log()
