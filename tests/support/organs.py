"""The embedded bundle's organs, for tests."""

from enum import StrEnum


class Organ(StrEnum):
    """The names of the four; a member equals its name."""

    HEART = "Heart"
    CORD = "SpinalCord"
    LUNG_R = "Lung_R"
    LUNG_L = "Lung_L"
