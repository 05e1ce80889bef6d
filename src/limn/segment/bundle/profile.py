"""The three profiles of an ensemble (P5): the paper's, nnunetv2's, and a fast one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

ProfileName = Literal["paper", "stock", "fast"]
PROFILE_NAMES: tuple[str, ...] = get_args(ProfileName)


@dataclass(frozen=True, slots=True)
class Profile:
    """How a scan is prepared, and how the networks' scores are combined.

    Attributes
    ----------
    average : what is averaged over tiles and folds
    normalise_first : whether to clip and normalise before resampling, like nnunetv2; nnU-Net v1
        does it after
    step : share of a patch from one tile to the next
    region : whether every fold sees only the surroundings of the organs
    skip_air : whether tiles without tissue are labelled background without a network
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
