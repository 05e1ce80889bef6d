"""Writes what came of a scan in the forms that a person asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from limn.dicom.rtstruct import Style
from limn.dicom.series import Series
from limn.domain.errors import ConfigWrong, LimnError, StageFailed
from limn.domain.files import write_durably
from limn.domain.forms import FORMS, Form
from limn.domain.geometry import Grid, even_grid
from limn.formats.label_files import (
    file_name,
    table_of,
    write_nifti,
    write_slicer_segmentation,
)
from limn.formats.surfaces import stl_of
from limn.node.contour.pipeline import Product


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


@dataclass(frozen=True, slots=True, eq=False)
class Evened:
    """Labels and masks on evenly spaced slices; a slice that the series lacks is empty."""

    series: Series

    @property
    def grid(self) -> Grid:
        """With every slice."""
        return even_grid(self.series.grid, self.series.rungs)

    def array(self, on_slices_zyx: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array on the slices that exist as one on every slice."""
        count = self.grid.shape_zyx[0]
        if count == len(on_slices_zyx):
            return on_slices_zyx
        every = np.zeros((count, *on_slices_zyx.shape[1:]), dtype=on_slices_zyx.dtype)
        every[self.series.rungs] = on_slices_zyx
        return every


def write_forms(
    folder: Path, product: Product, style: Style, forms: Collection[Form]
) -> list[Path]:
    """Write the picture of a product and these forms; returns the files.

    NIfTI, NRRD and SEG have the organs, whose labels exclude each other; surfaces and the table
    have the derived ROIs too.

    Raises
    ------
    StageFailed
        Names each form that can't be written; all others are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made, failures = [_written(folder / "picture.png", product.picture)], []
    for form in FORMS:
        if form not in forms:
            continue
        try:
            made += _WRITERS[form](folder, product, style)
        except LimnError as error:
            failures.append(f"{form}: {error}")
    if failures:
        msg = f"not written: {'; '.join(failures)}. In {folder}: {', '.join(p.name for p in made)}"
        raise StageFailed(msg)
    return made


def forms_in_memory(
    product: Product, style: Style, forms: Collection[Form]
) -> tuple[dict[str, bytes], str]:
    """These forms as files by their names, and why others could not be made; empty if all were."""
    with TemporaryDirectory(prefix="limn-forms-") as temporary:
        folder, failure = Path(temporary), ""
        try:
            write_forms(folder, product, style, forms)
        except StageFailed as error:
            failure = str(error).partition(". In ")[0]
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    files.pop("picture.png", None)
    return files, failure


def _rtstruct(folder: Path, product: Product, style: Style) -> list[Path]:
    del style
    return [_written(folder / "RS.dcm", product.structure_set)]


def _seg(folder: Path, product: Product, style: Style) -> list[Path]:
    # highdicom takes a second to import, and few sites want a SEG.
    from limn.dicom.segmentation import build_segmentation  # noqa: PLC0415

    labels = product.labels
    contents = build_segmentation(
        product.series, labels.labels_zyx, labels.organs, product.identity, style
    )
    return [_written(folder / "SEG.dcm", contents)]


def _nifti(folder: Path, product: Product, style: Style) -> list[Path]:
    labels, even = product.labels, Evened(product.series)
    write_nifti(folder / "labels.nii.gz", even.array(labels.labels_zyx), even.grid)
    rows = [
        {"label": label, "organ": style.roi_names[organ]} for label, organ in labels.organs.items()
    ]
    return [folder / "labels.nii.gz", _written(folder / "labels.csv", table_of(rows))]


def _nrrd(folder: Path, product: Product, style: Style) -> list[Path]:
    labels, even = product.labels, Evened(product.series)
    path = folder / "labels.seg.nrrd"
    write_slicer_segmentation(
        path, even.array(labels.labels_zyx), even.grid, labels.organs, style.colours
    )
    return [path]


def _stl(folder: Path, product: Product, style: Style) -> list[Path]:
    even = Evened(product.series)
    return [
        _written(
            folder / f"{file_name(style.roi_names[roi])}.stl", stl_of(even.array(mask), even.grid)
        )
        for roi, mask in product.rois.masks()
        if mask.any()
    ]


def _csv(folder: Path, product: Product, style: Style) -> list[Path]:
    del style
    return [_written(folder / "volumes.csv", table_of(_rows(product)))]


_WRITERS: Mapping[Form, Callable[[Path, Product, Style], list[Path]]] = {
    "rtstruct": _rtstruct,
    "seg": _seg,
    "nifti": _nifti,
    "nrrd": _nrrd,
    "stl": _stl,
    "csv": _csv,
}


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
