"""The picture of an edit: the contours that came back, and limn's own beneath where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import numpy.typing as npt

from limn.dicom.rtstruct import PALETTE
from limn.dicom.series import Series
from limn.dicom.volume import read_slices
from limn.domain.geometry import even_grid
from limn.domain.scan import Box, Labels, Organ, Role, Volume
from limn.node.contour.edits.match import Match, organs_of
from limn.node.store.journal.edits.rows import EditedRoi
from limn.node.store.journal.edits.words import words_of
from limn.segment.draw.picture.cuts import box_around
from limn.segment.draw.picture.legend import Banner, Legend
from limn.segment.draw.picture.sheet import draw_contours

NOTE = "In colour: the contours that came back. White and thin: limn's own, where they differ."


def draw_edit(match: Match, rois: Sequence[EditedRoi]) -> bytes:
    """PNG of the organs of a scan before and after an edit, on the part of the scan around them."""
    series, organs = match.series, organs_of(match.row)
    drawn = [pair for pair in match.pairs if pair.before.name in organs or not organs]
    named = {number: Organ(pair.before.name) for number, pair in enumerate(drawn, 1)}
    before, after = (np.zeros(series.grid.shape_zyx, dtype=np.uint8) for _ in range(2))
    for number, pair in enumerate(drawn, 1):
        own, back = pair.masks
        span = slice(pair.slices.start, pair.slices.stop)
        before[span][own] = number
        # What did not come back is shown as it went.
        after[span][own if pair.after is None else back] = number
    box = box_around(before | after, series.grid.spacing_mm.zyx)
    volume, at = _part(series, box)
    roles = {
        Role(role): organ
        for organ in named.values()
        if (role := organs.get(organ, ("", ""))[1]) in set(Role)
    }
    labels = Labels(after[box][at], volume.grid, named, roles)
    lines = tuple(f"{each.roi}: {words_of(each)}" for each in rois)
    return draw_contours(
        volume,
        labels,
        dict(zip(named.values(), cycle(PALETTE), strict=False)),
        Banner(f"{match.row.name}  {match.row.animal}  came back"),
        Legend(labels.volumes_mm3(), lines=lines, note=NOTE),
        before=labels.on_voxels(before[box][at], volume.grid),
    )


def _part(series: Series, box: Box) -> tuple[Volume, npt.NDArray[np.int64]]:
    """A part of a scan on an even grid, and which slice of the box lies at each of its places."""
    slices, rows, columns = box
    rungs = series.rungs[slices]
    first = int(rungs[0])
    at = np.searchsorted(rungs, np.arange(first, int(rungs[-1]) + 1), side="right") - 1
    wanted = range(slices.start, slices.stop)
    hu = np.stack([hu_yx[rows, columns] for hu_yx in read_slices(series, wanted)])
    ladder = slice(first, int(rungs[-1]) + 1)
    grid = even_grid(series.grid, series.rungs).part((ladder, rows, columns))
    return Volume(hu[at], grid), at
