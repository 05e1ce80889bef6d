"""DIMSE status codes (PS3.7 annex C, PS3.4 GG.4-1)."""

from __future__ import annotations

SUCCESS = 0x0000
DUPLICATE = 0x0111
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000
