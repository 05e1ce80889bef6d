"""A site whose mice no bundle saw: another strain, another scanner, another way to contour.

The mice are smaller and fatter than any that teaches the embedded bundle, with a long slender
heart. The scanner is blurred, its noise coarse, its beam hard. The site contours the heart without
its atria, and the cord down to the caudal edge of L2. The files are NIfTI, to be imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from limn.domain.files import write_durably
from limn.domain.geometry import Grid, SpacingMm
from limn.domain.scan import Labels, Organ, Volume
from limn.formats.label_files import image_of, write_image
from limn.phantom.anatomy import (
    CORD,
    HEART,
    KIDNEY_L,
    KIDNEY_R,
    LIVER,
    THORACIC_VERTEBRAE,
    TRUTH_LABELS,
    WHOLE_LABELS,
    Mouse,
    conceive,
)
from limn.phantom.body import labels_of
from limn.phantom.canvas import Canvas, Field, warped
from limn.phantom.chest import HeartFrame
from limn.phantom.layout import Layout
from limn.phantom.scanner import Scanner, expose
from limn.phantom.skeleton import cord_share

# No training, cohort or test has seeds from here to 660,000.
FIRST_SEED = 650_000
# Those that test lie far from those that teach.
FIRST_TEST = 655_000
SPACING_MM = 0.18
LUMBAR_VERTEBRAE = 2
# Share of half the heart's length: what lies further from the apex is not contoured.
BASE = -0.4
FOUR = tuple(TRUTH_LABELS.values())
SEVEN = (*FOUR, *(WHOLE_LABELS[label] for label in (LIVER, KIDNEY_R, KIDNEY_L)))
# `lab.adapt` knows painted animals by this.
GROUP = "phantom"


@dataclass(frozen=True, slots=True)
class OtherSite:
    """The site's scanner and its list of organs.

    Attributes
    ----------
    organs : names, each of `phantom.anatomy.WHOLE_LABELS`
    spacing_mm : isotropic voxels
    size_mm : field of view along S, P, L
    """

    organs: tuple[Organ, ...] = FOUR
    spacing_mm: float = SPACING_MM
    size_mm: tuple[float, float, float] = (39.6, 27.0, 28.8)

    def mouse(self, seed: int) -> Mouse:
        """An animal of the site's strain."""
        usual = conceive(seed, prone=True)
        build = replace(
            usual.build,
            size=0.82 + 0.2 * (usual.build.size - 0.99),
            fat_mm=2.2 + 0.3 * usual.build.fat_mm,
            heart_slenderness=1.9 + 0.2 * (usual.build.heart_slenderness - 1.5),
            chest_width=usual.build.chest_width * 1.05,
        )
        soft = usual.tissue.soft
        tissue = replace(
            usual.tissue,
            lung=-300.0 + 0.2 * (usual.tissue.lung + 500.0),
            heart=soft + 5.0,
            blood=soft + 8.0,
            bone=2000.0,
        )
        around = replace(usual.around, tubes=0, wires=0, nozzle=True)
        return replace(usual, build=build, tissue=tissue, around=around)

    def scanner(self, seed: int) -> Scanner:
        """The site's scanner on the day of a scan."""
        rng = np.random.default_rng([seed, 31])
        nz, ny, nx = (round(mm / self.spacing_mm) for mm in self.size_mm)
        return Scanner(
            spacing_mm=SpacingMm(self.spacing_mm, self.spacing_mm, self.spacing_mm),
            shape_zyx=(nz, ny, nx),
            centre_xyz_mm=(float(rng.normal(0.0, 0.5)), 0.5, -7.0 + float(rng.normal(0.0, 0.5))),
            blur_mm=0.3,
            noise_hu=70.0 * float(np.exp(rng.normal(0.0, 0.08))),
            grain_mm=0.4,
            breathing_mm=0.6,
            hardening_hu=140.0,
            rings_hu=80.0,
            streaks_hu=40.0,
            offset_hu=90.0 + float(rng.normal(0.0, 5.0)),
            scale=0.88,
        )

    def scan(self, seed: int) -> tuple[Volume, Labels]:
        """The scan of an animal, contoured as this site does."""
        mouse = self.mouse(seed)

        def contour(hu: Field, shares: npt.NDArray[np.uint8], grid: Grid) -> None:
            del hu
            recontour(mouse, shares, grid)

        whole = set(self.organs) - set(TRUTH_LABELS.values())
        painted = WHOLE_LABELS if whole else TRUTH_LABELS
        volume, shares = expose(mouse, self.scanner(seed), seed, contour, organs=len(painted))
        every = labels_of(shares)
        named = {organ: label for label, organ in painted.items()}
        labels_zyx = np.zeros_like(every)
        for own, organ in enumerate(self.organs, start=1):
            labels_zyx[every == named[organ]] = own
        organs = dict(enumerate(self.organs, start=1))
        return volume, Labels(labels_zyx, volume.grid, organs)


