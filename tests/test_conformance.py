"""deploy/CONFORMANCE.md says what the code offers, on the wire and in a structure set."""

import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID, CTImageStorage, SegmentationStorage, UID_dictionary
from pynetdicom import (
    AE,
    DEFAULT_TRANSFER_SYNTAXES,
    PYNETDICOM_IMPLEMENTATION_UID,
    PYNETDICOM_IMPLEMENTATION_VERSION,
    build_context,
)
from pynetdicom.sop_class import _STORAGE_CLASSES, Verification

from limn.dicom import rtstruct
from limn.dicom.ct import CtIdentity
from limn.dicom.rtstruct import COPIED, Identity, Style
from limn.dicom.series import CT_CLASSES, LOSSY_SYNTAXES, assemble
from limn.dicom.volume import read_headers
from limn.domain.geometry import Grid
from limn.domain.scan import Labels, Volume
from limn.node.config import Receive
from limn.node.deliver import destinations
from limn.node.dimse import access, client, commitment, status
from limn.node.receive import returned, storage_scp
from limn.segment.draw.trace import trace
from tests.conftest import COLOURS, REPOSITORY, free_port, write_series
from tests.support.node.parts import Door
from tests.support.organs import Organ

PAGE = (REPOSITORY / "deploy" / "CONFORMANCE.md").read_text(encoding="utf-8")


def section(title: str, page: str = PAGE) -> str:
    """A section of the page with those below it."""
    level, _, _ = title.partition(" ")
    body = page.partition(f"\n{title}")[2]
    assert body, title
    return re.split(rf"\n#{{2,{len(level)}}} ", body)[0]


def uids(part: str) -> list[str]:
    """UIDs in a part of the page."""
    return re.findall(r"`(1\.2\.840[.\d]+)`", part)


CONTEXTS = section("### 3.2")
CLASSES, SYNTAXES = CONTEXTS.split("Transfer syntaxes")


def accepted(contexts: list[tuple[str, list[str]]], data_dir: Path) -> list[tuple[str, str]]:
    """What the receiver accepts of what a peer proposes: class and syntax of each context."""
    door = Door(data_dir)
    settings = Receive(port=free_port())
    server = storage_scp.listen(settings, door.intake, 0.1)
    try:
        found = []
        # One association carries 128 contexts.
        for start in range(0, len(contexts), 120):
            ae = AE(ae_title="SCANNER")
            ae.requested_contexts = [
                build_context(sop_class, syntaxes)
                for sop_class, syntaxes in contexts[start : start + 120]
            ]
            association = ae.associate("127.0.0.1", settings.port, ae_title="LIMN")
            found += [
                (str(each.abstract_syntax), str(each.transfer_syntax[0]))
                for each in association.accepted_contexts
            ]
            association.release() if association.is_established else association.abort()
        return found
    finally:
        server.shutdown()


def test_every_class_that_is_taken_is_on_the_page(tmp_path: Path) -> None:
    """A peer that proposes every storage class gets those of the page and no other."""
    every = [*map(str, _STORAGE_CLASSES.values()), str(Verification)]
    assert len(every) > 100
    found = accepted([(uid, DEFAULT_TRANSFER_SYNTAXES) for uid in every], tmp_path)
    assert {sop_class for sop_class, _ in found} == set(uids(CLASSES))


@pytest.mark.parametrize("sop_class", [*CT_CLASSES, returned.SOP_CLASS])
def test_every_syntax_that_is_taken_is_on_the_page(sop_class: UID, tmp_path: Path) -> None:
    """A peer proposes each transfer syntax in a context of its own."""
    every = [uid for uid, row in UID_dictionary.items() if row[1] == "Transfer Syntax"]
    found = accepted([(str(sop_class), [uid]) for uid in every], tmp_path)
    stated = uids(SYNTAXES)
    if sop_class == returned.SOP_CLASS:
        stated = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
    assert {syntax for _, syntax in found} == set(stated)


def test_commitment_is_on_the_page() -> None:
    """Its class and the syntaxes that are offered for it."""
    stated = uids(section("### 3.4"))
    assert stated == [str(commitment.SOP_CLASS), *map(str, reversed(commitment.SYNTAXES))]


def test_the_page_flags_the_lossy_syntaxes() -> None:
    """The page flags the syntaxes that the code flags as lossy."""
    flagged = [line for line in PAGE.splitlines() if "(flagged `lossy`" in line]
    assert {uids(line)[0] for line in flagged} == {str(syntax) for syntax in LOSSY_SYNTAXES}


def test_the_page_gives_the_defaults() -> None:
    """Every key with a value in brackets is a key of the config, with that default."""
    defaults = Receive()
    stated = dict(re.findall(r"`receive\.(\w+)` \(([^)]+)\)", PAGE))
    assert len(stated) >= 9
    for key, value in stated.items():
        assert str(getattr(defaults, key)) == value, key
    named = set(re.findall(r"`receive\.(\w+)(?:\.\w+)?`", PAGE))
    assert named == named & set(Receive.model_fields), "a key that the config does not have"


