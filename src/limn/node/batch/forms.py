"""Writes what came of a scan in the forms that a person asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from limn.dicom.rtstruct import Style
from limn.dicom.segmentation import build_segmentation
from limn.domain.errors import ConfigWrong
from limn.domain.files import write_durably
from limn.formats.label_files import (
    stl_of,
    table_of,
    write_nifti,
    write_slicer_segmentation,
)
from limn.node.contour.pipeline import Product

Form = Literal["rtstruct", "seg", "nifti", "nrrd", "stl", "csv"]
FORMS: tuple[Form, ...] = get_args(Form)
# What a command writes if nobody asks for more.
RTSTRUCT: tuple[Form, ...] = ("rtstruct",)


def forms_of(text: str) -> tuple[Form, ...]:
    """Parse ``rtstruct,nifti``.

    Raises
    ------
    ConfigWrong
        Names the words that are no forms.
    """
    chosen = tuple(word.strip() for word in text.split(",") if word.strip())
    if wrong := [word for word in chosen if word not in FORMS]:
        msg = f"--as {','.join(wrong)}: any of {', '.join(FORMS)} expected"
        raise ConfigWrong(msg)
    return tuple(form for form in FORMS if form in chosen)


def write_forms(
    folder: Path,
    product: Product,
    style: Style,
    forms: Collection[Form],
) -> list[Path]:
    """Write these forms of a product, and its picture; returns the files.

    NIfTI, NRRD and SEG have the organs, whose labels exclude each other; surfaces and the table
    have the derived ROIs too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels, writers = product.labels, dict[Form, Callable[[], list[Path]]]()
    writers["rtstruct"] = lambda: [_written(folder / "RS.dcm", product.structure_set)]
    writers["seg"] = lambda: [
        _written(
            folder / "SEG.dcm",
            build_segmentation(
                product.series, labels.labels_zyx, labels.organs, product.identity, style
            ),
        )
    ]

    def nifti() -> list[Path]:
        write_nifti(folder / "labels.nii.gz", labels.labels_zyx, labels.grid)
        rows = [{"label": label, "organ": organ} for label, organ in labels.organs.items()]
        return [folder / "labels.nii.gz", _written(folder / "labels.csv", table_of(rows))]

    def nrrd() -> list[Path]:
        path = folder / "labels.seg.nrrd"
        write_slicer_segmentation(
            path, labels.labels_zyx, labels.grid, labels.organs, style.colours
        )
        return [path]

    writers["nifti"], writers["nrrd"] = nifti, nrrd
    writers["stl"] = lambda: [
        _written(folder / f"{product.roi_names[roi]}.stl", stl_of(np.asarray(mask), labels.grid))
        for roi, mask in product.rois.masks()
        if mask.any()
    ]
    writers["csv"] = lambda: [_written(folder / "volumes.csv", table_of(_rows(product)))]
    made = [path for form in FORMS if form in forms for path in writers[form]()]
    return [*made, _written(folder / "picture.png", product.picture)]


def _written(path: Path, contents: bytes) -> Path:
    write_durably(path, contents)
    return path


def _rows(product: Product) -> list[dict[str, object]]:
    volumes = product.rois.volumes_mm3()
    rows: list[dict[str, object]] = []
    for roi, name in product.roi_names.items():
        if roi not in volumes:
            continue
        quality = product.verdict.quality.get(roi)
        rows.append(
            {
                "roi": name,
                "volume_mm3": round(volumes[roi], 3),
                "mean_hu": _rounded(product.mean_hu.get(roi)),
                "light": str(product.verdict.light_of(roi) or ""),
                "predicted_dsc": "" if quality is None else round(quality.dsc.middle, 3),
            }
        )
    return rows


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 1)
