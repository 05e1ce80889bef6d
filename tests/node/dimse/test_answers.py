"""Every refusal and every status has words, compared with the tables that pynetdicom has."""

import itertools

import pytest
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from limn.node.dimse.answers import answer_words, rejection_words, status_words


def said_by_pynetdicom(source, reason):
    """What pynetdicom calls a reason; empty where PS3.8 table 9-21 has none."""
    pdu = A_ASSOCIATE_RJ()
    pdu.result, pdu.source, pdu.reason_diagnostic = 1, source, reason
    try:
        return pdu.reason_str.replace("recognised", "recognized")
    except ValueError:
        return ""


@pytest.mark.parametrize(("source", "reason"), list(itertools.product(range(5), range(12))))
def test_each_reason_of_a_rejection_has_its_own_words(source, reason):
    """Those that the standard names by their names; the others as not defined."""
    words = rejection_words(source, reason, calling="LIMN", called="TPS")
    name = said_by_pynetdicom(source, reason)
    if name in ("", "Reserved"):
        assert "a reason that DICOM does not define" in words
        assert f"source {source}, reason {reason}" in words
    else:
        assert name.lower().replace("no reason given", "no reason") in words.lower()


def test_a_wrong_title_names_who_calls_whom_and_where_to_look():
    """Both titles, without the blanks that fill them."""
    called = rejection_words(1, 7, calling="LIMN   ", called="TPS   ")
    assert called.startswith("called AE title not recognized: this node calls it TPS; compare the")
    calling = rejection_words(1, 3, calling="LIMN   ", called="TPS")
    assert "this node calls itself LIMN; register LIMN there" in calling


def test_no_answer_at_all_is_no_fault():
    """A peer that pynetdicom did not understand."""
    words = rejection_words(None, None, calling="LIMN", called="TPS", is_transient=True)
    assert words.startswith("rejected for now")


def test_each_status_of_storage_has_words():
    """Success and warnings say that the peer has the file, failures never do."""
    for status, (category, _) in STORAGE_SERVICE_CLASS_STATUS.items():
        words = status_words(status)
        if "DICOM does not define" in words:
            # Of other services: they speak of attributes, events and actions.
            assert 0x0105 <= status <= 0x0123 or status == 0xFE00, hex(status)
        elif status != 0x0111:
            assert ("has the file" in words) == (category in ("Success", "Warning")), hex(status)


def test_an_answer_of_the_journal_keeps_its_text():
    """A status gets its words, what is no status stays."""
    assert answer_words("0xA700") == (
        "0xA700, out of resources: make room on its disk; limn tries again by itself"
    )
    assert answer_words("0x0122").endswith("let it take RT Structure Set Storage")
    assert answer_words("0x0000 as 2.25.7") == "0x0000 as 2.25.7, success: it has the file"
    assert answer_words("written") == "written"
    assert answer_words("TPS@h:104 does not answer") == "TPS@h:104 does not answer"
