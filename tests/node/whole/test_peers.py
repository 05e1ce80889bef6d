"""One scan, end to end, between programs that others wrote."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import PositronEmissionTomographyImageStorage

from limn.domain.scan import Labels, Volume, dice, unpack_labels
from limn.domain.timing import DOOR_TO_DOOR_STAGES
from limn.phantom.anatomy import TRUTH_LABELS
from tests.conftest import require_peer
from tests.support.node.parts import only_sends
from tests.support.node.running import (
    ENVIRONMENT,
    Node,
    Orthanc,
    StoreScp,
    storescu_command,
    wait_for,
)
from tests.support.organs import Organ

pytestmark = [pytest.mark.node, pytest.mark.peer]


@dataclass(frozen=True)
class Site:
    """A node, its planning system, its archive and its export folder."""

    node: Node
    tps: StoreScp
    orthanc: Orthanc
    export: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site."""
    require_peer("/usr/bin/storescu")
    folder = tmp_path_factory.mktemp("site")
    tps, orthanc = StoreScp(folder / "tps"), Orthanc(folder / "orthanc")
    export = folder / "export"
    destinations = (
        tps.destination()
        + orthanc.destination()
        + f'[[destination]]\nkind = "folder"\nname = "export"\nfolder = "{export}"\n'
    )
    node = Node(folder / "node", destinations)
    try:
        node.start()
        yield Site(node, tps, orthanc, export)
    finally:
        assert node.stop() == 0
        for peer in (tps.process, orthanc.process):
            peer.terminate()
            peer.wait()


def of_animal(site: Site, animal: str) -> list[Path]:
    """What the planning system received for one animal."""
    return [path for path in site.tps.received() if pydicom.dcmread(path).PatientID == animal]


