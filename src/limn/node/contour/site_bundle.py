"""The site's bundle: may it deliver, what its structure sets say of it, which workers fit."""

from __future__ import annotations

from limn import __version__
from limn.domain.errors import BundleUnfit
from limn.node.config import Config
from limn.segment.bundle.bundle import Bundle, open_bundle


def label_of(config: Config, bundle: Bundle) -> str:
    """StructureSetLabel; a demonstration bundle says so."""
    label = config.planning_system.structure_set_label
    return f"{label} DEMO" if bundle.demonstration else label


def algorithm_of(bundle: Bundle) -> str:
    """The version of limn, the bundle and its hash, for the structure set's description."""
    return f"limn {__version__} {bundle.label} {bundle.sha256[:12]}"


def deliverable_bundle(config: Config) -> Bundle:
    """The site's bundle, if this site may deliver with it.

    Raises
    ------
    BundleUnfit
        If it is damaged, or a demonstration bundle and the site has not allowed that.
    """
    bundle = open_bundle(config.model.bundle)
    if bundle.demonstration and not config.model.allow_demo_bundle:
        msg = (
            f"bundle {bundle.label} is for demonstration ({bundle.not_for}); set "
            "model.allow_demo_bundle = true to deliver with it all the same"
        )
        raise BundleUnfit(msg)
    return bundle


def kind_of(bundle: Bundle) -> str:
    """What two hosts must have in common: limn and the bundle."""
    return f"limn {__version__}, bundle {bundle.sha256[:12]}"
