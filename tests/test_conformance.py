"""deploy/CONFORMANCE.md says what the code offers."""

import re

from pydicom.uid import RTStructureSetStorage
from pynetdicom.sop_class import Verification

from limn.dicom.series import CT_CLASSES, LOSSY_SYNTAXES
from limn.dicom.volume import TRANSFER_SYNTAXES
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "deploy" / "CONFORMANCE.md").read_text()


def uids(part: str) -> list[str]:
    """UIDs in a part of the page."""
    return re.findall(r"`(1\.2\.840[.\d]+)`", part)


def test_the_page_lists_what_is_offered() -> None:
    """Classes and transfer syntaxes of the page are those of the code, no more and no fewer."""
    receiver, sender = PAGE.split("## As a sender")
    classes, syntaxes = receiver.split("Transfer syntaxes")
    assert set(uids(classes)) == {
        *map(str, CT_CLASSES),
        str(Verification),
        str(RTStructureSetStorage),
    }
    assert uids(syntaxes) == [str(syntax) for syntax in TRANSFER_SYNTAXES]
    assert uids(sender) == [str(RTStructureSetStorage)]


def test_the_page_flags_the_lossy_syntaxes() -> None:
    """What the code flags as lossy the page does too."""
    flagged = [line for line in PAGE.splitlines() if "(flagged `lossy`" in line]
    assert {uids(line)[0] for line in flagged} == {str(syntax) for syntax in LOSSY_SYNTAXES}
