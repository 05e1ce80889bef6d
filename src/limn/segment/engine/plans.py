"""Reads one configuration of a bundle's nnunetv2 plans, and refuses it early if it can't run."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from limn.domain.errors import BundleUnfit
from limn.segment.bundle.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Plan:
    """One configuration of nnU-Net's plans. Axes are those after ``transpose_forward``.

    Attributes
    ----------
    patch : voxels of a tile; one slice thick in a 2d configuration
    spacing_mm : of the network's grid; None along an axis that keeps the scan's own spacing
    transpose : ``transpose_forward``, for arrays in the bundle's orientation
    mean, std, low, high : of CTNormalization
    flat : whether the networks are 2d
    architecture : class and arguments of the networks
    """

    patch: tuple[int, int, int]
    spacing_mm: tuple[float | None, float, float]
    transpose: tuple[int, int, int]
    mean: float
    std: float
    low: float
    high: float
    flat: bool
    architecture: dict[str, Any]


def read_plan(bundle: Bundle) -> Plan:
    """The plan of the bundle's configuration.

    Raises
    ------
    BundleUnfit
        If plans.json is not usable, or needs a preprocessing that limn does not have.
    """
    try:
        plans = json.loads((bundle.folder / "plans.json").read_text(encoding="utf-8"))
        return _read(bundle, plans)
    except (LookupError, OverflowError, RecursionError, TypeError, ValueError) as error:
        msg = f"bundle {bundle.label}: plans.json is not usable: {error!r}"
        raise BundleUnfit(msg) from error


def check_numbers(bundle: Bundle) -> None:
    """Refuse plans that no engine could run, before the bundle is installed.

    Raises
    ------
    BundleUnfit
        If a number is not finite, or a patch does not fit the network's strides.
    """
    try:
        plans = json.loads((bundle.folder / "plans.json").read_text(encoding="utf-8"))
        _check(
            _configuration(bundle, plans), plans["foreground_intensity_properties_per_channel"]["0"]
        )
        forward, backward = plans["transpose_forward"], plans["transpose_backward"]
        if [forward[axis] for axis in backward] != [0, 1, 2]:
            msg = f"transpose_backward {backward} does not undo transpose_forward {forward}"
            raise BundleUnfit(msg)
    except (LookupError, OverflowError, RecursionError, TypeError, ValueError) as error:
        msg = f"bundle {bundle.label}: plans.json is not usable: {error}"
        raise BundleUnfit(msg) from error


def _configuration(bundle: Bundle, plans: dict[str, Any]) -> dict[str, Any]:
    """The configuration, completed by the one that it inherits from, as in a cascade."""
    every: dict[str, dict[str, Any]] = plans["configurations"]
    own = every[bundle.configuration]
    return every[own["inherits_from"]] | own if "inherits_from" in own else own


def _check(configuration: dict[str, Any], intensities: dict[str, Any]) -> None:
    for key in ("mean", "std", "percentile_00_5", "percentile_99_5"):
        if not math.isfinite(intensities[key]):
            msg = f"{key} of the intensities is {intensities[key]}"
            raise ValueError(msg)
    if not all(0 < float(mm) < math.inf for mm in configuration["spacing"]):
        msg = f"spacing is {configuration['spacing']}"
        raise ValueError(msg)
    strides = zip(*configuration["architecture"]["arch_kwargs"]["strides"], strict=True)
    shrinks = [math.prod(along) for along in strides]
    patch = [int(n) for n in configuration["patch_size"]]
    if any(by < 1 or n < 1 or n % by for n, by in zip(patch, shrinks, strict=True)):
        msg = f"patch_size {patch} can't be divided by the network's strides {shrinks}"
        raise ValueError(msg)


def _read(bundle: Bundle, plans: dict[str, Any]) -> Plan:
    configuration = _configuration(bundle, plans)
    if configuration.get("previous_stage"):
        msg = (
            f"bundle {bundle.label}: {bundle.configuration} refines what "
            f"{configuration['previous_stage']} found; limn runs single stages: use 3d_fullres"
        )
        raise BundleUnfit(msg)
    if configuration["normalization_schemes"] != ["CTNormalization"]:
        msg = f"bundle {bundle.label}: only CTNormalization is implemented"
        raise BundleUnfit(msg)
    first, second, third = plans["transpose_forward"]
    if sorted((first, second, third)) != [0, 1, 2]:
        msg = f"transpose_forward {plans['transpose_forward']} is no order of three axes"
        raise ValueError(msg)
    properties = plans["foreground_intensity_properties_per_channel"]["0"]
    _check(configuration, properties)
    patch, spacing = configuration["patch_size"], configuration["spacing"]
    axes = configuration["architecture"]["arch_kwargs"]["conv_op"][-2]
    if not len(patch) == len(spacing) == int(axes):
        msg = f"patch_size {patch}, spacing {spacing} and {axes}d convolutions do not fit together"
        raise ValueError(msg)
    flat = len(patch) == 2
    z, y, x = [1, *patch] if flat else patch
    across = None if flat else float(spacing[0])
    return Plan(
        patch=(int(z), int(y), int(x)),
        spacing_mm=(across, float(spacing[-2]), float(spacing[-1])),
        transpose=(first, second, third),
        mean=properties["mean"],
        std=max(properties["std"], 1e-8),
        low=properties["percentile_00_5"],
        high=properties["percentile_99_5"],
        flat=flat,
        architecture=configuration["architecture"],
    )
