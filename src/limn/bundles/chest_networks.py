"""Gives an imported bundle of the chest the embedded bundle's two small networks.

The onlooker finds how an animal lies, the localiser where its chest is. Both look at a coarse
picture of density and know nothing of the bundle's own networks, so they serve every bundle whose
organs lie in a mouse's chest (D-256).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from limn.domain.scan import Role
from limn.domain.shipped import EMBEDDED_BUNDLE
from limn.segment.bundle.bundle import Bundle, add_part, open_bundle
from limn.segment.bundle.species import MOUSE

NEEDED = {Role.HEART, Role.LUNG_R, Role.LUNG_L}


def add_chest_networks(folder: Path) -> Bundle:
    """Copy onlooker and localiser into a sealed bundle that lacks them, and seal it again.

    A bundle of other organs, or of another species, stays as it is.

    Raises
    ------
    BundleUnfit
        If one of the two bundles is damaged.
    """
    bundle = open_bundle(folder)
    if not (bundle.within_chest and set(bundle.roles) >= NEEDED and bundle.species == MOUSE):
        return bundle
    embedded = open_bundle(EMBEDDED_BUNDLE)
    for key, own, name in (
        ("onlooker", bundle.onlooker, embedded.onlooker),
        ("localiser", bundle.localiser, embedded.localiser),
    ):
        if own is None and name is not None:
            shutil.copyfile(embedded.folder / name, folder / name)
            bundle = add_part(folder, key, name)
    return bundle
