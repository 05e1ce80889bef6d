"""The life of a scan and of a delivery as two tables: (state, event) -> state.

The journal looks up every change of a state here. It refuses and logs an event that the table
does not list for the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TypeAlias


class ScanState(StrEnum):
    """The state of a scan. ``new``: it is not in the journal yet."""

    NEW = "new"
    READY = "ready"
    CONTOURED = "contoured"
    REFUSED = "refused"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    SUPERSEDED = "superseded"


class ScanEvent(StrEnum):
    """What happens to a scan; `SCAN_EVENTS` describes each."""

    SETTLE = "settle"
    REJECT = "reject"
    COMPLETE = "complete"
    START = "start"
    STOP = "stop"
    CONTOUR = "contour"
    REFUSE = "refuse"
    FAIL = "fail"
    QUARANTINE = "quarantine"
    SUPERSEDE = "supersede"
    RETRY = "retry"
    RECONTOUR = "recontour"


class DeliveryState(StrEnum):
    """The state of a delivery to one destination. ``new``: it is not in the journal yet."""

    NEW = "new"
    WAITING = "waiting"
    HELD = "held"
    DELIVERED = "delivered"
    REFUSED = "refused"
    DISCARDED = "discarded"


class DeliveryEvent(StrEnum):
    """What happens to a delivery; `DELIVERY_EVENTS` describes each."""

    OFFER = "offer"
    HOLD = "hold"
    RELEASE = "release"
    DISCARD = "discard"
    ACCEPT = "accept"
    POSTPONE = "postpone"
    REFUSE = "refuse"


SCAN_EVENTS: Mapping[ScanEvent, str] = MappingProxyType(
    {
        ScanEvent.SETTLE: "The receiver hands over a complete series.",
        ScanEvent.REJECT: "The receiver hands over a series that can't be contoured.",
        ScanEvent.COMPLETE: "The sender sends a rejected series again, and it is complete now.",
        ScanEvent.START: "A worker begins with it.",
        ScanEvent.STOP: "No worker has it any more.",
        ScanEvent.CONTOUR: "Its structure set is on disk.",
        ScanEvent.REFUSE: "The pipeline refuses the series.",
        ScanEvent.FAIL: "The pipeline fails.",
        ScanEvent.QUARANTINE: "It killed its worker too often.",
        ScanEvent.SUPERSEDE: "A newer version of its series is complete before a worker begins.",
        ScanEvent.RETRY: "An operator lets it run again; its series was complete.",
        ScanEvent.RECONTOUR: "The sender sends it again after its structure set was removed.",
    }
)
DELIVERY_EVENTS: Mapping[DeliveryEvent, str] = MappingProxyType(
    {
        DeliveryEvent.OFFER: "The structure set is offered, for the first time or again.",
        DeliveryEvent.HOLD: "A person must see the structure set first.",
        DeliveryEvent.RELEASE: "A person lets it go.",
        DeliveryEvent.DISCARD: "A person decides that it never goes.",
        DeliveryEvent.ACCEPT: "The destination has taken it.",
        DeliveryEvent.POSTPONE: "The destination can't be reached or has no room; tried later.",
        DeliveryEvent.REFUSE: "The destination refuses it; somebody must act there.",
    }
)

ScanTable: TypeAlias = Mapping[tuple[ScanState, ScanEvent], ScanState]
DeliveryTable: TypeAlias = Mapping[tuple[DeliveryState, DeliveryEvent], DeliveryState]

SCAN_TABLE: ScanTable = MappingProxyType(
    {
        (ScanState.NEW, ScanEvent.SETTLE): ScanState.READY,
        (ScanState.NEW, ScanEvent.REJECT): ScanState.REFUSED,
        (ScanState.REFUSED, ScanEvent.COMPLETE): ScanState.READY,
        (ScanState.READY, ScanEvent.START): ScanState.READY,
        (ScanState.READY, ScanEvent.STOP): ScanState.READY,
        (ScanState.READY, ScanEvent.CONTOUR): ScanState.CONTOURED,
        (ScanState.READY, ScanEvent.REFUSE): ScanState.REFUSED,
        (ScanState.READY, ScanEvent.FAIL): ScanState.FAILED,
        (ScanState.READY, ScanEvent.QUARANTINE): ScanState.QUARANTINED,
        (ScanState.READY, ScanEvent.SUPERSEDE): ScanState.SUPERSEDED,
        (ScanState.REFUSED, ScanEvent.RETRY): ScanState.READY,
        (ScanState.FAILED, ScanEvent.RETRY): ScanState.READY,
        (ScanState.QUARANTINED, ScanEvent.RETRY): ScanState.READY,
        (ScanState.SUPERSEDED, ScanEvent.RETRY): ScanState.READY,
        (ScanState.CONTOURED, ScanEvent.RECONTOUR): ScanState.READY,
        # The result came before the worker stopped, so the stop changes nothing.
        (ScanState.CONTOURED, ScanEvent.STOP): ScanState.CONTOURED,
        (ScanState.REFUSED, ScanEvent.STOP): ScanState.REFUSED,
        (ScanState.FAILED, ScanEvent.STOP): ScanState.FAILED,
        (ScanState.QUARANTINED, ScanEvent.STOP): ScanState.QUARANTINED,
        (ScanState.SUPERSEDED, ScanEvent.STOP): ScanState.SUPERSEDED,
    }
)
DELIVERY_TABLE: DeliveryTable = MappingProxyType(
    {
        (DeliveryState.NEW, DeliveryEvent.OFFER): DeliveryState.WAITING,
        (DeliveryState.WAITING, DeliveryEvent.OFFER): DeliveryState.WAITING,
        (DeliveryState.DELIVERED, DeliveryEvent.OFFER): DeliveryState.WAITING,
        (DeliveryState.REFUSED, DeliveryEvent.OFFER): DeliveryState.WAITING,
        (DeliveryState.WAITING, DeliveryEvent.HOLD): DeliveryState.HELD,
        (DeliveryState.HELD, DeliveryEvent.RELEASE): DeliveryState.WAITING,
        (DeliveryState.HELD, DeliveryEvent.DISCARD): DeliveryState.DISCARDED,
        (DeliveryState.WAITING, DeliveryEvent.ACCEPT): DeliveryState.DELIVERED,
        (DeliveryState.WAITING, DeliveryEvent.POSTPONE): DeliveryState.WAITING,
        (DeliveryState.WAITING, DeliveryEvent.REFUSE): DeliveryState.REFUSED,
    }
)
