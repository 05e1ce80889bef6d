"""Makes the phantom of a step: a DICOM series on disk, and the truth on its grid."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.dataset import Dataset

from limn.commission.plan import PlannedStep
from limn.dicom.bounded import read
from limn.dicom.ct import write_image_series
from limn.dicom.series import Series, assemble
from limn.dicom.volume import read_headers
from limn.domain.commissioning import is_commissioning
from limn.domain.errors import RefusedSeries, StageFailed
from limn.domain.folders import files_below
from limn.domain.scan import Labels
from limn.lab.phantoms.synthesize import synthesize
from limn.phantom.faults import spoilt_scan

SEED_OF_FAULTS = 5


@dataclass(frozen=True, slots=True, eq=False)
class SentPhantom:
    """A phantom on disk.

    Attributes
    ----------
    truth : on the series' grid; None if the field shows no organ
    series : as limn reads it, on which contours are placed; None if limn can't read it
    """

    folder: Path
    series_instance_uid: str
    truth: Labels | None
    series: Series | None

    def datasets(self) -> Sequence[Dataset]:
        """Every instance of it.

        Raises
        ------
        StageFailed
            If an instance is not of a phantom: nothing else may be sent.
        """
        found = [read(path) for path in files_below(self.folder)]
        for ds in found:
            if not is_commissioning(str(ds.get("PatientID", ""))):
                msg = f"{self.folder} has an instance of {ds.get('PatientID')!r}; nothing was sent"
                raise StageFailed(msg)
        return found


def make(step: PlannedStep, folder: Path, occasion: str) -> SentPhantom:
    """Make a phantom anew; equal steps of one occasion give equal files.

    Parameters
    ----------
    occasion : the run, whose phantoms have UIDs of their own
    """
    shutil.rmtree(folder, ignore_errors=True)
    if step.fault:
        return _spoilt(step, folder, occasion)
    request = replace(step.request, animal=step.animal, occasion=occasion)
    files = synthesize(folder, request)
    series = None if files.refusal else _series(files.series_dir)
    uid = _series_uid(files.series_dir)
    return SentPhantom(files.series_dir, uid, files.truth, series)


def _spoilt(step: PlannedStep, folder: Path, occasion: str) -> SentPhantom:
    scan = spoilt_scan(step.fault, SEED_OF_FAULTS, spacing_mm=0.25)
    place = folder / "dicom"
    place.mkdir(parents=True)
    # The description is part of what the UIDs are made of.
    for _ in write_image_series(
        scan.volume, place, step.animal, f"limn phantom {occasion}", ("20260101", "120000")
    ):
        pass
    return SentPhantom(place, _series_uid(place), scan.truth, _series(place))


def _series(folder: Path) -> Series | None:
    try:
        return assemble(read_headers(files_below(folder)))
    except RefusedSeries:
        return None


def _series_uid(folder: Path) -> str:
    first: Sequence[Path] = files_below(folder)[:1]
    return str(read(first[0]).SeriesInstanceUID)
