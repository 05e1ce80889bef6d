"""UIDs derived from a text, so that the same input always gets the same UID."""

from __future__ import annotations

import re
import uuid

# Components may begin with 0, which PS3.5 9.1 forbids and whole scanners do.
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
MAX_UID = 64


def is_usable_uid(text: str) -> bool:
    """Whether a text can be compared, stored and copied as a UID."""
    return len(text) <= MAX_UID and _UID.fullmatch(text) is not None


def uid_from(seed: str) -> str:
    """A UID under 2.25 (PS3.5 B.2) that depends on the seed alone."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, seed).int}"
