"""Small scans with two organs, lying in several ways, and what pydicom says of their voxels."""

from __future__ import annotations

import time

import numpy as np
import pydicom

from limn.dicom.ct import CtIdentity, ct_instances, multi_frame
from limn.domain.geometry import Grid
from limn.domain.scan import Labels, Volume, pack_labels
from limn.domain.timing import DOOR_TO_DOOR_STAGES
from tests.support.node.parts import encoded, structure_set, write_slices
from tests.support.organs import Organ

SHAPE_ZYX = (24, 30, 38)
SPACING_ZYX = (0.5, 0.2, 0.3)
ORGANS = {1: Organ.HEART, 2: Organ.LUNG_L}
COLOURS = {Organ.HEART: (255, 0, 0), Organ.LUNG_L: (0, 128, 255)}
TILT = np.radians(0.4)
# Directions of growing column and row of a stack; the slices follow the normal.
LIES = {
    "oblique": ((np.cos(TILT), 0.0, np.sin(TILT)), (0.0, 1.0, 0.0)),
    "feet first": ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "coronal stack": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    "sagittal stack": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
}


def stack(lie, without=()):
    """A scan whose voxels all differ from their neighbours, and its labels.

    Parameters
    ----------
    without : slices that are missing
    """
    along_x, along_y = (np.array(each) for each in LIES[lie])
    z, y, x = np.ogrid[: SHAPE_ZYX[0], : SHAPE_ZYX[1], : SHAPE_ZYX[2]]
    hu_zyx = (-1000.0 + 61 * z + 7 * y + 29 * x).astype(np.float32)
    kept = [k for k in range(SHAPE_ZYX[0]) if k not in without]
    steps = np.outer(np.array(kept) * SPACING_ZYX[0], np.cross(along_x, along_y))
    grid = Grid(
        slice_origins_xyz_mm=np.array([-4.2, 3.1, 7.7]) + steps,
        rows=SHAPE_ZYX[1],
        columns=SHAPE_ZYX[2],
        spacing_y_mm=SPACING_ZYX[1],
        spacing_x_mm=SPACING_ZYX[2],
        along_x_xyz=along_x,
        along_y_xyz=along_y,
    )
    labels_zyx = np.zeros(SHAPE_ZYX, np.uint8)
    for label, (cz, cy, cx), radius in ((1, (11, 13, 14), 5.5), (2, (13, 15, 26), 6.5)):
        labels_zyx[(z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < radius**2] = label
    return Volume(hu_zyx[kept], grid), Labels(labels_zyx[kept], grid, ORGANS), np.array(kept)


def packed(labels, rungs):
    """``labels.npz``; the folds disagree in the heart's upper rows."""
    disagreement = np.where(labels.labels_zyx == 1, 150, 0).astype(np.uint8)
    disagreement[:, 13:] = 0
    return pack_labels(labels, disagreement, rungs, COLOURS)


def file_scan(site, number, lie="oblique", *, without=(), held=None, record=None, enhanced=False):
    """A contoured scan of a site, with slices and labels where a node has them."""
    volume, labels, rungs = stack(lie, without)
    identity = CtIdentity(f"M{number}", f"2.25.70.{number}", ("20260101", "120000"))
    folder = site.data / "spool" / f"series-{number}"
    instances = ct_instances(volume, identity)
    paths = write_slices(folder, [multi_frame(instances)] if enhanced else instances)
    names = tuple(path.name for path in paths)
    row = site.scan(number, folder=str(folder), files=names)
    uid = site.journal.structure_set_of(row.id).sop_instance_uid
    path = site.data / f"RS.{uid}.dcm"
    path.write_bytes(encoded(structure_set(uid)))
    known = {"contoured_at": time.time()} | (record or {})
    site.journal.contoured(row.id, str(path), known, held)
    results = site.data / "scans" / row.name
    results.mkdir(parents=True, exist_ok=True)
    (results / "labels.npz").write_bytes(packed(labels, rungs))
    return site.journal.scan(row.id)


def full_record():
    """What a worker says of a scan of four organs whose light is red."""
    organs = ("Heart", "SpinalCord", "Lung_R", "Lung_L")
    return {
        "light": "red",
        "flags": "light:red mirrored:SPR demo-bundle",
        "bundle": "phantom-7",
        "bundle_sha256": "c" * 64,
        "device": "cpu openvino int8",
        "grid": "400x400x700 0.1400x0.1400x0.1400 mm",
        "limn_version": "0.1.0",
        **dict.fromkeys(DOOR_TO_DOOR_STAGES[1:-2], 1.25),
        "rois": [
            {
                "roi": name,
                "light": "green",
                "volume_mm3": 310.0 - number,
                "mean_hu": -365.0,
                "predicted_dsc": 0.934,
                "predicted_dsc_low": 0.892,
                "predicted_dsc_high": 0.955,
            }
            for number, name in enumerate(organs)
        ],
    }


def voxel_at(folder, point_xyz_mm):
    """HU and exact place of the voxel nearest to a point, by pydicom and PS3.3 C.7.6.2.1.1."""
    found = []
    for path in sorted(folder.glob("*.dcm")):
        ds = pydicom.dcmread(path)
        origin = np.array(ds.ImagePositionPatient, float)
        along_x, along_y = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        y_mm, x_mm = (float(mm) for mm in ds.PixelSpacing)
        offset = np.array(point_xyz_mm) - origin
        column, row = round(offset @ along_x / x_mm), round(offset @ along_y / y_mm)
        column, row = np.clip(column, 0, ds.Columns - 1), np.clip(row, 0, ds.Rows - 1)
        place = origin + column * x_mm * along_x + row * y_mm * along_y
        stored = int(ds.pixel_array[row, column])
        hu = stored * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        found.append((float(np.abs(place - point_xyz_mm).max()), hu, place))
    return min(found, key=lambda each: each[0])[1:]
