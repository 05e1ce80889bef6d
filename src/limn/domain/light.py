"""The three lights of a contour and of a scan, as at a crossing."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Light(StrEnum):
    """How far a contour may be trusted."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


def worst(lights: Iterable[Light]) -> Light:
    """The worst of some lights; green if there is none."""
    return max(lights, key=list(Light).index, default=Light.GREEN)
