"""UIDs derived from a text, so that the same input always gets the same UID."""

from __future__ import annotations

import uuid


def uid_from(seed: str) -> str:
    """A UID under 2.25 (PS3.5 B.2) that depends on the seed alone."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, seed).int}"
