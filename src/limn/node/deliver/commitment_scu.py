"""Storage commitment as SCU: asks whether a destination keeps the structure sets it accepted."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence

from pydicom.dataset import Dataset
from pynetdicom import evt

from limn.dicom.bounded import DAMAGES
from limn.domain.errors import ConfigWrong, PeerUnreachable
from limn.node.config import DicomDestination, FolderDestination
from limn.node.dimse.client import Peer, associate, deadline
from limn.node.dimse.commitment import (
    ANSWER_S,
    MAX_AGAIN,
    REPORT_WAIT_S,
    REQUEST,
    SOP_CLASS,
    SYNTAXES,
    WELL_KNOWN,
    Item,
    items_of,
    request_of,
    transaction_of,
)
from limn.node.dimse.status import INVALID_ARGUMENT, SUCCESS
from limn.node.store.journal.journal import Journal

log = logging.getLogger(__name__)


class CommitmentRequester:
    """Asks destinations to commit to what they accepted, and handles their reports.

    Attributes
    ----------
    stopping : set when the node stops; no association stays open long after that
    """

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
        self.stopping = threading.Event()
        self._resends: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def wants(self, destination: str) -> bool:
        """Whether this destination is asked for a commitment."""
        return destination in self._destinations

    def ask_soon(self, destination: str, item: Item) -> None:
        """Ask in a thread, so that a delivery does not wait for the answer."""
        threading.Thread(
            target=self._ask, args=(destination, item), name="commitment", daemon=True
        ).start()

    def on_n_event_report(self, event: evt.Event) -> tuple[int, None]:
        """Handle an N-EVENT-REPORT, on our association or on one of the peer's."""
        peer = event.assoc.acceptor if event.assoc.is_requestor else event.assoc.requestor
        try:
            self.handle_report(str(peer.ae_title).strip(), event.event_information)
        except DAMAGES as error:
            log.warning("commitment report of %s: %s", peer.ae_title, error)
            return INVALID_ARGUMENT, None
        return SUCCESS, None

    def handle_report(self, ae_title: str, report: Dataset) -> None:
        """Log what a peer commits to, and offer again what it does not keep."""
        names = [
            name for name, each in self._destinations.items() if each.ae_title.strip() == ae_title
        ]
        answered = [(item, "") for item in items_of(report)]
        answered += [
            (
                Item(str(each.ReferencedSOPClassUID), str(each.ReferencedSOPInstanceUID)),
                f"0x{int(each.get('FailureReason') or 0):04X}",
            )
            for each in report.get("FailedSOPSequence") or ()
        ]
        for item, reason in answered:
            destinations = [
                name
                for name in names
                if report.get("TransactionUID") == transaction_of(item.sop_instance_uid, name)
            ]
            row = self._journal.scan_of_structure_set(item.sop_instance_uid)
            if not destinations or row is None:
                log.warning("%s reports a commitment that nobody asked for", ae_title)
                continue
            shown = f"{row.name} animal {row.animal}"
            if not reason:
                log.info("%s: %s has committed to it", shown, destinations[0])
            else:
                self._resend(row.id, shown, destinations[0], item, reason)

    def _resend(self, scan: int, shown: str, name: str, item: Item, reason: str) -> None:
        with self._lock:
            self._resends[name, item.sop_instance_uid] += 1
            count = self._resends[name, item.sop_instance_uid]
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

        def on_report(event: evt.Event) -> tuple[int, None]:
            answer = self.on_n_event_report(event)
            answered.set()
            return answer

        until = deadline(self.stopping, REPORT_WAIT_S)
        request = request_of([item], transaction_of(item.sop_instance_uid, name))
        try:
            association = associate(
                peer,
                [(SOP_CLASS, SYNTAXES[0])],
                handlers=[(evt.EVT_N_EVENT_REPORT, on_report)],
                until=until,
            )
            try:
                status, _ = association.send_n_action(request, REQUEST, SOP_CLASS, WELL_KNOWN)
                if status.get("Status") != SUCCESS:
                    why = until.why or status.get("Status")
                    log.error("%s takes no commitment request: %s", peer, why)
                    return
                # A report that does not come now comes later, to our own port.
                if answered.wait(REPORT_WAIT_S):
                    # Our answer goes out after the handler; a release before that would lose it.
                    time.sleep(ANSWER_S)
            finally:
                association.release()
        except (PeerUnreachable, ConfigWrong, RuntimeError, ValueError) as error:
            log.error("%s could not be asked for its commitment: %s", peer, error)
