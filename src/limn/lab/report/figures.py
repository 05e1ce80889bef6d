"""Draws the pictures of `docs/phantom.md`: phantoms, and the real mouse that they imitate."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK
from PIL import Image

from limn.domain.errors import ConfigWrong
from limn.domain.files import replacement
from limn.domain.folders import writable
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import TG263_ROLES, Labels, Role, Volume
from limn.lab.measure.evaluate import colours_of
from limn.lab.report.ct_from_labels import ct_from_labels
from limn.phantom.anatomy import Mouse, conceive
from limn.phantom.scanner import Scanner, random_scanner, scan
from limn.segment.draw.picture.legend import Banner, Legend
from limn.segment.draw.picture.sheet import draw_contours

SPACING_MM = 0.14
FIELD_MM = (30.0, 26.0, 30.0)
WIDE_FIELD_MM = (28.0, 26.0, 44.8)
# Organs by their label numbers in the database of Rosenhain 2018; its lungs are one label.
REAL_ORGANS = {1: TG263_ROLES[Role.HEART], 4: TG263_ROLES[Role.LUNG_R]}
REAL_HU = {1: 50.0, 3: 700.0, 4: -450.0, 9: 40.0, 10: 50.0, 11: 80.0}


def draw_sheets(folder: Path, real_labels: Path | None) -> list[Path]:
    """Every sheet that `docs/phantom.md` shows.

    Parameters
    ----------
    real_labels : organ labels of a real mouse (NIfTI, Rosenhain 2018); None leaves out its sheet

    Raises
    ------
    ConfigWrong
        Before anything is painted, if the folder can't be written or the labels can't be read.
    """
    writable(folder)
    real = [] if real_labels is None else [_read(real_labels)]
    sheets = {
        "native": [_picture("native", conceive(seed), _usual_scanner()) for seed in (11, 4, 2)],
        "contrast": [
            _picture("contrast-enhanced", conceive(seed, contrast=True), _usual_scanner())
            for seed in (12, 3)
        ],
        "hard": [
            _picture("another scanner", conceive(seed), _other_scanner(seed)) for seed in (27, 31)
        ]
        + [
            _picture(
                "a second animal",
                conceive(9, neighbour=True),
                replace(_usual_scanner(), shape_zyx=_voxels(WIDE_FIELD_MM)),
            )
        ],
    }
    if real:
        sheets["real"] = [_real_picture(image) for image in real]
    written = []
    for name, pictures in sheets.items():
        path = folder / f"phantom-{name}.png"
        with replacement(path) as part:
            _stack(pictures).save(part, format="PNG", optimize=True)
        written.append(path)
    return written


def _usual_scanner() -> Scanner:
    spacing = SpacingMm(SPACING_MM, SPACING_MM, SPACING_MM)
    return Scanner(spacing, _voxels(FIELD_MM), (0.0, 1.0, -2.0), noise_hu=40.0)


def _voxels(field_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    z, y, x = (round(mm / SPACING_MM) for mm in field_mm)
    return (z, y, x)


def _other_scanner(seed: int) -> Scanner:
    usual = _usual_scanner()
    scanner = random_scanner(seed, SPACING_MM, usual.shape_zyx)
    return replace(scanner, centre_xyz_mm=usual.centre_xyz_mm)


def _picture(title: str, mouse: Mouse, scanner: Scanner) -> bytes:
    volume, truth = scan(mouse, scanner, mouse.seed)
    caption = f"phantom {mouse.seed}   {title}   {scanner.spacing_mm.x} mm   contours: its truth"
    return draw_contours(
        volume,
        truth,
        colours_of(truth.organs.values()),
        Banner(caption),
        Legend(truth.volumes_mm3()),
    )


def _read(path: Path) -> SimpleITK.Image:
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        msg = f"{path} can't be read as NIfTI; give the organ labels of a real mouse"
        raise ConfigWrong(msg) from error
    if image.GetDimension() != 3 or not np.isin(SimpleITK.GetArrayViewFromImage(image), 1).any():
        msg = f"{path} holds no heart (label 1) in three dimensions; give organ labels"
        raise ConfigWrong(msg)
    return image


def _real_picture(image: SimpleITK.Image) -> bytes:
    labels = SimpleITK.GetArrayFromImage(image)
    x, y, z = image.GetSpacing()
    spacing = SpacingMm(z, y, x)
    hu, _ = ct_from_labels(labels, spacing, REAL_HU)
    # By the file's header, rows grow towards the belly and columns towards the animal's right.
    grid = axial_grid(labels.shape, spacing, np.zeros(3))
    kept = np.where(np.isin(labels, list(REAL_ORGANS)), labels, 0).astype(np.uint8)
    organs = Labels(np.ascontiguousarray(kept[:, ::-1, ::-1]), grid, REAL_ORGANS)
    caption = (
        "real organ labels (Rosenhain 2018, CT140)   image made from them   lungs are one label"
    )
    return draw_contours(
        Volume(np.ascontiguousarray(hu[:, ::-1, ::-1]), grid),
        organs,
        colours_of(organs.organs.values()),
        Banner(caption),
        Legend(organs.volumes_mm3()),
    )


def _stack(pictures: Sequence[bytes]) -> Image.Image:
    images = [Image.open(io.BytesIO(picture)) for picture in pictures]
    sheet = Image.new("RGB", (max(i.width for i in images), sum(i.height for i in images)))
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    return sheet
