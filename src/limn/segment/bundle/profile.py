"""The three ways to run an ensemble (P5): as the paper did, as nnunetv2 does, and fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

ProfileName = Literal["paper", "stock", "fast"]
PROFILE_NAMES: tuple[str, ...] = get_args(ProfileName)


@dataclass(frozen=True, slots=True)
class Profile:
    """What is done with a scan before, between and after the networks.

    Attributes
    ----------
    average : what is averaged over tiles and folds
    normalise_first : nnunetv2 clips and normalises before it resamples, nnU-Net v1 after
    step : share of a patch from one tile to the next
    region : whether only the surroundings of the organs are looked at by every fold
    skip_air : whether tiles without tissue are taken for background
    """

    name: ProfileName
    average: Literal["probabilities", "logits"]
    normalise_first: bool
    step: float
    region: bool
    skip_air: bool


PROFILES: dict[str, Profile] = {
    # Malimban 2022 by nnU-Net v1: "taking the average of the predicted probabilities".
    "paper": Profile("paper", "probabilities", False, 0.5, False, False),
    "stock": Profile("stock", "logits", True, 0.5, False, False),
    "fast": Profile("fast", "probabilities", False, 0.5, True, True),
}