def test_a_series_sent_by_dcmtk_reaches_every_destination(
    site: Site, make_series: Callable[[str], Path], mouse: tuple[Volume, Labels], tmp_path: Path
) -> None:
    """Storescu sends; storescp, Orthanc and the folder get one proven structure set.

    Takes more than 10 s: the node of all tests here starts for this one, with its real network.
    """
    series = make_series("1")
    assert site.node.storescu(series).returncode == 0
    row = site.node.wait_row("M1")
    assert row["outcome"] == "delivered"
    assert row["destination"] == "TPS"
    assert row["destination_status"] == "0x0000"
    wait_for(lambda: bool(site.orthanc.structure_sets()) and any(site.export.iterdir()), 10)

    (received,) = of_animal(site, "M1")
    ds = pydicom.dcmread(received)
    (exported,) = site.export.glob("*.dcm")
    assert pydicom.dcmread(exported) == ds
    (in_orthanc,) = site.orthanc.structure_sets()
    assert in_orthanc["SOPInstanceUID"] == ds.SOPInstanceUID == row["rtstruct_sop_instance_uid"]
    assert ds.StructureSetLabel == "limn DEMO"

    checked = subprocess.run(
        [require_peer("dciodvfy"), "-new", str(received)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Error" not in checked.stdout + checked.stderr

    scan = site.node.folder / "data" / "scans" / row["scan_id"]
    labels_zyx = unpack_labels((scan / "labels.npz").read_bytes())
    for organ, mask in plastimatch_masks(received, series, tmp_path).items():
        label = next(k for k, own in TRUTH_LABELS.items() if own == organ)
        assert dice(mask, labels_zyx == label) == 1.0
        assert dice(mask, mouse[1].mask(organ)) >= 0.85
    assert (scan / "picture.png").read_bytes().startswith(b"\x89PNG")


def plastimatch_masks(structure_set: Path, series: Path, out: Path) -> dict[Organ, np.ndarray]:
    """The structure set rasterised onto its CT by plastimatch."""
    subprocess.run(
        [
            *(require_peer("plastimatch"), "convert", "--input", str(structure_set)),
            *("--referenced-ct", str(series), "--output-prefix", str(out / "roi")),
            *("--prefix-format", "nrrd"),
        ],
        check=True,
        capture_output=True,
    )
    return {
        organ: SimpleITK.GetArrayFromImage(
            SimpleITK.ReadImage(str(out / "roi" / f"{organ.value}.nrrd"))
        ).astype(bool)
        for organ in Organ
    }


def test_the_stages_add_up_to_door_to_door(site: Site) -> None:
    """The physicist's columns account for every second between slice and acceptance."""
    row = site.node.wait_row("M1")
    total = sum(float(row[stage]) for stage in DOOR_TO_DOOR_STAGES)
    assert total == pytest.approx(float(row["door_to_door_s"]), abs=0.002)
    assert float(row["overhead_s"]) >= 0
    assert float(row["inference_s"]) > 0


def test_the_watched_folder_gives_the_same_contours(
    site: Site, make_series: Callable[[str], Path]
) -> None:
    """The same pixels through the other door: the same polygons, and the source untouched."""
    site.node.storescu(make_series("1"))
    site.node.wait_row("M1")
    series = make_series("2")
    before = {path.name: path.stat().st_mtime_ns for path in series.iterdir()}
    target = site.node.watched / "M2"
    subprocess.run(["cp", "-r", "-p", str(series), str(target)], check=True)
    row = site.node.wait_row("M2")
    assert row["outcome"] == "delivered"
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == before
    (sent,), (dropped,) = of_animal(site, "M1"), of_animal(site, "M2")
    assert polygons(sent) == polygons(dropped)


def polygons(path: Path) -> list[list[float]]:
    """Every contour's points."""
    return [
        list(item.ContourData)
        for roi in pydicom.dcmread(path).ROIContourSequence
        for item in roi.ContourSequence
    ]


def test_two_senders_at_once_give_one_structure_set_each(
    site: Site, make_thorax: Callable[[str], Path]
) -> None:
    """Two scanners send at the same time; nothing is mixed, nothing is lost."""
    series = {"M3": make_thorax("3"), "M4": make_thorax("4")}
    senders = [
        threading.Thread(target=site.node.storescu, args=(folder,)) for folder in series.values()
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    for animal in series:
        assert site.node.wait_row(animal)["outcome"] == "delivered"
        assert len(of_animal(site, animal)) == 1


def test_one_association_per_slice_gives_one_structure_set(
    site: Site, make_thorax: Callable[[str], Path]
) -> None:
    """Some senders open an association for each slice."""
    for path in sorted(make_thorax("5").iterdir()):
        command = storescu_command(site.node.port, path)
        command = [part for part in command if part not in ("+sd", "+r")]
        subprocess.run(command, env=ENVIRONMENT, check=True)
    assert site.node.wait_row("M5")["outcome"] == "delivered"
    assert len(of_animal(site, "M5")) == 1
    assert site.node.query("select count(*) from scan where animal = 'M5'") == [(1,)]


def test_the_same_series_again_gives_no_second_structure_set(
    site: Site, make_thorax: Callable[[str], Path]
) -> None:
    """A resend of what was contoured changes nothing, and the log says so."""
    series = make_thorax("6")
    site.node.storescu(series)
    site.node.wait_row("M6")
    site.node.storescu(series)
    wait_for(lambda: "came again" in site.node.log(), 20, site.node.explain)
    assert len(of_animal(site, "M6")) == 1
    assert site.node.query("select count(*) from scan where animal = 'M6'") == [(1,)]


def test_a_bad_folder_stops_nothing(site: Site, make_thorax: Callable[[str], Path]) -> None:
    """Text, truncated CT, PET, RTSTRUCT, empty file: a line for each; the next is contoured."""
    bad = site.node.folder / "bad"
    bad.mkdir()
    good = sorted(make_thorax("7").iterdir())
    (bad / "notes.txt").write_text("the left mouse is bigger")
    (bad / "truncated.dcm").write_bytes(good[0].read_bytes()[:5000])
    (bad / "empty.dcm").touch()
    pet = pydicom.dcmread(good[0])
    pet.Modality, pet.SOPClassUID = "PT", PositronEmissionTomographyImageStorage
    pet.file_meta.MediaStorageSOPClassUID = PositronEmissionTomographyImageStorage
    pet.save_as(bad / "pet.dcm")
    structure_set = of_animal(site, "M1") or site.tps.received()
    (bad / "structures.dcm").write_bytes(structure_set[0].read_bytes())
    bad.rename(site.node.watched / "bad")
    for name, why in {
        "notes.txt": "not a DICOM file",
        "truncated.dcm": "cut off",
        "empty.dcm": "empty",
        "pet.dcm": "Modality PT",
        "structures.dcm": "Modality RTSTRUCT",
    }.items():
        wait_for(lambda name=name: f"bad/{name} refused" in site.node.log(), 30, site.node.explain)
        line = next(ln for ln in site.node.log().splitlines() if f"bad/{name} refused" in ln)
        assert why in line
    site.node.storescu(good[0].parent)
    assert site.node.wait_row("M7")["outcome"] == "delivered"


def test_an_aborted_series_is_never_contoured_half(
    site: Site, make_thorax: Callable[[str], Path]
) -> None:
    """A sender that dies mid-series: refused after hold_s; sent again whole, contoured once."""
    series = make_thorax("8")
    half = sorted(series.iterdir())[:20]
    from pynetdicom import AE  # noqa: PLC0415
    from pynetdicom.sop_class import CTImageStorage  # noqa: PLC0415

    ae = AE("SCANNER")
    ae.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1")
    association = only_sends(ae.associate("127.0.0.1", site.node.port, ae_title="LIMN"))
    for path in half:
        assert association.send_c_store(pydicom.dcmread(path)).Status == 0
    association.abort()
    row = site.node.wait_row("M8", 30)
    assert row["outcome"] == "refused"
    assert "broke off after 20 slices" in row["reason"]
    site.node.storescu(series)
    wait_for(lambda: len(of_animal(site, "M8")) == 1, 60, site.node.explain)
