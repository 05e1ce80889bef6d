"""Structure sets on random grids, filled back from their own headers by matplotlib."""

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon
from scipy import ndimage

from limn.dicom import rtstruct
from limn.dicom.ct import CtIdentity, ct_instances
from limn.dicom.series import Instance, assemble
from limn.domain.geometry import Grid
from limn.domain.scan import Labels, Volume
from limn.segment.draw.trace import trace
from tests.conftest import COLOURS
from tests.support.organs import Organ

STYLE = rtstruct.Style.of_organs(Organ, "Mus musculus", colours=COLOURS)
IDENTITY = rtstruct.Identity("2.25.1", "2.25.2", "20260101", "120000", "limn", "0", "limn")
AXES = [np.array(axis, dtype=float) for axis in np.vstack((np.eye(3), -np.eye(3)))]
MM = st.floats(0.05, 0.4).map(lambda mm: round(mm, 3))


@st.composite
def scans(draw: st.DrawFn) -> tuple[Volume, np.ndarray]:
    """A grid along any axes with any spacing, and a random blob that may touch every edge."""
    along_x = draw(st.sampled_from(AXES))
    along_y = draw(st.sampled_from([axis for axis in AXES if abs(axis @ along_x) < 0.5]))
    shape = tuple(draw(st.integers(4, 12)) for _ in range(3))
    z_mm, y_mm, x_mm = draw(MM), draw(MM), draw(MM)
    start = np.round([draw(st.floats(-99, 99)) for _ in range(3)], 4)
    grid = Grid(
        slice_origins_xyz_mm=start
        + np.outer(np.arange(shape[0]) * z_mm, np.cross(along_x, along_y)),
        rows=shape[1],
        columns=shape[2],
        spacing_y_mm=y_mm,
        spacing_x_mm=x_mm,
        along_x_xyz=along_x,
        along_y_xyz=along_y,
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    blob = ndimage.gaussian_filter(rng.standard_normal(shape), draw(st.floats(0.3, 1.5)))
    return Volume(np.zeros(shape, dtype=np.float32), grid), blob > np.quantile(blob, 0.6)


@given(scans())
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_what_was_labelled(scan: tuple[Volume, np.ndarray]) -> None:
    """From IPP, IOP and PixelSpacing of the file alone, every voxel is in or out as labelled."""
    volume, mask = scan
    headers = ct_instances(volume, CtIdentity("M1", "2.25.5", ("20260101", "120000")))
    series = assemble([Instance(header, Path()) for header in headers[::-1]])
    labels = Labels(mask.astype(np.uint8), series.grid, {1: Organ.HEART})
    contents = rtstruct.build(series, trace(labels).contours, labels.volumes_mm3(), IDENTITY, STYLE)
    by_uid = {str(header.SOPInstanceUID): k for k, header in enumerate(headers)}
    drawn = np.zeros_like(mask)
    rows, columns = np.mgrid[: mask.shape[1], : mask.shape[2]]
    for item in rtstruct.read(contents).ROIContourSequence[0].ContourSequence:
        k = by_uid[item.ContourImageSequence[0].ReferencedSOPInstanceUID]
        header = headers[k]
        across, down = np.reshape([float(v) for v in header.ImageOrientationPatient], (2, 3))
        down_mm, across_mm = (float(v) for v in header.PixelSpacing)
        corner = np.array([float(v) for v in header.ImagePositionPatient])
        away = np.reshape([float(v) for v in item.ContourData], (-1, 3)) - corner
        assert np.abs(away @ np.cross(across, down)).max() < 1e-4
        ring = np.column_stack((away @ across / across_mm, away @ down / down_mm))
        inside = Polygon(ring).contains_points(np.column_stack((columns.ravel(), rows.ravel())))
        drawn[k] |= inside.reshape(rows.shape)
    np.testing.assert_array_equal(drawn, mask)
