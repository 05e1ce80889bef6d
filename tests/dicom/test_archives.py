"""Archives of other makers accept the structure set, however the animal lies."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from limn.dicom import rtstruct
from limn.domain.geometry import SpacingMm
from limn.domain.scan import Labels, Volume
from limn.lab.phantoms.orientation import restack
from limn.node.dimse.client import Peer, store
from limn.phantom.anatomy import conceive
from limn.phantom.scanner import Scanner, scan
from tests.conftest import free_port, require_peer
from tests.dicom.test_orientation_table import build
from tests.support.node.running import ENVIRONMENT, Orthanc, wait_for

pytestmark = pytest.mark.peer

CONFIG = """\
NetworkTCPPort = {port}
MaxPDUSize = 131072
MaxAssociations = 4
HostTable BEGIN
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
ARCHIVE {folder} RW (200, 1024mb) ANY
AETable END
"""


@dataclass(frozen=True)
class Archives:
    """Orthanc and dcmtk's dcmqrscp."""

    orthanc: Orthanc
    dcmqrscp_port: int
    dcmqrscp_folder: Path


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archives]:
    """Both, running."""
    folder = tmp_path_factory.mktemp("archives")
    orthanc = Orthanc(folder / "orthanc")
    images, port = folder / "images", free_port()
    images.mkdir()
    (folder / "dcmqrscp.cfg").write_text(CONFIG.format(port=port, folder=images))
    process = subprocess.Popen(
        [require_peer("/usr/bin/dcmqrscp"), "-c", str(folder / "dcmqrscp.cfg")], env=ENVIRONMENT
    )
    yield Archives(orthanc, port, images)
    for each in (process, orthanc.process):
        each.terminate()
        each.wait()


@pytest.fixture(scope="module")
def small() -> tuple[Volume, Labels]:
    """A small mouse."""
    return scan(conceive(11), Scanner(SpacingMm(0.6, 0.6, 0.6), (48, 44, 50)), 11)


@pytest.mark.parametrize(
    ("position", "stack"), [("HFS", "axial"), ("FFP", "coronal"), ("HFDR", "sagittal")]
)
def test_orthanc_and_dcmqrscp_accept_it(
    position: str,
    stack: str,
    small: tuple[Volume, Labels],
    archives: Archives,
    tmp_path: Path,
) -> None:
    """Both answer with status 0x0000 and have it afterwards."""
    volume, labels = restack(*small, position, stack)
    _, path, _ = build(volume, labels, tmp_path, position)
    ds = rtstruct.read(path.read_bytes())
    uid = f"2.25.9{abs(hash((position, stack))) % 10**9}"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
    held = len(list(archives.dcmqrscp_folder.glob("*.dcm")))
    for title, port in (("ORTHANC", archives.orthanc.port), ("ARCHIVE", archives.dcmqrscp_port)):
        assert list(store(Peer(title, "127.0.0.1", port, "LIMN"), [ds])) == [0x0000]
    assert uid in [tags["SOPInstanceUID"] for tags in archives.orthanc.structure_sets()]
    wait_for(lambda: len(list(archives.dcmqrscp_folder.glob("*.dcm"))) == held + 1, 10)
