"""Storage commitment as SCP: limn reports which instances lie in its spool."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pynetdicom import build_role, evt
from pynetdicom.association import Association

from limn.dicom.bounded import DAMAGES, read
from limn.domain.errors import LimnError, PeerUnreachable
from limn.node.config import CommitmentPeer
from limn.node.dimse.client import Peer, associate
from limn.node.dimse.commitment import (
    REQUEST,
    SOP_CLASS,
    SYNTAXES,
    WELL_KNOWN,
    Item,
    items_of,
    report_of,
)
from limn.node.dimse.status import (
    CLASS_INSTANCE_CONFLICT,
    INVALID_ARGUMENT,
    NO_SUCH_ACTION,
    NO_SUCH_INSTANCE,
    RESOURCE_LIMITATION,
    SUCCESS,
)
from limn.node.store.disk.spool import Spool

log = logging.getLogger(__name__)

# Ten times the largest series; a request keeps one core busy for seconds at most.
MAX_ITEMS = 10_000
# An item has two UIDs of at most 64 characters.
MAX_ITEM_BYTES = 200
# So few files are asked for one by one; for more of them a folder is listed.
FEW = 20
MAX_WAITING = 64
TRIES = 5


class CommitmentProvider:
    """Answers the senders' requests for storage commitment.

    Parameters
    ----------
    damaged : which files of a folder are not as they were received
    """

    def __init__(
        self,
        spool: Spool,
        damaged: Callable[[Path, Collection[str]], Collection[str]],
        peers: Sequence[CommitmentPeer],
        calling_ae_title: str,
    ) -> None:
        self._spool = spool
        self._damaged = damaged
        self._peers = {peer.ae_title.strip(): peer for peer in peers}
        self._calling_ae_title = calling_ae_title
        self._free = threading.Semaphore(MAX_WAITING)
        # The spool is gone through for one request at a time.
        self._looking = threading.Lock()

    def on_n_action(self, event: evt.Event) -> tuple[int, None]:
        """Take a request; the answer is an N-EVENT-REPORT."""
        if event.action_type != REQUEST:
            return NO_SUCH_ACTION, None
        if getattr(event.request, "RequestedSOPInstanceUID", None) != WELL_KNOWN:
            return NO_SUCH_INSTANCE, None
        try:
            asked = _asked(event)
        except DAMAGES as error:
            log.warning("commitment request of %s: %s", event.assoc.requestor.ae_title, error)
            return INVALID_ARGUMENT, None
        if asked is None:
            log.warning(
                "commitment request of %s refused: it names more than %d instances; let it ask "
                "in parts",
                event.assoc.requestor.ae_title,
                MAX_ITEMS,
            )
            return RESOURCE_LIMITATION, None
        return SUCCESS if self._begin(event.assoc, *asked) else RESOURCE_LIMITATION, None

    def _begin(self, association: Association, transaction_uid: str, items: list[Item]) -> bool:
        """Answer a request in a thread of its own; False if too many run, or none is left.

        So a peer that says nothing holds up no other peer's report.
        """
        if not self._free.acquire(blocking=False):
            return False
        thread = threading.Thread(
            target=self._answer,
            args=(association, transaction_uid, items),
            name="commitment",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:
            self._free.release()
            return False
        return True

    def _answer(self, association: Association, transaction_uid: str, items: list[Item]) -> None:
        ae_title = str(association.requestor.ae_title).strip()
        try:
            with self._looking:
                committed, failed = self._check(items)
            event_type, information = report_of(transaction_uid, committed, failed)
            self._report(association, ae_title, event_type, information)
        except (LimnError, *DAMAGES) as error:
            log.error(
                "commitment report to %s not delivered: %s; it may ask again, or be named in "
                "receive.commitment",
                ae_title,
                error,
            )
        else:
            log.info("committed to %d of %d instances of %s", len(committed), len(items), ae_title)
        finally:
            self._free.release()

    def _check(self, items: Sequence[Item]) -> tuple[list[Item], list[tuple[Item, int]]]:
        """Which instances lie in the spool as they came; for the others the FailureReason.

        A sender may delete what limn commits to (PS3.4 J.3.2.1.1).
        """
        committed, failed = [], []
        names = [self._spool.file_name(item.sop_instance_uid) for item in items]
        folders = self._folders_of(set(names))
        damaged = {
            folder: self._damaged(folder, [name for name, own in folders.items() if own == folder])
            for folder in set(folders.values())
        }
        for item, name in zip(items, names, strict=True):
            found = folders.get(name)
            reason = NO_SUCH_INSTANCE if found is None else _failure_reason(found / name, item)
            if found is not None and name in damaged[found]:
                reason = NO_SUCH_INSTANCE
            if reason == SUCCESS:
                committed.append(item)
            else:
                failed.append((item, reason))
        return committed, failed

    def _folders_of(self, names: set[str]) -> dict[str, Path]:
        """The folder of each file that lies in the spool; the spool is gone through once."""
        found: dict[str, Path] = {}
        # A request mostly follows its series.
        for folder in sorted(self._spool.folders(), key=_changed_at, reverse=True):
            left = names - found.keys()
            if not left:
                break
            if len(left) <= FEW:
                here = {name for name in left if (folder / name).exists()}
            else:
                here = left.intersection(_listed(folder))
            found |= dict.fromkeys(here, folder)
        return found

    def _report(
        self, association: Association, ae_title: str, event_type: int, information: Dataset
    ) -> None:
        peer = self._peers.get(ae_title)
        if peer is None:
            _send_report(association, event_type, information)
            return
        for attempt in range(1, TRIES + 1):
            try:
                own = associate(
                    Peer(peer.ae_title, peer.host, peer.port, self._calling_ae_title, peer.tls),
                    [(SOP_CLASS, syntax) for syntax in SYNTAXES[:1]],
                    # limn requests the association and is the SCP on it (PS3.7 D.3.3.4).
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


def _asked(event: evt.Event) -> tuple[str, list[Item]] | None:
    """Transaction and instances of a request; None if they are too many."""
    encoded = getattr(event.request, "ActionInformation", None)
    if encoded is not None and len(encoded.getbuffer()) > MAX_ITEMS * MAX_ITEM_BYTES:
        # Not decoded: that would be most of the work.
        return None
    information = event.action_information
    transaction_uid, items = str(information.TransactionUID), items_of(information)
    if not items or not transaction_uid:
        raise ValueError("it names no instance or no transaction")
    return None if len(items) > MAX_ITEMS else (transaction_uid, items)


def _changed_at(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        # Retention has just removed it.
        return 0.0


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names, of which most are not looked at
    except OSError:
        return []


def _failure_reason(path: Path, item: Item) -> int:
    """SUCCESS if the file is that instance of that class, else a FailureReason."""
    try:
        header = read(path, stop_before_pixels=True)
    except (InvalidDicomError, *DAMAGES):
        return NO_SUCH_INSTANCE
    if header.get("SOPInstanceUID") != item.sop_instance_uid:
        return NO_SUCH_INSTANCE
    if header.get("SOPClassUID") != item.sop_class_uid:
        return CLASS_INSTANCE_CONFLICT
    return SUCCESS
