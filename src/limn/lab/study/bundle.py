"""The bundle of a study: its manifest's statement, and how it is sealed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from limn.domain.files import new_folder
from limn.lab.data.dataset import Entry
from limn.lab.data.organs import DatasetOrgans
from limn.lab.data.readers import AXES
from limn.lab.study.config import StudyConfig
from limn.lab.words import REFERENCE_SYSTEM
from limn.segment.bundle.profile import ProfileName
from limn.segment.importing.import_v2 import read_v2
from limn.segment.importing.trained import NOT_STATED, BundleStatement, seal

NEVER_SEEN = "not for animals: it has never seen one"


def bundle_statement(
    config: StudyConfig, training: Sequence[Entry], organs: DatasetOrgans
) -> BundleStatement:
    """The statement for the 3d_fullres folds; with one phantom in training, a demonstration.

    Parameters
    ----------
    training : every scan that trains
    """
    own, preset = config.naming, config.nnunet[REFERENCE_SYSTEM]
    # Only a phantom has a truth.
    phantoms = sum(bool(entry.truth) for entry in training)
    not_for = [NEVER_SEEN] if phantoms == len(training) else []
    not_for += [own.not_for] if own.not_for else []
    return BundleStatement(
        name=own.name,
        version=own.version,
        organs=dict(organs.organs),
        roles=organs.roles,
        orientation=AXES,
        trained_on=(
            f"{_learnt_from(training, phantoms)}, by nnU-Net {REFERENCE_SYSTEM} in "
            f"{len({entry.fold for entry in training})} folds of {preset.epochs} epochs of "
            f"{preset.iterations} steps, voxels of {preset.spacing_mm:g} mm"
        ),
        not_for="; ".join(not_for) or NOT_STATED,
        source="nnU-Net v2, trained by limn lab reproduce",
        demonstration=phantoms > 0,
    )


def seal_folds(
    trained: Path, bundle: Path, statement: BundleStatement, profile: ProfileName
) -> None:
    """Seal nnunetv2's result folder as a bundle, unless the bundle is there already.

    Raises
    ------
    BundleUnfit
        If the folds and the statement don't fit together.
    """
    if bundle.exists():
        return
    with new_folder(bundle) as part:
        # `seal` makes the folder itself.
        part.rmdir()
        seal(replace(read_v2(trained), profile=profile), statement, part)


def _learnt_from(training: Sequence[Entry], phantoms: int) -> str:
    animals = len({entry.animal for entry in training})
    if phantoms == len(training):
        return f"{phantoms} scans of {animals} digital phantom mice and no animal"
    enhanced = sum(entry.contrast == "yes" for entry in training)
    of_them = f", {enhanced} of them contrast-enhanced" if enhanced else ", all native"
    mixed = f", {phantoms} of them digital phantoms" if phantoms else ""
    return f"{len(training)} scans of {animals} animals{of_them}{mixed}"
