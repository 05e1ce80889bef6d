"""nnunetv2's plans for a study: up to four configurations of one data set.

nnU-Net's own planner is not used, for its plan depends on the GPU's memory and the data set. The
paper's plan is known (Malimban 2022, Methods, "nnU-Net"), and a study may have a smaller one. The
posterior axis becomes the first one, so that 2d sees coronal slices, as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limn.domain.errors import ConfigWrong
from limn.lab.words import CASCADE, LOWRES
from limn.segment.bundle import plans_json
from limn.segment.bundle.plans_json import configuration, plain_unet

# Arrays have the axes S, P, L; the network sees P, S, L.
TRANSPOSE = (1, 0, 2)
# nnunetv2's name for the second stage of the cascade.
CONFIGURATION_OF = {CASCADE: "3d_cascade_fullres"}


@dataclass(frozen=True, slots=True)
class Preset:
    """One nnU-Net configuration, and the length of its training.

    Attributes
    ----------
    patch : voxels along P, S, L; along S, L for 2d
    poolings : number of halvings along each axis; the largest one decides the number of stages
    features : channels of every stage; their number is the largest pooling plus one
    epochs : of training; each ends with a validation on a few patches
    iterations : in an epoch
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
            wrong = (
                f"patch {list(self.patch)}, poolings {list(self.poolings)}: equal lengths expected"
            )
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
    presets : of all systems that are trained, by system
    fingerprint : nnunetv2's ``dataset_fingerprint.json``

    Raises
    ------
    ConfigWrong
        If a cascade lacks its first stage.
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
        # nnU-Net's planner does so where there is a lowres, as in the paper.
        batch_dice=system != LOWRES,
        previous=LOWRES if system == CASCADE else "",
    )
    following = {"next_stage": configuration_of(CASCADE)}
    return found | (following if system == LOWRES and CASCADE in presets else {})


def _architecture(preset: Preset) -> dict[str, Any]:
    axes, stages = len(preset.patch), len(preset.features)
    halved = [[2 if k < n else 1 for n in preset.poolings] for k in range(stages - 1)]
    return plain_unet(preset.features, [[3] * axes] * stages, [[1] * axes, *halved])
