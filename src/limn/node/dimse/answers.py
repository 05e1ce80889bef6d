"""What the answers of a DICOM peer mean, in words for an operator, with what to do next."""

from __future__ import annotations

import re

from limn.node.dimse.status import (
    CANNOT_UNDERSTAND,
    CLASS_INSTANCE_CONFLICT,
    DUPLICATE,
    INVALID_ARGUMENT,
    NO_SUCH_INSTANCE,
    OUT_OF_RESOURCES,
    RESOURCE_LIMITATION,
    SUCCESS,
)

# Source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21). Other values are reserved.
_REJECTIONS = {
    (1, 1): "it gives no reason; look at its own log",
    (1, 2): (
        "application context name not supported: what listens there is hardly a DICOM "
        "application; compare host and port"
    ),
    (1, 3): (
        "calling AE title not recognized: this node calls itself {calling}; register {calling} "
        "there as a peer that may send"
    ),
    (1, 7): (
        "called AE title not recognized: this node calls it {called}; compare the planning "
        "system's or archive's own title"
    ),
    (2, 1): "its DICOM service gives no reason (ACSE); look at its own log",
    (2, 2): (
        "protocol version not supported: it speaks another version of DICOM's upper layer; ask "
        "its vendor"
    ),
    (3, 1): (
        "temporary congestion: it takes no association now; limn tries again by itself. If it "
        "lasts, look whether that system is busy or its disk is full"
    ),
    (3, 2): (
        "local limit exceeded: too many associations are open there; close some or raise its "
        "limit. limn tries again by itself"
    ),
}
# PS3.7 annex C, for any service; PS3.4 table B.2-1 for warnings of C-STORE.
_STATUSES = {
    SUCCESS: "success: it has the file",
    0x0001: "it has the file, and some optional attributes mean nothing to it",
    0x0110: "processing failure: it could not work on the file; look at its own log",
    DUPLICATE: "it has this file already",
    NO_SUCH_INSTANCE: "it knows no such instance",
    INVALID_ARGUMENT: "invalid argument value; look at its own log",
    0x0117: "invalid SOP Instance UID; look at its own log",
    CLASS_INSTANCE_CONFLICT: "class and instance do not fit for it; look at its own log",
    0x0122: "SOP Class not supported: let it take RT Structure Set Storage",
    0x0124: "not authorized: allow this node's AE title to store there",
    0x0210: "duplicate invocation: it takes this request for one that it has answered",
    0x0211: "unrecognized operation: it takes no C-STORE",
    0x0212: "mistyped argument; look at its own log",
    RESOURCE_LIMITATION: "resource limitation; look at its disk",
    0xB000: "it has the file, and changed some of its data elements",
    0xB006: "it has the file without some of its data elements",
    0xB007: "it has the file, and says that it does not match its SOP Class",
}
# The UID of a file of several animals follows the status.
_OF_THE_SERVICE = re.compile(r"(0x[0-9A-F]{4})( as [0-9.]+)?")


def rejection_words(
    source: int | None, reason: int | None, *, calling: str, called: str, is_transient: bool = False
) -> str:
    """What an A-ASSOCIATE-RJ says (PS3.8 table 9-21), and what to do.

    Parameters
    ----------
    calling, called : the AE titles of the request
    is_transient : its result is 2, rejected-transient
    """
    known = _REJECTIONS.get((source or 0, reason or 0))
    if known is not None:
        return known.format(calling=calling.strip(), called=called.strip())
    lasting = "for now" if is_transient else "for good"
    return (
        f"rejected {lasting} for a reason that DICOM does not define (source {source}, reason "
        f"{reason}); look at its own log"
    )


def status_words(status: int) -> str:
    """What a status of C-STORE says (PS3.4 table B.2-1, PS3.7 annex C)."""
    if status in _STATUSES:
        return _STATUSES[status]
    if status & 0xFF00 == OUT_OF_RESOURCES:
        return "out of resources: make room on its disk; limn tries again by itself"
    if status & 0xFF00 == 0xA900:
        return "the file does not match its SOP Class for it; look at its own log"
    if status & 0xF000 == CANNOT_UNDERSTAND:
        return "it can't use the file; its own log says why"
    if status & 0xF000 == 0xB000:
        return "it has the file, with a warning; its own log says which"
    return "a status that DICOM does not define for C-STORE; look at its own log"


def answer_words(answer: str) -> str:
    """An answer as the journal keeps it, with the words of its status if it is one."""
    found = _OF_THE_SERVICE.fullmatch(answer)
    if found is None:
        return answer
    return f"{answer}, {status_words(int(found[1], 16))}"
