"""The associations that are open, and which of them have not brought a slice yet."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from limn.dicom.instance import PART_BYTES, uids_of_part
from limn.node.receive.completeness import Opening


@dataclass(slots=True)
class OpenAssociation:
    """One association over which instances may come. Times are monotonic.

    Attributes
    ----------
    began_s : when the first byte of the instance that comes in now came; None between instances
    named : it has brought a slice, so that its series is known
    part : the beginning of the data set of the instance that comes in now, or was not taken
    syntax : its transfer syntax
    known_to : its UIDs, and how many bytes of the part they were read from
    """

    sender: str
    opened_s: float
    began_s: float | None = None
    named: bool = False
    part: bytearray = field(default_factory=bytearray)
    syntax: str = ""
    known_to: tuple[tuple[str, str] | None, int] = (None, 0)

    def lost(self) -> tuple[str, str] | None:
        """Series and SOP Instance UID of a slice that it began and did not bring, if known."""
        return None if self.named and self.began_s is None else self.uids()

    def uids(self) -> tuple[str, str] | None:
        """Series and SOP Instance UID of the part; None as long as it has not both."""
        found, size = self.known_to
        if found is None and size != len(self.part):
            found = uids_of_part(bytes(self.part), self.syntax)
            self.known_to = found, len(self.part)
        return found

    def forget_part(self) -> None:
        """The instance is stored, or another one begins."""
        self.part.clear()
        self.known_to = None, 0


class OpenAssociations:
    """Who may be about to send a slice; safe to share between threads."""

    def __init__(self) -> None:
        self._open: dict[str, OpenAssociation] = {}
        self._lock = threading.Lock()

    def opened(self, key: str, sender: str, now_s: float) -> None:
        """An association that may bring instances was accepted."""
        with self._lock:
            self._open[key] = OpenAssociation(sender, now_s)

    def instance_began(self, key: str, now_s: float) -> None:
        """Bytes of an instance came; the first of them count."""
        association = self._open.get(key)
        if association is not None and association.began_s is None:
            association.began_s = now_s
            association.forget_part()

    def part_came(self, key: str, part: bytes, syntax: str) -> None:
        """The next bytes of a data set, of which the first `PART_BYTES` are kept."""
        association = self._open.get(key)
        if association is not None:
            association.part += part[: PART_BYTES - len(association.part)]
            association.syntax = syntax

    def is_under_way(self, key: str) -> bool:
        """Whether an instance comes in of which enough bytes are kept, or nobody notes them."""
        association = self._open.get(key)
        return association is None or (
            association.began_s is not None and len(association.part) >= PART_BYTES
        )

    def instance_ended(self, key: str, *, missing: bool = False) -> None:
        """The instance is on disk, or was refused.

        Parameters
        ----------
        missing : its series lacks it now
        """
        association = self._open.get(key)
        if association is not None:
            association.began_s = None
            if not missing:
                association.forget_part()

    def began_s(self, key: str) -> float | None:
        """When the first byte of the instance came that comes in now; None if nobody noted it."""
        association = self._open.get(key)
        return None if association is None else association.began_s

    def named(self, key: str) -> None:
        """A slice came over it: the series that it feeds is known."""
        association = self._open.get(key)
        if association is not None:
            association.named = True

    def ended(self, key: str) -> OpenAssociation | None:
        """Forget an association; returns what was known of it, the first time."""
        with self._lock:
            return self._open.pop(key, None)

    def openings(self, sender: str) -> tuple[Opening, ...]:
        """The associations of a sender that may feed any series."""
        with self._lock:
            return tuple(
                Opening(each.opened_s, each.began_s is not None, (each.uids() or ("", ""))[0])
                for each in self._open.values()
                if each.sender == sender and not each.named
            )
