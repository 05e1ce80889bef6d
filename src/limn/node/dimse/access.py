"""The site's rules of access: which addresses may connect, which associations are rejected."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from limn.node.config import Network, Receive

# A-ASSOCIATE-RJ: result, source, reason (PS3.8 table 9-21).
CALLING_NOT_RECOGNISED = (1, 1, 3)
CALLED_NOT_RECOGNISED = (1, 1, 7)
CONGESTED = (2, 3, 1)
LIMIT_EXCEEDED = (2, 3, 2)


class RefusalReason(StrEnum):
    """Why an association or a connection is refused; a label of the metrics."""

    CALLED_AE = "called-ae"
    CALLING_AE = "calling-ae"
    LIMIT = "limit"
    DISK = "disk"
    ADDRESS = "address"
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class Caller:
    """What an A-ASSOCIATE-RQ says about the requestor.

    Attributes
    ----------
    stores : it proposes a storage class; C-ECHO and commitment need no disk
    """

    calling_ae: str
    called_ae: str
    stores: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to a requestor that is rejected, and why, in one word and for the log."""

    reject: tuple[int, int, int]
    reason: RefusalReason
    why: str


def may_connect(address: str, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of the networks; with no network named, any address is."""
    if not networks:
        return True
    try:
        # A link-local IPv6 address names its interface after a per cent sign.
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return any((mapped or found) in network for network in networks)


def refusal_of(
    settings: Receive, caller: Caller, open_associations: int, *, disk_is_low: bool
) -> Refusal | None:
    """The reason to reject an association (PS3.8 9.3.4), or None.

    Parameters
    ----------
    open_associations : how many are open beside this one
    disk_is_low : below ``receive.refuse_below_mb``, or few inodes are left
    """
    called, calling = caller.called_ae.strip(), caller.calling_ae.strip()
    if settings.require_called_ae and called != settings.ae_title.strip():
        return Refusal(
            CALLED_NOT_RECOGNISED,
            RefusalReason.CALLED_AE,
            f"it calls {called!r}, this node is {settings.ae_title!r} (receive.ae_title)",
        )
    known = {title.strip() for title in settings.calling_ae}
    if known and calling not in known:
        why = f"{calling!r} is not in receive.calling_ae"
        return Refusal(CALLING_NOT_RECOGNISED, RefusalReason.CALLING_AE, why)
    if open_associations >= settings.max_associations:
        why = f"{open_associations} are open (receive.max_associations)"
        return Refusal(LIMIT_EXCEEDED, RefusalReason.LIMIT, why)
    if caller.stores and disk_is_low:
        return Refusal(
            CONGESTED,
            RefusalReason.DISK,
            f"the disk has less than {settings.refuse_free_mb} MB or too few inodes free; make "
            "room in data_dir",
        )
    return None
