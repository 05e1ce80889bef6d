"""Sends one phantom to the running node, and waits for what becomes of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from pydicom.dataset import Dataset
from pydicom.uid import UID

from limn.domain.errors import ConfigWrong, LimnError, PeerUnreachable
from limn.node.commissioning import COMMISSIONING
from limn.node.config import Config, DicomDestination, PeerTls
from limn.node.deliver.destinations import Outcome, judge
from limn.node.dimse.client import ClassNotAccepted, Peer, peer_of, store
from limn.node.host.doorbell import send_wake
from limn.node.operate.journal_access import journal_to_change, journal_to_read
from limn.node.store.disk import scanlog
from limn.node.store.journal.reader import JournalReader
from limn.node.store.journal.rows import ScanRow

CALLING_AE = "COMMISSION"
POLL_S = 0.25
# Beyond the node's own deadlines: a queue, a slow disk.
GRACE_S = 60.0
# Of the scan log; a commissioning alone has no more rows on their way.
LAST_ROWS = 50
HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - it is called, not bound
WHY = "a phantom of limn commission"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanEnd:
    """What became of a phantom.

    Attributes
    ----------
    outcome : "delivered", "held", "refused", "failed", as in the scan log; "refused at the door" if
        no instance was taken; "lost" if nothing was heard of it
    row : of the scan log; empty where there is none
    picture : that the node drew; None if there is none
    contents : structure sets that it wrote and holds back
    """

    outcome: str
    scan: str = ""
    reason: str = ""
    row: dict[str, str] = field(default_factory=dict)
    picture: Path | None = None
    contents: tuple[bytes, ...] = ()


def node_peer(config: Config, calling: str | None) -> Peer:
    """The running node, as a scanner on this host calls it."""
    receive = config.receive
    title = calling or next(iter(receive.calling_ae), CALLING_AE)
    tls = None
    if receive.tls is not None:
        given = receive.tls
        tls = PeerTls(
            certificate=given.certificate,
            key=given.key,
            ca=given.ca,
            server_name=_named_in(given.certificate),
        )
    host = HERE.get(receive.host, receive.host)
    return Peer(receive.ae_title, host, receive.port, title, tls)


def _named_in(certificate: Path) -> str:
    """The first host that the node's own certificate names: it is this one, by whatever name."""
    try:
        names = (
            x509.load_pem_x509_certificate(certificate.read_bytes())
            .extensions.get_extension_for_class(x509.SubjectAlternativeName)
            .value
        )
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        msg = f"receive.tls.certificate {certificate} can't be read: {error}"
        raise ConfigWrong(msg) from error
    return next(iter(names.get_values_for_type(x509.DNSName)), "localhost")


def send(peer: Peer, datasets: Sequence[Dataset]) -> int:
    """Send every instance over one association; returns how many were taken.

    Raises
    ------
    ConfigWrong
        If the node does not answer or takes no association.
    """
    by_context: dict[tuple[str, UID], list[Dataset]] = {}
    for ds in datasets:
        context = (str(ds.SOPClassUID), UID(ds.file_meta.TransferSyntaxUID))
        by_context.setdefault(context, []).append(ds)
    ordered = [ds for each in by_context.values() for ds in each]
    try:
        answers = list(store(peer, ordered))
    except ClassNotAccepted:
        return 0
    except PeerUnreachable as error:
        msg = f"{error}; is the node running? `limn serve --config C`, and `limn queue --config C`"
        raise ConfigWrong(msg) from error
    return sum(judge(status) is Outcome.DELIVERED for status in answers)


def send_images(config: Config, name: str, datasets: Sequence[Dataset]) -> str:
    """Send a phantom's series to a planning system that a person named; what it said of it."""
    destination = next(each for each in config.destination if each.name == name)
    if not isinstance(destination, DicomDestination):
        return "a folder takes no CT series from limn commission"
    try:
        answers = list(store(peer_of(destination, config.receive.ae_title), list(datasets)))
    except LimnError as error:
        return f"the CT series was not taken: {error}"
    taken = sum(judge(status) is Outcome.DELIVERED for status in answers)
    said = "" if taken == len(answers) else f"; last answer 0x{answers[-1]:04X}"
    return f"{taken} of {len(answers)} images taken{said}"


