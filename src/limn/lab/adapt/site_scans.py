"""The site's scans: which teach, which are left out by which fold, which test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from limn.domain.errors import ConfigWrong
from limn.domain.scan import Labels, Organ, Volume
from limn.lab.data.dataset import MANIFEST, Entry, read_dataset
from limn.lab.data.organs import read_organs
from limn.lab.data.readers import read_ct
from limn.phantom.cohort import CohortSplit

# So begin the names of painted animals of `lab.phantoms.other_site`.
PAINTED = "phantom-"
# One to learn from and one to leave out.
FEWEST_ANIMALS = 2
# Voxels longer than so many of the networks' show too little; shorter ones are in another unit.
LONGEST, SHORTEST = 3.0, 0.1


@dataclass(frozen=True, slots=True)
class SiteScan:
    """A contoured scan of a site's data set.

    Attributes
    ----------
    group : number of the animals that are left out together; None for an animal that tests
    organs : that are contoured in it; of the others the truth is not known
    spacing_mm : of its voxels along S, P, L
    phantom : it was painted: it has a truth, or its animal is called so
    """

    name: str
    animal: str
    group: int | None
    ct: Path
    contours: Path
    labels: Mapping[int, Organ]
    organs: tuple[Organ, ...]
    spacing_mm: tuple[float, ...]
    phantom: bool

    def read(self) -> tuple[Volume, Labels]:
        """The CT, and the contours of its organs alone."""
        volume = read_ct(self.ct, "")
        labels_zyx = read_ct(self.contours, "").hu_zyx.astype(np.uint8)
        known = {label: organ for label, organ in self.labels.items() if organ in self.organs}
        labels_zyx[~np.isin(labels_zyx, list(known))] = 0
        return volume, Labels(labels_zyx, volume.grid, known)


@dataclass(frozen=True, slots=True)
class SiteData:
    """What a site gives to learn from and to test by."""

    folder: Path
    scans: tuple[SiteScan, ...]

    @property
    def teaching(self) -> tuple[SiteScan, ...]:
        """The scans of the animals that teach."""
        return tuple(scan for scan in self.scans if scan.group is not None)

    @property
    def testing(self) -> tuple[SiteScan, ...]:
        """The scans of the animals that only test."""
        return tuple(scan for scan in self.scans if scan.group is None)

    @property
    def groups(self) -> int:
        """How many groups of animals are left out in turn."""
        return len({scan.group for scan in self.teaching})

    @property
    def organs(self) -> tuple[Organ, ...]:
        """The organs that teach, in the order of their labels."""
        found = {organ for scan in self.teaching for organ in scan.organs}
        labels = {organ: None for scan in self.scans for organ in scan.labels.values()}
        return tuple(organ for organ in labels if organ in found)

    def animals(self, scans: Sequence[SiteScan]) -> tuple[str, ...]:
        """The animals of some scans."""
        return tuple(dict.fromkeys(scan.animal for scan in scans))


def read_site(folder: Path, wanted: Sequence[Organ] | None) -> SiteData:
    """The scans of a data set of ``limn lab import``; its split says who teaches and who tests.

    Parameters
    ----------
    wanted : organs to learn; None for all that are contoured

    Raises
    ------
    ConfigWrong
        If it can't be read, an animal is on two sides, too few animals teach, or an organ that is
        wanted is contoured in none of them.
    """
    entries = read_dataset(folder)
    labels = read_organs(folder).organs
    groups = sorted({entry.fold for entry in entries if entry.split == CohortSplit.TRAIN})
    scans = [_scan(folder, entry, labels, groups) for entry in entries]
    site = SiteData(folder, tuple(scan for scan in scans if scan is not None and scan.organs))
    if absent := [organ for organ in wanted or () if organ not in site.organs]:
        found = ", ".join(site.organs)
        msg = f"{folder}: no scan that teaches has contours of {', '.join(absent)}; it has {found}"
        raise ConfigWrong(msg)
    if wanted is not None:
        chosen = [replace(scan, organs=_among(scan.organs, wanted)) for scan in site.scans]
        site = replace(site, scans=tuple(scan for scan in chosen if scan.organs))
    site = replace(site, scans=_numbered(site.scans))
    here = site.animals(site.teaching)
    if len(here) < FEWEST_ANIMALS or site.groups < FEWEST_ANIMALS:
        msg = (
            f"{folder / MANIFEST}: {len(here)} contoured animals teach, in {site.groups} folds; at "
            f"least {FEWEST_ANIMALS} must, each in a fold of its own, so that a network can be "
            "tried on one that it never saw: import again with --split"
        )
        raise ConfigWrong(msg)
    return site


def _numbered(scans: Sequence[SiteScan]) -> tuple[SiteScan, ...]:
    """With the groups counted anew: a fold none of whose animals is contoured is no group."""
    groups = sorted({scan.group for scan in scans if scan.group is not None})
    return tuple(
        scan if scan.group is None else replace(scan, group=groups.index(scan.group))
        for scan in scans
    )


def _among(organs: Sequence[Organ], wanted: Sequence[Organ]) -> tuple[Organ, ...]:
    return tuple(organ for organ in organs if organ in wanted)


def refuse_spacing(site: SiteData, spacing_mm: Sequence[float]) -> None:
    """Refuse voxels that are far from the networks'.

    Raises
    ------
    ConfigWrong
        Names the scan and both spacings.
    """
    for scan in site.scans:
        ratios = [mm / min(spacing_mm) for mm in scan.spacing_mm]
        if max(ratios) > LONGEST or min(ratios) < SHORTEST:
            shown = [" x ".join(f"{mm:g}" for mm in each) for each in (scan.spacing_mm, spacing_mm)]
            msg = (
                f"{scan.ct}: voxels of {shown[0]} mm, the bundle's are {shown[1]} mm: more than "
                f"{LONGEST:g} times as long, or less than a {1 / SHORTEST:.0f}th; leave the scan "
                "out, or adapt a bundle of such voxels"
            )
            raise ConfigWrong(msg)


def _scan(
    folder: Path,
    entry: Entry,
    labels: Mapping[int, Organ],
    groups: Sequence[str],
) -> SiteScan | None:
    drawn = entry.truth or entry.observer1
    if not drawn:
        return None
    teaches = entry.split == CohortSplit.TRAIN
    return SiteScan(
        name=entry.scan,
        animal=entry.animal,
        group=groups.index(entry.fold) if teaches else None,
        ct=folder / entry.ct,
        contours=folder / drawn,
        labels=labels,
        organs=contoured(read_ct(folder / drawn, "").hu_zyx, labels),
        spacing_mm=tuple(float(mm) for mm in entry.spacing_mm.split()),
        phantom=bool(entry.truth) or entry.animal.startswith(PAINTED),
    )


def contoured(
    labels_zyx: npt.NDArray[np.float32], labels: Mapping[int, Organ]
) -> tuple[Organ, ...]:
    """The organs that have a voxel.

    An organ without one may be there and not contoured, so that nothing is known of it.
    """
    found = set(np.unique(labels_zyx).astype(int).tolist())
    return tuple(organ for label, organ in labels.items() if label in found)
