"""The memory that all associations share for instances that are not answered yet."""

from __future__ import annotations

import threading
from io import BytesIO
from typing import Any

from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE


class MemoryBudget:
    """The memory that all associations share for instances."""

    def __init__(self, limit_bytes: int) -> None:
        self._lock = threading.Lock()
        self._free = limit_bytes

    def take(self, count: int) -> bool:
        """Whether there is room for so many bytes; they are then taken."""
        with self._lock:
            if count > self._free:
                return False
            self._free -= count
            return True

    def give(self, count: int) -> None:
        """They are free again."""
        with self._lock:
            self._free += count


class MemoryShare:
    """What one association has taken of the room."""

    def __init__(self, room: MemoryBudget) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._taken = 0

    def take(self, count: int) -> bool:
        """As of the room."""
        with self._lock:
            taken = self._room.take(count)
            self._taken += taken * count
            return taken

    def give(self, count: int | None = None) -> None:
        """So many bytes back, or all."""
        with self._lock:
            count = self._taken if count is None else min(count, self._taken)
            self._room.give(count)
            self._taken -= count


class DataSetBuffer(BytesIO):
    """What pynetdicom collects of one message; of an instance no more than there is room for.

    Attributes
    ----------
    dropped : there was no room; nothing of it is kept, the rest is read and thrown away
    """

    def __init__(self, message: DIMSEMessage, share: MemoryShare) -> None:
        super().__init__()
        self._message = message
        self._share = share
        self._taken = 0
        self.dropped = False

    def write(self, data: Any) -> int:
        """As any file, or nothing."""
        if not isinstance(self._message, C_STORE_RQ):
            return super().write(data)
        if self.dropped or not self._share.take(len(data)):
            self.drop()
            return len(data)
        self._taken += len(data)
        return super().write(data)

    def drop(self) -> None:
        """Keep nothing of it."""
        self.dropped = True
        self.seek(0)
        self.truncate()
        self._share.give(self._taken)
        self._taken = 0


def was_dropped(request: C_STORE) -> bool:
    """Whether an instance came for which there was no room; its data set is empty."""
    return isinstance(request.DataSet, DataSetBuffer) and request.DataSet.dropped
