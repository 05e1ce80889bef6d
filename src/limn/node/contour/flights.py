"""The jobs that are at a worker or on their way to one."""

from __future__ import annotations

from dataclasses import dataclass

from distributed import Future

from limn.node.contour.job import Result

# A result of some megabytes is here by then, or its worker is gone.
FETCH_S = 30.0


@dataclass(slots=True)
class JobInFlight:
    """A job on its way to a worker or there. Times are UTC seconds.

    Attributes
    ----------
    future : None while the scan's bytes are still being sent
    pixels : the bytes on the worker, which lets go of them with this
    result : what came back; None of one that failed, or was lost with its worker
    unreadable : why the scan's files can't be sent; empty if they can
    stray : its worker was gone when last looked for
    """

    key: str
    worker: str
    submitted_at: float
    queue_s: float
    future: Future[Result] | None = None
    pixels: Future[bytes] | None = None
    result: Result | None = None
    transfer_s: float = 0.0
    unreadable: str = ""
    started: bool = False
    stray: bool = False
