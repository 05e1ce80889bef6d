"""Storage commitment (PS3.4 annex J): the data sets and words that both sides share.

limn is no archive: it commits to what lies in its spool, until retention removes it. A report goes
to the peer that `receive.commitment` names, over an association of its own, or else back on the
association of the request. Requests that are not answered yet are lost at a restart: a peer that
gets no report requests again (J.3.2).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from limn.dicom.uids import uid_from

log = logging.getLogger(__name__)

SOP_CLASS = UID(StorageCommitmentPushModel)
# The one instance that every request addresses (PS3.4 J.3.5).
WELL_KNOWN = UID("1.2.840.10008.1.20.1.1")
SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian]

REQUEST, ALL_COMMITTED, SOME_FAILED = 1, 1, 2

REPORT_WAIT_S = 10.0
ANSWER_S = 0.5
# So often a peer gets a file again that it accepted and did not keep.
MAX_AGAIN = 3


@dataclass(frozen=True, slots=True)
class Item:
    """One instance that a request names."""

    sop_class_uid: str
    sop_instance_uid: str


def items_of(ds: Dataset, keyword: str = "ReferencedSOPSequence") -> list[Item]:
    """The instances that a request or a report names."""
    return [
        Item(str(each.ReferencedSOPClassUID), str(each.ReferencedSOPInstanceUID))
        for each in ds.get(keyword) or ()
    ]


def request_of(items: Sequence[Item], transaction_uid: str) -> Dataset:
    """Action Information (PS3.4 table J.3-1)."""
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    ds.ReferencedSOPSequence = [reference(item) for item in items]
    return ds


def report_of(
    transaction_uid: str, committed: Sequence[Item], failed: Sequence[tuple[Item, int]]
) -> tuple[int, Dataset]:
    """Event Type ID and Event Information (PS3.4 table J.3-2)."""
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    if committed:
        ds.ReferencedSOPSequence = [reference(item) for item in committed]
    if failed:
        references = []
        for item, reason in failed:
            references.append(reference(item))
            references[-1].FailureReason = reason
        ds.FailedSOPSequence = references
    return (SOME_FAILED if failed else ALL_COMMITTED), ds


def transaction_of(sop_instance_uid: str, destination: str) -> str:
    """The Transaction UID of limn's own request, which follows from instance and destination."""
    return uid_from(f"commitment {sop_instance_uid} {destination}")


def offer(ae: AE) -> None:
    """Support the contexts, as SCP and for reports on an association that the peer requested."""
    ae.add_supported_context(SOP_CLASS, SYNTAXES, scu_role=True, scp_role=True)


def reference(item: Item) -> Dataset:
    """An item of Referenced SOP Sequence."""
    ds = Dataset()
    ds.ReferencedSOPClassUID = item.sop_class_uid
    ds.ReferencedSOPInstanceUID = item.sop_instance_uid
    return ds
