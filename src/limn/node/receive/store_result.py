"""What became of an instance that a sender or a watched folder offered."""

from __future__ import annotations

from dataclasses import dataclass

from limn.node.dimse.status import DUPLICATE, OUT_OF_RESOURCES, SUCCESS


@dataclass(frozen=True, slots=True)
class StoreResult:
    """What became of one instance.

    Attributes
    ----------
    status : DIMSE status for the sender
    why : for the log; empty on success
    """

    status: int = SUCCESS
    why: str = ""

    @property
    def stored(self) -> bool:
        """Whether it is on disk."""
        return self.status == SUCCESS

    @property
    def missing(self) -> bool:
        """Whether no instance of this UID is on disk; beside a duplicate the first copy is."""
        return self.status not in {SUCCESS, DUPLICATE}

    @property
    def retry_later(self) -> bool:
        """Whether it can be stored once there is room."""
        return self.status == OUT_OF_RESOURCES
