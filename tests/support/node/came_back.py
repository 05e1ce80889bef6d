"""Scans that a node contoured, with real structure sets, and what others made of them."""

import copy
import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from limn.dicom import rtstruct
from limn.dicom.ct import CtIdentity
from limn.dicom.rtstruct import Identity, Style
from limn.dicom.series import assemble
from limn.dicom.volume import read_headers
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Labels, Volume
from limn.node.store.journal.journal import Journal
from limn.node.store.journal.rows import ScanRow, preview_uids
from limn.segment.draw.trace import trace
from tests.conftest import write_series
from tests.support.node.parts import arrived
from tests.support.organs import Organ

SHAPE = (24, 40, 44)
MM = SpacingMm(0.5, 0.3, 0.3)
NAMES = {1: Organ.HEART, 2: Organ.LUNG_L}
STYLE = Style.of_organs(NAMES.values(), "Mus musculus")


def labels_of(shift=(0, 0, 0)) -> np.ndarray:
    """A heart and a lung beside it, moved by so many voxels."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    found = np.zeros(SHAPE, np.uint8)
    for label, (cz, cy, cx), radius in ((1, (11, 16, 16), 5.0), (2, (12, 22, 30), 7.0)):
        dz, dy, dx = (z - cz - shift[0], y - cy - shift[1], x - cx - shift[2])
        found[dz**2 * 2 + dy**2 + dx**2 < radius**2] = label
    return found


@dataclass
class CameBack:
    """A data folder with contoured scans."""

    data: Path
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        self.journal = Journal(self.data / "journal.sqlite")

    def scan(self, number, labels=None, *, animal="", came=0, contoured=True, **new):
        """A contoured scan of a series of its own, its files where a node has them.

        Parameters
        ----------
        came : days after the first
        contoured : it has its structure set
        """
        animal = animal or f"M{number}"
        folder = self.data / "spool" / f"series-{number}"
        identity = CtIdentity(animal, f"2.25.60.{number}", ("20260101", "120000"))
        if not folder.exists():
            rng = np.random.default_rng(number)
            hu = rng.normal(0, 60, SHAPE).astype(np.float32)
            volume = Volume(hu, axial_grid(SHAPE, MM, np.zeros(3)))
            write_series(volume, folder, identity)
        names = tuple(sorted(path.name for path in folder.iterdir()))
        header = pydicom.dcmread(folder / names[0])
        at = 1_770_000_000.0 + 86400.0 * came
        values = {
            "series_instance_uid": str(header.SeriesInstanceUID),
            "study_instance_uid": str(header.StudyInstanceUID),
            **{"input_digest": f"d{number}", "animal": animal, "folder": str(folder)},
            **{"files": names, "sender": "CT1@10.0.0.1", "last_slice_at": at, "ready_at": at},
        } | new
        row = self.journal.insert(arrived(**values), ("tps",))
        assert row is not None
        return self.contour(row, labels_of() if labels is None else labels) if contoured else row

    def contour(self, row: ScanRow, labels) -> ScanRow:
        """File the structure set of a scan."""
        structure_set = self.journal.structure_set_of(row.id)
        uids = structure_set.sop_instance_uid, structure_set.series_instance_uid
        path = self.data / "scans" / row.name / f"RS.{uids[0]}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.built(row, labels, uids, STYLE))
        rois = [{"organ": str(o), "role": r, "roi": str(o)} for o, r in zip(
            NAMES.values(), ("heart", "lung_l"), strict=True
        )]  # fmt: skip
        self.journal.contoured(row.id, str(path), {"rois": rois, "contoured_at": 1.0})
        return self.journal.scan(row.id)

    def preview(self, row: ScanRow, labels) -> Path:
        """The preview that went before the structure set of a scan that waits."""
        begun = self.journal.begin_preview(row.id)
        assert begun is not None
        uids = preview_uids(self.journal.structure_set_of(row.id))
        path = self.data / "scans" / row.name / f"PREVIEW.{uids[0]}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.built(row, labels, uids, STYLE.as_preview()))
        self.journal.preview_contoured(row.id, str(path), ["tps"])
        return path

    def built(self, row: ScanRow, labels, uids, style: Style) -> bytes:
        """A structure set of limn's, of labels."""
        series = self.series(row)
        on_grid = Labels(labels, series.grid, NAMES)
        identity = Identity(*uids, "20260101", "120000", "limn", "1", "limn test")
        contours = trace(on_grid).contours
        return rtstruct.build(series, contours, on_grid.volumes_mm3(), identity, style)

    def series(self, row: ScanRow):
        """The series of a scan."""
        paths = [Path(row.folder) / name for name in row.files]
        return assemble(read_headers(paths), assume_hu=True)

    def own(self, row: ScanRow) -> pydicom.FileDataset:
        """The structure set that limn made of a scan."""
        return pydicom.dcmread(self.journal.structure_set_of(row.id).path)

    def edited(self, row: ScanRow, labels, names=NAMES) -> pydicom.FileDataset:
        """What rt-utils makes of labels on a scan: another program's file, under another UID."""
        from rt_utils import RTStructBuilder  # noqa: PLC0415

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = RTStructBuilder.create_new(str(row.folder))
            for label, name in names.items():
                made.add_roi(np.moveaxis(labels == label, 0, 2), name=str(name))
        ds = made.ds
        ds.OperatorsName = "Weber^Anna"
        return ds

    def send_back(self, ds: pydicom.Dataset, name: str = "") -> Path:
        """A file in ``returned``, as the receiver keeps it."""
        folder = self.data / "returned"
        folder.mkdir(exist_ok=True)
        file = io.BytesIO()
        ds.save_as(file, enforce_file_format=True)
        path = folder / f"{name or 'foreign-' + str(generate_uid())[-12:]}.dcm"
        path.write_bytes(file.getvalue())
        return path


def under_new_uid(ds: pydicom.FileDataset) -> pydicom.FileDataset:
    """The same contours as a planning system saves them again."""
    new = copy.deepcopy(ds)
    new.SOPInstanceUID = new.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    new.SeriesInstanceUID = generate_uid()
    new.Manufacturer, new.ManufacturerModelName = "Other", "Planner 5"
    return new
