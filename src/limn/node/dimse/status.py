"""DIMSE status codes: what they are called, and where the standard defines them."""

from __future__ import annotations

# PS3.7 annex C, for any service. Storage commitment gives them as Failure Reason too (PS3.3
# C.14.1.1).
SUCCESS = 0x0000
DUPLICATE = 0x0111
NO_SUCH_INSTANCE = 0x0112
INVALID_ARGUMENT = 0x0115
CLASS_INSTANCE_CONFLICT = 0x0119
NO_SUCH_ACTION = 0x0123
RESOURCE_LIMITATION = 0x0213
# PS3.4 table B.2-1, for C-STORE: 0xA7xx and 0xCxxx, the digits x are free.
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000