def wait_for_end(config: Config, series_instance_uid: str) -> ScanEnd:
    """Wait until a series was delivered, is held, or ended badly."""
    until_s = time.monotonic() + config.settle.hold_s + config.engine.deadline_s + GRACE_S
    while time.monotonic() < until_s:
        end = _logged(config, series_instance_uid) or _held(config, series_instance_uid)
        if end is not None:
            return end
        time.sleep(POLL_S)
    return ScanEnd(
        outcome="lost",
        reason="the node said nothing of it in time; `limn queue --config C` says what it does",
    )


def known(config: Config, series_instance_uid: str) -> bool:
    """Whether the node has this series in its journal already."""
    with journal_to_read(config) as journal:
        return journal is not None and any(
            each.series_instance_uid == series_instance_uid for each in journal.scans()
        )


def _logged(config: Config, series_instance_uid: str) -> ScanEnd | None:
    rows = [
        row
        for row in scanlog.last_rows(config.scan_log_path, LAST_ROWS)
        if row["series_instance_uid"] == series_instance_uid
    ]
    if not rows:
        return None
    row = rows[-1]
    # A run that was killed had held it, and cleared it away already.
    was_held = row["outcome"] == "discarded" and WHY in row["reason"]
    written = sorted((config.results_dir / row["scan_id"]).glob("RS.*.dcm")) if was_held else ()
    return ScanEnd(
        contents=tuple(path.read_bytes() for path in written),
        outcome="held" if was_held else row["outcome"],
        scan=row["scan_id"],
        reason=row["reason"],
        row=row,
        picture=_picture(config, row["scan_id"]),
    )


def _held(config: Config, series_instance_uid: str) -> ScanEnd | None:
    with journal_to_read(config) as journal:
        if journal is None:
            return None
        held = [row for row in journal.on_hold() if row.series_instance_uid == series_instance_uid]
        return _held_end(config, journal, held) if held else None


def _held_end(config: Config, journal: JournalReader, held: Sequence[ScanRow]) -> ScanEnd:
    sets = [journal.structure_set_of(row.id) for row in held]
    return ScanEnd(
        outcome="held",
        scan=held[0].name,
        reason=str(sets[0].held),
        row={"flags": str(held[0].record.get("flags", ""))},
        picture=_picture(config, held[0].name),
        contents=tuple(Path(each.path).read_bytes() for each in sets),
    )


def _picture(config: Config, scan: str) -> Path | None:
    path = config.results_dir / scan / "picture.png"
    return path if path.is_file() else None


def clear_away(config: Config, series_instance_uid: str) -> None:
    """Discard what of a phantom is held, and dismiss what ended badly: nobody need act on it."""
    with journal_to_read(config) as journal:
        rows = [] if journal is None else [*journal.on_hold(), *journal.ended_badly(0.0)]
    names = [row.name for row in rows if row.series_instance_uid == series_instance_uid]
    if not names:
        return
    now = time.time()
    with journal_to_change(config, names) as journal:
        for row in journal.named(names).values():
            journal.discard(row.id, WHY, now, COMMISSIONING)
            journal.dismiss(row.id, WHY, now, COMMISSIONING)
    send_wake(config)


def delivered_to(config: Config, scan: str, name: str, limit_s: float) -> str:
    """Wait until a destination has a scan's structure set; why it has it not, or ""."""
    until_s = time.monotonic() + limit_s
    said = "the node never offered it"
    while time.monotonic() < until_s:
        with journal_to_read(config) as journal:
            row = journal.named([scan]).get(scan) if journal is not None else None
            deliveries = journal.deliveries(row.id) if journal is not None and row else []
        own = [each for each in deliveries if each.destination == name]
        if any(each.state == "delivered" for each in own):
            return ""
        if own:
            said = f"{own[0].state}, last answer {own[0].status or 'none'}"
            if own[0].state == "refused":
                break
        time.sleep(POLL_S)
    return f"{name} has not taken it: {said}"
