"""What nnunetv2 trains by: the paper's four configurations of one data set, as ``plans.json``.

Written by us instead of nnU-Net's planner, whose plan follows the GPU's memory and the data set:
the paper's own plan is known (Malimban 2022, Methods, "nnU-Net"), and a small one for two cores is
a choice. The arrays' first axis becomes the back-to-front one, so that 2d sees coronal slices, as
in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limn.domain.errors import ConfigWrong
from limn.lab.words import CASCADE, LOWRES
from limn.segment.bundle import plans_json
from limn.segment.bundle.plans_json import configuration, plain_unet

# Arrays come as S, P, L; the network sees P, S, L.
TRANSPOSE = (1, 0, 2)
# nnunetv2's own name of the cascade's second stage.
CONFIGURATION_OF = {CASCADE: "3d_cascade_fullres"}


@dataclass(frozen=True, slots=True)
class Preset:
    """One nnU-Net configuration and how long it learns.

    Attributes
    ----------
    patch : voxels along P, S, L; along S, L for 2d
    poolings : how often each axis is halved; the deepest one decides the stages
    features : channels of every stage, one more than the most poolings
    epochs, iterations : of training; an epoch ends with a validation on a few patches
    """

    spacing_mm: float
    patch: tuple[int, ...]
    poolings: tuple[int, ...]
    features: tuple[int, ...]
    batch: int
    epochs: int
    iterations: int

    @property
    def flat(self) -> bool:
        """Whether the networks are 2d."""
        return len(self.patch) == 2

    def __post_init__(self) -> None:
        wrong = ""
        if len(self.patch) not in {2, 3} or len(self.poolings) != len(self.patch):
            wrong = f"patch {list(self.patch)} and poolings {list(self.poolings)} must be as long"
        elif len(self.features) != max(self.poolings) + 1:
            wrong = f"features {list(self.features)}: {max(self.poolings) + 1} stages expected"
        elif odd := [n for n, k in zip(self.patch, self.poolings, strict=True) if n % 2**k]:
            wrong = f"patch {list(self.patch)}: {odd[0]} can't be halved so often"
        elif min(self.batch, self.epochs, self.iterations) < 1 or self.spacing_mm <= 0:
            wrong = "batch, epochs, iterations and spacing_mm must be above 0"
        if wrong:
            raise ConfigWrong(wrong)


def configuration_of(system: str) -> str:
    """A system's name in nnunetv2."""
    return CONFIGURATION_OF.get(system, system)


def plans(
    dataset_name: str, presets: Mapping[str, Preset], fingerprint: Mapping[str, Any]
) -> dict[str, Any]:
    """``plans.json`` as nnunetv2 2.8 reads it.

    Parameters
    ----------
    presets : by system
    fingerprint : nnunetv2's ``dataset_fingerprint.json``

    Raises
    ------
    ConfigWrong
        If there is a cascade without its first stage.
    """
    if CASCADE in presets and LOWRES not in presets:
        msg = f"{CASCADE} needs {LOWRES}, its first stage"
        raise ConfigWrong(msg)
    spacing = [float(mm) for mm in _median(fingerprint["spacings"])]
    shape = [float(n) for n in _median(fingerprint["shapes_after_crop"])]
    spacing, shape = ([each[axis] for axis in TRANSPOSE] for each in (spacing, shape))
    own = {
        configuration_of(system): _configuration(system, preset, presets, spacing, shape)
        for system, preset in presets.items()
    }
    return plans_json.plans(
        dataset_name=dataset_name,
        planner="limn lab reproduce",
        spacing_mm=spacing,
        size=[round(n) for n in shape],
        forward=TRANSPOSE,
        intensities=fingerprint["foreground_intensity_properties_per_channel"],
        configurations=own,
    )


def _median(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sorted(column)[len(column) // 2] for column in zip(*rows, strict=True)]


def _configuration(
    system: str,
    preset: Preset,
    presets: Mapping[str, Preset],
    median_mm: Sequence[float],
    median_shape: Sequence[float],
) -> dict[str, Any]:
    spacing = [preset.spacing_mm] * len(preset.patch)
    whole = [median_mm[0], *spacing] if preset.flat else spacing
    median_size = [
        n * old / new for n, old, new in zip(median_shape, median_mm, whole, strict=True)
    ]
    found = configuration(
        name=configuration_of(system),
        patch=preset.patch,
        spacing_mm=spacing,
        architecture=_architecture(preset),
        batch_size=preset.batch,
        median_size=median_size[-len(preset.patch) :],
        # As nnU-Net's planner where there is a lowres, which there is in the paper.
        batch_dice=system != LOWRES,
        previous=LOWRES if system == CASCADE else "",
    )
    following = {"next_stage": configuration_of(CASCADE)}
    return found | (following if system == LOWRES and CASCADE in presets else {})


def _architecture(preset: Preset) -> dict[str, Any]:
    axes, stages = len(preset.patch), len(preset.features)
    halved = [[2 if k < n else 1 for n in preset.poolings] for k in range(stages - 1)]
    return plain_unet(preset.features, [[3] * axes] * stages, [[1] * axes, *halved])
