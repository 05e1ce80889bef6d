"""How soon a scan of no plausible size is refused, and with how much memory, as a whole process.

python bench/sizes.py

A phantom is written as DICOM with the voxel size in its header multiplied, beside a person's CT and
an empty field of 500 mm. Each is given to ``limn contour`` as a user would. The goal is 5 s and
2 GB (10^9 bytes), start of the program and of Python included.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom

from limn.lab.phantoms.synthesize import PhantomRequest, synthesize

TIMES = (0.1, 2.0, 4.0, 1000.0)
SPACING_MM = 0.2
SIZE_ZYX_MM = (30.0, 26.0, 30.0)
# A person's chest: slices of 512 x 512 pixels.
PERSON_SLICES, PERSON_MM = 400, (0.8, 0.9)
AIR_HU, WATER_HU = -1000, 40


def rescaled(source: Path, folder: Path, times: float) -> None:
    """Copy a series; each length in its headers is so many times longer."""
    folder.mkdir()
    for path in source.iterdir():
        ds = pydicom.dcmread(path)
        ds.PixelSpacing = [float(each) * times for each in ds.PixelSpacing]
        ds.SliceThickness = float(ds.SliceThickness) * times
        ds.ImagePositionPatient = [round(float(e) * times, 6) for e in ds.ImagePositionPatient]
        ds.save_as(folder / path.name)


def of_person(source: Path, folder: Path, *, empty: bool) -> None:
    """A person's CT as an ellipse of water, or the same field with nothing but air."""
    folder.mkdir()
    ds = pydicom.dcmread(next(iter(sorted(source.iterdir()))))
    y, x = (np.mgrid[:512, :512] - 255.5) * PERSON_MM[1]
    inside = (x / 180) ** 2 + (y / 120) ** 2 < 1
    hu = np.where(inside & (not empty), WATER_HU, AIR_HU)
    stored = (hu - int(ds.RescaleIntercept)) / float(ds.RescaleSlope)
    kind = np.uint16 if ds.PixelRepresentation == 0 else np.int16
    ds.Rows, ds.Columns, ds.PixelSpacing = 512, 512, [PERSON_MM[1]] * 2
    ds.SliceThickness, ds.PixelData = PERSON_MM[0], stored.astype(kind).tobytes()
    series = pydicom.uid.generate_uid()
    for number in range(PERSON_SLICES):
        ds.SeriesInstanceUID = series
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        ds.InstanceNumber = number + 1
        ds.ImagePositionPatient = [-230.0, -230.0, number * PERSON_MM[0]]
        ds.save_as(folder / f"{number}.dcm")


def cases(work: Path) -> Iterator[tuple[str, Path]]:
    """Name and folder of each series."""
    synthesize(work / "phantom", PhantomRequest(1, SPACING_MM, SIZE_ZYX_MM))
    source = work / "phantom" / "dicom"
    for times in TIMES:
        folder = work / f"x{times:g}"
        rescaled(source, folder, times)
        yield f"voxels {times:g} times as large", folder
    for name, empty in (("a person's CT", False), ("an empty field of 460 mm", True)):
        folder = work / name
        of_person(source, folder, empty=empty)
        yield f"{name}, {PERSON_SLICES} slices", folder


def main() -> None:
    """Print a line for each case: seconds, memory, and what limn said."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, series) in enumerate(cases(Path(folder))):
            begun_s = time.monotonic()
            out = str(Path(folder) / f"out-{number}")
            limn = [sys.executable, "-m", "limn.cli", "contour", str(series), "-o", out]
            process = subprocess.Popen(limn, stderr=subprocess.STDOUT, stdout=subprocess.PIPE)
            said = process.stdout.read().decode() if process.stdout else ""
            _, status, used = os.wait4(process.pid, 0)
            took_s, memory_gb = time.monotonic() - begun_s, used.ru_maxrss * 1024 / 1e9
            print(f"{name}: {took_s:.1f} s, {memory_gb:.2f} GB, exit {os.WEXITSTATUS(status)}")
            print("    " + " ".join(said.split())[-300:], flush=True)


if __name__ == "__main__":
    main()
