"""The site's bundle: may it deliver, what its structure sets say of it, which workers fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from limn import __version__
from limn.dicom.rtstruct import Style
from limn.domain.errors import BundleUnfit, ConfigWrong
from limn.domain.organ_codes import Code
from limn.domain.roi_rules import RoiRule, faults_of
from limn.domain.scan import Organ
from limn.node.config import Config, PlanningSystem
from limn.segment.bundle.bundle import Bundle, glance, open_bundle

_Value = TypeVar("_Value")


def label_of(config: Config, bundle: Bundle) -> str:
    """StructureSetLabel; a demonstration bundle says so."""
    label = config.planning_system.structure_set_label
    return f"{label} DEMO" if bundle.demonstration else label


def algorithm_of(bundle: Bundle) -> str:
    """The version of limn, the bundle and its hash, for the structure set's description."""
    return f"limn {__version__} {bundle.label} {bundle.sha256[:12]}"


def look_at(folder: Path) -> Bundle:
    """What a bundle says of itself; nothing is verified.

    Raises
    ------
    BundleUnfit
        If there is no bundle.
    """
    return glance(folder)


def verified(folder: Path) -> Bundle:
    """A bundle whose every file matches its hash, whether this site may deliver with it or not.

    Raises
    ------
    BundleUnfit
        If it is damaged, or there is none.
    """
    return open_bundle(folder)


def deliverable_bundle(config: Config) -> Bundle:
    """The site's bundle, if this site may deliver with it.

    Raises
    ------
    BundleUnfit
        If it is damaged, or a demonstration bundle and the site has not allowed that.
    ConfigWrong
        If the site names an organ that it does not have.
    """
    bundle = open_bundle(config.model.bundle)
    if bundle.demonstration and not config.model.allow_demo_bundle:
        msg = (
            f"bundle {bundle.label} is for demonstration ({bundle.not_for}); set "
            "model.allow_demo_bundle = true to deliver with it all the same"
        )
        raise BundleUnfit(msg)
    names = style_of(config.planning_system, bundle, config.roi).roi_names.values()
    for destination in config.destination:
        if unknown := sorted({*(destination.rois or ())} - {*names}):
            msg = (
                f"destination {destination.name}: rois names {', '.join(unknown)}; the structure "
                f"set has {', '.join(names)}"
            )
            raise ConfigWrong(msg)
    return bundle


def style_of(
    planning_system: PlanningSystem, bundle: Bundle, rois: Sequence[RoiRule] = ()
) -> Style:
    """The form of structure sets: what the site says, then the bundle, then what is usual.

    Raises
    ------
    ConfigWrong
        If the site names an organ that the bundle does not have, or two ROIs have one name.
    """
    if faults := faults_of(rois, list(bundle.organs.values())):
        raise ConfigWrong("; ".join(faults))
    organs = [*bundle.organs.values(), *(Organ(rule.name) for rule in rois)]
    for key in ("roi_names", "colours"):
        if unknown := sorted(set(getattr(planning_system, key)) - set(organs)):
            msg = (
                f"planning_system.{key} names {', '.join(unknown)}; the ROIs of bundle "
                f"{bundle.label} and of this site are {', '.join(organs)}"
            )
            raise ConfigWrong(msg)
    style = Style.of_organs(
        organs,
        planning_system.species or bundle.species.scientific_name,
        roi_names=planning_system.roi_names,
        colours={str(organ): rgb for organ, rgb in bundle.colours.items()}
        | planning_system.colours,
        codes={name: Code(*code) for name, code in _by_name(bundle.codes).items()},
        strain=planning_system.strain,
        holes=planning_system.holes,
    )
    style = replace(style, interpreted={Organ(rule.name): rule.interpreted for rule in rois})
    names = list(style.roi_names.values())
    if len(set(names)) < len(names):
        msg = f"planning_system.roi_names: two organs have the same ROI name: {', '.join(names)}"
        raise ConfigWrong(msg)
    return style


def _by_name(values: Mapping[Organ, _Value]) -> dict[str, _Value]:
    """The same with names as a config has them."""
    return {str(organ): value for organ, value in values.items()}


def kind_of(bundle: Bundle) -> str:
    """What two hosts must have in common: limn and the bundle."""
    return f"limn {__version__}, bundle {bundle.sha256[:12]}"
