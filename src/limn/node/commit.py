"""Storage commitment (PS3.4 annex J): who sent us a CT asks whether we have it, we ask likewise.

limn is no archive: it commits to what lies in its spool, until retention takes it. A report goes
to the peer that `receive.commitment` names, over an association of its own, or else back on the
association that asked. What is asked and not yet answered is not kept over a restart: whoever
hears nothing asks again (J.3.2).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from limn.dicom.bounded import DAMAGES, read
from limn.dicom.uids import uid_from
from limn.domain.errors import ConfigWrong, LimnError, PeerUnreachable
from limn.node.config import CommitmentPeer, DicomDestination, FolderDestination
from limn.node.deliver import Peer, associate
from limn.node.journal import Journal
from limn.node.spool import Spool

log = logging.getLogger(__name__)

SOP_CLASS = UID(StorageCommitmentPushModel)
# The one instance that everybody asks (PS3.4 J.3.5).
WELL_KNOWN = UID("1.2.840.10008.1.20.1.1")
SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian]

SUCCESS = 0x0000
NO_SUCH_INSTANCE = 0x0112
CLASS_INSTANCE_CONFLICT = 0x0119
NO_SUCH_ACTION = 0x0123
INVALID_ARGUMENT = 0x0115
RESOURCE_LIMITATION = 0x0213
REQUEST, ALL_COMMITTED, SOME_FAILED = 1, 1, 2

MAX_ITEMS = 100_000
MAX_WAITING = 64
TRIES = 5
REPORT_WAIT_S = 10.0
ANSWER_S = 0.5
# A peer that takes a file and keeps it not: so often it gets it again.
MAX_AGAIN = 3


@dataclass(frozen=True, slots=True)
class Item:
    """One instance that somebody asks about."""

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
    ds.ReferencedSOPSequence = [_reference(item) for item in items]
    return ds


def report_of(
    transaction_uid: str, committed: Sequence[Item], failed: Sequence[tuple[Item, int]]
) -> tuple[int, Dataset]:
    """Event Type ID and Event Information (PS3.4 table J.3-2)."""
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    if committed:
        ds.ReferencedSOPSequence = [_reference(item) for item in committed]
    if failed:
        references = []
        for item, reason in failed:
            references.append(_reference(item))
            references[-1].FailureReason = reason
        ds.FailedSOPSequence = references
    return (SOME_FAILED if failed else ALL_COMMITTED), ds


def transaction_of(sop_instance_uid: str, destination: str) -> str:
    """The Transaction UID of our own request: it follows from what is asked of whom."""
    return uid_from(f"commitment {sop_instance_uid} {destination}")


class Provider:
    """Answers those who ask whether we have what they sent."""

    def __init__(
        self, spool: Spool, peers: Sequence[CommitmentPeer], calling_ae_title: str
    ) -> None:
        self._spool = spool
        self._peers = {peer.ae_title.strip(): peer for peer in peers}
        self._calling_ae_title = calling_ae_title
        self._asked: queue.Queue[tuple[Association, str, list[Item]]] = queue.Queue(MAX_WAITING)
        threading.Thread(target=self._run, name="commitment", daemon=True).start()

    def asked(self, event: evt.Event) -> tuple[int, None]:
        """N-ACTION: taken, to be answered by an N-EVENT-REPORT."""
        if event.action_type != REQUEST:
            return NO_SUCH_ACTION, None
        if getattr(event.request, "RequestedSOPInstanceUID", None) != WELL_KNOWN:
            return NO_SUCH_INSTANCE, None
        try:
            information = event.action_information
            transaction_uid, items = str(information.TransactionUID), items_of(information)
            if not items or not transaction_uid:
                raise ValueError("it names no instance or no transaction")
        except DAMAGES as error:
            log.warning("commitment request of %s: %s", event.assoc.requestor.ae_title, error)
            return INVALID_ARGUMENT, None
        if len(items) > MAX_ITEMS:
            return RESOURCE_LIMITATION, None
        try:
            self._asked.put_nowait((event.assoc, transaction_uid, items))
        except queue.Full:
            return RESOURCE_LIMITATION, None
        return SUCCESS, None

    def _run(self) -> None:
        while True:
            association, transaction_uid, items = self._asked.get()
            who = str(association.requestor.ae_title).strip()
            committed, failed = self._held(items)
            event_type, information = report_of(transaction_uid, committed, failed)
            try:
                self._report(association, who, event_type, information)
            except (LimnError, *DAMAGES) as error:
                log.error(
                    "commitment report to %s not delivered: %s; it may ask again, or be named in "
                    "receive.commitment",
                    who,
                    error,
                )
            else:
                log.info("committed to %d of %d instances of %s", len(committed), len(items), who)

    def _held(self, items: Sequence[Item]) -> tuple[list[Item], list[tuple[Item, int]]]:
        """Which of them lie in the spool, and why not the others (FailureReason)."""
        committed, failed = [], []
        folders = list(self._spool.folders())
        for item in items:
            name = self._spool.file_name(item.sop_instance_uid)
            found = next((folder for folder in folders if (folder / name).exists()), None)
            reason = NO_SUCH_INSTANCE if found is None else _why_not(found / name, item)
            if found is not None:
                # The next one probably lies beside it.
                folders.remove(found)
                folders.insert(0, found)
            if reason == SUCCESS:
                committed.append(item)
            else:
                failed.append((item, reason))
        return committed, failed

    def _report(
        self, association: Association, who: str, event_type: int, information: Dataset
    ) -> None:
        peer = self._peers.get(who)
        if peer is None:
            _send_report(association, event_type, information)
            return
        for attempt in range(1, TRIES + 1):
            try:
                own = associate(
                    Peer(peer.ae_title, peer.host, peer.port, self._calling_ae_title, peer.tls),
                    [(SOP_CLASS, syntax) for syntax in SYNTAXES[:1]],
                    # We ask for the association and are the SCP on it (PS3.7 D.3.3.4).
                    roles=[build_role(SOP_CLASS, scp_role=True)],
                )
                try:
                    _send_report(own, event_type, information)
                finally:
                    own.release()
                return
            except PeerUnreachable:
                if attempt == TRIES:
                    raise
                time.sleep(2.0**attempt)


def _send_report(association: Association, event_type: int, information: Dataset) -> None:
    try:
        status, _ = association.send_n_event_report(information, event_type, SOP_CLASS, WELL_KNOWN)
    except (RuntimeError, ValueError) as error:
        msg = f"the association is over or takes no report: {error}"
        raise PeerUnreachable(msg) from error
    if status.get("Status") != SUCCESS:
        msg = f"answered {status.get('Status', 'nothing')}"
        raise PeerUnreachable(msg)


def _why_not(path: Path, item: Item) -> int:
    """0 if the file is that instance of that class, else a FailureReason."""
    try:
        header = read(path, stop_before_pixels=True)
    except (InvalidDicomError, *DAMAGES):
        return NO_SUCH_INSTANCE
    if header.get("SOPInstanceUID") != item.sop_instance_uid:
        return NO_SUCH_INSTANCE
    if header.get("SOPClassUID") != item.sop_class_uid:
        return CLASS_INSTANCE_CONFLICT
    return SUCCESS


class Requester:
    """Asks destinations to commit to what they took, and hears what they say."""

    def __init__(
        self,
        journal: Journal,
        destinations: Sequence[DicomDestination | FolderDestination],
        calling_ae_title: str,
    ) -> None:
        self._journal = journal
        self._destinations = {
            each.name: each
            for each in destinations
            if isinstance(each, DicomDestination) and each.commitment
        }
        self._calling_ae_title = calling_ae_title
        self._again: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def wants(self, destination: str) -> bool:
        """Whether this destination is asked."""
        return destination in self._destinations

    def ask_soon(self, destination: str, item: Item) -> None:
        """Ask in a thread: a delivery waits for nobody's promise."""
        threading.Thread(
            target=self._ask, args=(destination, item), name="commitment", daemon=True
        ).start()

    def heard(self, event: evt.Event) -> tuple[int, None]:
        """N-EVENT-REPORT, on our association or on one of the peer's."""
        who = event.assoc.acceptor if event.assoc.is_requestor else event.assoc.requestor
        try:
            self.note(str(who.ae_title).strip(), event.event_information)
        except DAMAGES as error:
            log.warning("commitment report of %s: %s", who.ae_title, error)
            return INVALID_ARGUMENT, None
        return SUCCESS, None

    def note(self, who: str, report: Dataset) -> None:
        """Log what a peer has committed to; what it has not is offered again."""
        names = [name for name, each in self._destinations.items() if each.ae_title.strip() == who]
        answered = [(item, "") for item in items_of(report)]
        answered += [
            (
                Item(str(each.ReferencedSOPClassUID), str(each.ReferencedSOPInstanceUID)),
                f"0x{int(each.get('FailureReason') or 0):04X}",
            )
            for each in report.get("FailedSOPSequence") or ()
        ]
        for item, reason in answered:
            asked = [
                name
                for name in names
                if report.get("TransactionUID") == transaction_of(item.sop_instance_uid, name)
            ]
            row = self._journal.scan_of_structure_set(item.sop_instance_uid)
            if not asked or row is None:
                log.warning("%s reports a commitment that nobody asked for", who)
            elif not reason:
                log.info("%s animal %s: %s has committed to it", row.name, row.animal, asked[0])
            else:
                self._offer_again(row.id, f"{row.name} animal {row.animal}", asked[0], item, reason)

    def _offer_again(self, scan: int, shown: str, name: str, item: Item, reason: str) -> None:
        with self._lock:
            self._again[name, item.sop_instance_uid] += 1
            count = self._again[name, item.sop_instance_uid]
        if count > MAX_AGAIN:
            log.error(
                "%s: %s took the structure set %d times and does not keep it (%s); look there, "
                "then limn resend",
                shown,
                name,
                count,
                reason,
            )
            return
        log.error("%s: %s does NOT keep the structure set (%s); sent again", shown, name, reason)
        self._journal.resend(scan, [name], time.time())

    def _ask(self, name: str, item: Item) -> None:
        destination = self._destinations[name]
        peer = Peer(
            destination.ae_title,
            destination.host,
            destination.port,
            self._calling_ae_title,
            destination.tls,
        )
        answered = threading.Event()

        def heard(event: evt.Event) -> tuple[int, None]:
            answer = self.heard(event)
            answered.set()
            return answer

        request = request_of([item], transaction_of(item.sop_instance_uid, name))
        try:
            association = associate(
                peer, [(SOP_CLASS, SYNTAXES[0])], handlers=[(evt.EVT_N_EVENT_REPORT, heard)]
            )
            try:
                status, _ = association.send_n_action(request, REQUEST, SOP_CLASS, WELL_KNOWN)
                if status.get("Status") != SUCCESS:
                    log.error("%s takes no commitment request: %s", peer, status.get("Status"))
                    return
                # Or it comes later, to our own port.
                if answered.wait(REPORT_WAIT_S):
                    # Our answer to it goes out after the handler; released sooner it is lost.
                    time.sleep(ANSWER_S)
            finally:
                association.release()
        except (PeerUnreachable, ConfigWrong, RuntimeError, ValueError) as error:
            log.error("%s could not be asked for its commitment: %s", peer, error)


def offer(ae: AE) -> None:
    """The contexts, as provider and for reports that come on a peer's association."""
    ae.add_supported_context(SOP_CLASS, SYNTAXES, scu_role=True, scp_role=True)


def _reference(item: Item) -> Dataset:
    ds = Dataset()
    ds.ReferencedSOPClassUID = item.sop_class_uid
    ds.ReferencedSOPInstanceUID = item.sop_instance_uid
    return ds
