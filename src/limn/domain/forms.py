"""The forms in which contours leave limn, by the names that a config and a command use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Form = Literal["rtstruct", "seg", "nifti", "nrrd", "stl", "csv"]
FORMS: tuple[Form, ...] = get_args(Form)
# What is written if nobody asks for more.
RTSTRUCT: tuple[Form, ...] = ("rtstruct",)
# What a DICOM destination takes; it refers to the CT series.
BY_C_STORE: tuple[Form, ...] = ("rtstruct", "seg")
# How the names of a form's files end; the table of labels belongs to the NIfTI file.
ENDINGS: Mapping[Form, tuple[str, ...]] = {
    "seg": ("SEG.dcm",),
    "nifti": ("labels.nii.gz", "labels.csv"),
    "nrrd": (".seg.nrrd",),
    "stl": (".stl",),
    "csv": ("volumes.csv",),
}