def test_the_page_gives_every_rejection() -> None:
    """Result, source and reason of PS3.8 9.3.4."""
    known = {value for name, value in vars(access).items() if name.isupper()}
    known = {value for value in known if isinstance(value, tuple)}
    stated = {tuple(map(int, each)) for each in re.findall(r"(\d)/(\d)/(\d)", section("### 3.1"))}
    assert stated == known


def test_the_page_gives_every_status() -> None:
    """What the receiver answers to C-STORE."""
    stated = {int(each, 16) for each in re.findall(r"^\| (0x\w{4}) \|", section("### 3.3"), re.M)}
    assert stated == {
        status.SUCCESS,
        status.DUPLICATE,
        status.OUT_OF_RESOURCES,
        status.CANNOT_UNDERSTAND,
    }


def test_the_page_gives_what_the_courier_does_with_answers() -> None:
    """Each row of the table, tried on the rule that decides."""
    rows = re.findall(r"^\| (.+?) \| (delivered|tries|anything)", section("## 4"), re.M)
    outcomes = {
        "delivered": destinations.Outcome.DELIVERED,
        "tries": destinations.Outcome.RETRY_LATER,
    }
    tried = 0
    for statuses, said in rows:
        for digits in re.findall(r"0x(\w{4})", statuses):
            for digit in "0AF":
                status = int(digits.replace("x", digit), 16)
                assert destinations.judge(status) is outcomes[said], hex(status)
                tried += 1
    assert tried >= 12
    for status in (0xA900, 0xC000, 0x0122, 0x0110):
        assert destinations.judge(status) is destinations.Outcome.REFUSED


def test_the_page_gives_what_the_courier_proposes() -> None:
    """Classes of the SCU, its PDU and how long it waits."""
    text = section("## 4")
    assert set(uids(text)) == {
        str(returned.SOP_CLASS),
        str(Verification),
        # Of the CT series that limn makes, and of segmentations.
        str(CTImageStorage),
        str(SegmentationStorage),
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1",
    }
    assert f"| {client.MAX_PDU} |" in text
    assert f"{client.CONNECT_S:g} s for the connection" in text
    assert f"{client.REPLY_S:g} s for an answer" in text
    assert f"... {destinations.LONGEST_WAIT_S:g} s" in text


def test_the_page_says_who_speaks() -> None:
    """Implementation class UID and version name, which change with pynetdicom."""
    assert f"`{PYNETDICOM_IMPLEMENTATION_UID}`" in PAGE
    assert f"`{PYNETDICOM_IMPLEMENTATION_VERSION}`" in PAGE


def test_the_page_lists_every_attribute_of_a_structure_set(tmp_path: Path) -> None:
    """Every attribute that is written is in a module's row; every attribute of a row exists."""
    grid = Grid(
        np.array([(0.0, 0.0, 0.2 * k) for k in range(5)]),
        12,
        14,
        0.2,
        0.1,
        np.array([1.0, 0, 0]),
        np.array([0, 1.0, 0]),
    )
    hu = np.zeros(grid.shape_zyx, np.float32)
    identity = CtIdentity("M1", "2.25.8", ("20260101", "120000"))
    series = assemble(read_headers(write_series(Volume(hu, grid), tmp_path, identity)))
    voxels = np.zeros(grid.shape_zyx, np.uint8)
    voxels[1:4, 3:8, 3:9] = 1
    labels = Labels(voxels, series.grid, dict(enumerate(Organ, 1)))
    contents = rtstruct.build(
        series,
        trace(labels).contours,
        labels.volumes_mm3(),
        Identity("2.25.81", "2.25.82", "20260102", "030405", "limn", "0.1", "t", "b", "2.25.80"),
        Style.of_organs(Organ, "Mus musculus", colours=COLOURS),
    )
    (tmp_path / "RS.dcm").write_bytes(contents)
    written = {element.keyword for element in pydicom.dcmread(tmp_path / "RS.dcm")}
    rows = re.findall(r"^\| [A-Z].*? \| (.+) \|$", section("## 9"), re.M)
    stated = set(re.findall(r"\b[A-Z][A-Za-z]+\b", " ".join(rows)))
    stated = {each for each in stated if pydicom.datadict.tag_for_keyword(each)}
    assert written - stated == set()
    inside = {"ROIDisplayColor"}
    assert stated - written - set(COPIED) - inside == set()
    assert set(COPIED) <= stated, "what is copied from a CT that has it"


def test_of_several_syntaxes_the_page_says_which_is_taken(tmp_path: Path) -> None:
    """The first one on the page, not the first one of the sender."""
    proposed = ["1.2.840.10008.1.2.4.103", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.1"]
    (only,) = accepted([(str(CT_CLASSES[0]), proposed)], tmp_path)
    assert only[1] == "1.2.840.10008.1.2.1"
    assert "of several in one context the one that stands here first is taken" in SYNTAXES