def recontour(mouse: Mouse, shares: npt.NDArray[np.uint8], grid: Grid) -> None:
    """Change the truth: the heart without its atria, the cord down to L2."""
    x, y, z = warped(grid, mouse.pose, mouse.build.size, (0.0, 0.0, 0.0))
    voxel_mm = float(np.mean(grid.spacing_mm.zyx)) / mouse.build.size
    canvas = Canvas(x, y, z, np.zeros_like(x), None, voxel_mm)
    layout = Layout.of(mouse)
    frame = HeartFrame.of(layout, mouse)
    steps = zip((x, y, z), frame.centre, frame.along, strict=True)
    along_mm = sum((axis - np.float32(c)) * np.float32(a) for axis, c, a in steps)
    base_mm = np.float32(BASE * frame.length_mm) - along_mm
    ventricles = canvas.covered(np.maximum(frame.egg(canvas), base_mm))
    shares[HEART - 1] = np.minimum(shares[HEART - 1], np.rint(255.0 * ventricles))
    cord = cord_share(canvas, layout, mouse, THORACIC_VERTEBRAE + LUMBAR_VERTEBRAE)
    more = np.rint(255.0 * cord).astype(np.uint8)
    shares[CORD - 1] = np.maximum(shares[CORD - 1], more)


def write_site(folder: Path, site: OtherSite, seeds: Mapping[str, int]) -> tuple[Path, Path]:
    """Write the scans that the folder lacks, as ``ANIMAL/ct.nii.gz`` and ``organs.nii.gz``.

    Parameters
    ----------
    seeds : of each animal

    Returns
    -------
    The folder of the scans and a layout for `limn lab import`.
    """
    scans = folder / "scans"
    for animal, seed in seeds.items():
        own = scans / f"{animal}_d0"
        if (own / "organs.nii.gz").exists():
            continue
        own.mkdir(parents=True, exist_ok=True)
        volume, labels = site.scan(seed)
        span = np.iinfo(np.int16)
        hu = np.clip(np.rint(volume.hu_zyx), span.min, span.max).astype(np.int16)
        write_image(own / "ct.nii.gz", image_of(hu, volume.grid))
        write_image(own / "organs.nii.gz", image_of(labels.labels_zyx, volume.grid))
    named = ", ".join(f"{organ} = {label}" for label, organ in enumerate(site.organs, start=1))
    layout = folder / "layout.toml"
    write_durably(layout, LAYOUT.format(group=GROUP, labels=named).encode())
    return scans, layout


LAYOUT = """\
[{group}]
contrast = false
ct = ["{{animal}}_{{time}}/ct.nii.gz"]

[{group}.observer1]
files = ["{{animal}}_{{time}}/organs.nii.gz"]
labels = {{ {labels} }}
"""


def split_toml(groups: Sequence[Sequence[str]], testing: Sequence[str]) -> str:
    """A split for `limn lab import`: animals that are left out together, and those that test."""

    def listed(animals: Sequence[str]) -> str:
        return "[" + ", ".join(f'"{animal}"' for animal in animals) + "]"

    folds = ", ".join(map(listed, groups))
    return f"test1 = {listed(testing)}\ntest2 = []\nfolds = [{folds}]\n"
