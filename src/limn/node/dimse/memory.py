"""The memory that all associations share for unanswered instances."""

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

    def reserve(self, count: int) -> bool:
        """Reserve so many bytes; False, and nothing is reserved, if fewer are free."""
        with self._lock:
            if count > self._free:
                return False
            self._free -= count
            return True

    def release(self, count: int) -> None:
        """Give so many bytes back."""
        with self._lock:
            self._free += count


class MemoryShare:
    """The part of the budget that one association has reserved."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._lock = threading.Lock()
        self._reserved = 0

    def reserve(self, count: int) -> bool:
        """Reserve so many bytes of the budget; False if fewer are free."""
        with self._lock:
            reserved = self._budget.reserve(count)
            self._reserved += reserved * count
            return reserved

    def release(self, count: int | None = None) -> None:
        """Give so many bytes back, or all."""
        with self._lock:
            count = self._reserved if count is None else min(count, self._reserved)
            self._budget.release(count)
            self._reserved -= count


class DataSetBuffer(BytesIO):
    """The data set of one message, as pynetdicom collects it; an instance within the budget.

    Attributes
    ----------
    dropped : the budget was used up; nothing is kept, the rest is read and thrown away
    """

    def __init__(self, message: DIMSEMessage, share: MemoryShare) -> None:
        super().__init__()
        self._message = message
        self._share = share
        self._reserved = 0
        self.dropped = False

    def write(self, data: Any) -> int:
        """Keep the data, or drop the whole instance if the budget is used up."""
        if not isinstance(self._message, C_STORE_RQ):
            return super().write(data)
        if self.dropped or not self._share.reserve(len(data)):
            self.drop()
            return len(data)
        self._reserved += len(data)
        return super().write(data)

    def drop(self) -> None:
        """Keep nothing of the instance."""
        self.dropped = True
        self.seek(0)
        self.truncate()
        self._share.release(self._reserved)
        self._reserved = 0


def was_dropped(request: C_STORE) -> bool:
    """Whether an instance exceeded the memory budget; its data set is then empty."""
    return isinstance(request.DataSet, DataSetBuffer) and request.DataSet.dropped
