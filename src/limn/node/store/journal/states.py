"""The life of a scan, a delivery, a preview and a companion as tables: (state, event) -> state.

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
    REPLACE = "replace"


class PreviewState(StrEnum):
    """The state of a scan's preview. ``new``: it is not in the journal yet."""

    NEW = "new"
    RUNNING = "running"
    CONTOURED = "contoured"
    DROPPED = "dropped"


class PreviewEvent(StrEnum):
    """What happens to a preview; `PREVIEW_EVENTS` describes each."""

    BEGIN = "begin"
    CONTOUR = "contour"
    DROP = "drop"


class PreviewDeliveryState(StrEnum):
    """The state of a preview's delivery. ``new``: it is not in the journal yet."""

    NEW = "new"
    WAITING = "waiting"
    SENDING = "sending"
    DELIVERED = "delivered"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    LOST = "lost"


class PreviewDeliveryEvent(StrEnum):
    """What happens to a preview's delivery; `PREVIEW_DELIVERY_EVENTS` describes each."""

    OFFER = "offer"
    SEND = "send"
    ACCEPT = "accept"
    POSTPONE = "postpone"
    REFUSE = "refuse"
    WITHDRAW = "withdraw"
    LOSE = "lose"


class CompanionState(StrEnum):
    """The state of what follows a structure set to one destination. ``new``: not in the journal."""

    NEW = "new"
    WAITING = "waiting"
    DELIVERED = "delivered"
    REFUSED = "refused"


class CompanionEvent(StrEnum):
    """What happens to what follows a structure set; `COMPANION_EVENTS` describes each."""

    OFFER = "offer"
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
        ScanEvent.RECONTOUR: (
            "The sender sends it again after its structure set was removed, or a person names the "
            "animal."
        ),
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
        DeliveryEvent.REPLACE: "The file of a newer version of its field goes in its place.",
    }
)
PREVIEW_EVENTS: Mapping[PreviewEvent, str] = MappingProxyType(
    {
        PreviewEvent.BEGIN: "Its job goes to a worker; a scan has one such job at most.",
        PreviewEvent.CONTOUR: "Its structure set is on disk.",
        PreviewEvent.DROP: "It failed, or it must not be sent; the scan goes on without it.",
    }
)
PREVIEW_DELIVERY_EVENTS: Mapping[PreviewDeliveryEvent, str] = MappingProxyType(
    {
        PreviewDeliveryEvent.OFFER: "The preview is on disk, and the destination takes previews.",
        PreviewDeliveryEvent.SEND: "A courier begins to send it.",
        PreviewDeliveryEvent.ACCEPT: "The destination has taken it.",
        PreviewDeliveryEvent.POSTPONE: "The destination can't be reached or has no room.",
        PreviewDeliveryEvent.REFUSE: "The destination refuses it.",
        PreviewDeliveryEvent.WITHDRAW: "The scan has ended or has its structure set.",
        PreviewDeliveryEvent.LOSE: "The engine ended while it was sent; it is not sent again.",
    }
)
COMPANION_EVENTS: Mapping[CompanionEvent, str] = MappingProxyType(
    {
        CompanionEvent.OFFER: "The destination has the structure set, for the first time or again.",
        CompanionEvent.ACCEPT: "The destination has taken it too.",
        CompanionEvent.POSTPONE: "The destination can't be reached or has no room; tried later.",
        CompanionEvent.REFUSE: "The destination refuses it, or it was not made; somebody must act.",
    }
)

ScanTable: TypeAlias = Mapping[tuple[ScanState, ScanEvent], ScanState]
DeliveryTable: TypeAlias = Mapping[tuple[DeliveryState, DeliveryEvent], DeliveryState]
PreviewTable: TypeAlias = Mapping[tuple[PreviewState, PreviewEvent], PreviewState]
PreviewDeliveryTable: TypeAlias = Mapping[
    tuple[PreviewDeliveryState, PreviewDeliveryEvent], PreviewDeliveryState
]

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
        (DeliveryState.WAITING, DeliveryEvent.REPLACE): DeliveryState.DISCARDED,
    }
)
PREVIEW_TABLE: PreviewTable = MappingProxyType(
    {
        (PreviewState.NEW, PreviewEvent.BEGIN): PreviewState.RUNNING,
        (PreviewState.RUNNING, PreviewEvent.CONTOUR): PreviewState.CONTOURED,
        (PreviewState.RUNNING, PreviewEvent.DROP): PreviewState.DROPPED,
    }
)
PREVIEW_DELIVERY_TABLE: PreviewDeliveryTable = MappingProxyType(
    {
        (PreviewDeliveryState.NEW, PreviewDeliveryEvent.OFFER): PreviewDeliveryState.WAITING,
        (PreviewDeliveryState.WAITING, PreviewDeliveryEvent.SEND): PreviewDeliveryState.SENDING,
        (PreviewDeliveryState.SENDING, PreviewDeliveryEvent.ACCEPT): PreviewDeliveryState.DELIVERED,
        (PreviewDeliveryState.SENDING, PreviewDeliveryEvent.POSTPONE): PreviewDeliveryState.WAITING,
        (PreviewDeliveryState.SENDING, PreviewDeliveryEvent.REFUSE): PreviewDeliveryState.REFUSED,
        (PreviewDeliveryState.SENDING, PreviewDeliveryEvent.LOSE): PreviewDeliveryState.LOST,
        (
            PreviewDeliveryState.WAITING,
            PreviewDeliveryEvent.WITHDRAW,
        ): PreviewDeliveryState.WITHDRAWN,
    }
)
COMPANION_TABLE: Mapping[tuple[CompanionState, CompanionEvent], CompanionState] = MappingProxyType(
    {
        (CompanionState.NEW, CompanionEvent.OFFER): CompanionState.WAITING,
        (CompanionState.WAITING, CompanionEvent.OFFER): CompanionState.WAITING,
        (CompanionState.DELIVERED, CompanionEvent.OFFER): CompanionState.WAITING,
        (CompanionState.REFUSED, CompanionEvent.OFFER): CompanionState.WAITING,
        (CompanionState.WAITING, CompanionEvent.ACCEPT): CompanionState.DELIVERED,
        (CompanionState.WAITING, CompanionEvent.POSTPONE): CompanionState.WAITING,
        (CompanionState.WAITING, CompanionEvent.REFUSE): CompanionState.REFUSED,
    }
)
# The destination has the preview, or may have it.
PREVIEW_GONE = (
    PreviewDeliveryState.SENDING,
    PreviewDeliveryState.DELIVERED,
    PreviewDeliveryState.LOST,
)
