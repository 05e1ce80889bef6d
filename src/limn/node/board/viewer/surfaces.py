"""The surfaces of a scan's organs, coarse enough for a browser, as one block of bytes."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from limn.domain.geometry import Grid
from limn.domain.scan import occupied_box
from limn.formats.surfaces import surface_of
from limn.node.board.viewer.shown_labels import ShownLabels

# Voxels along the longest side of an organ's box that are looked at.
MOST_VOXELS = 96


def surfaces(labels: ShownLabels) -> bytes:
    """Surfaces of the organs.

    Returns
    -------
    bytes
        Little endian: the length of a JSON text, padded to a multiple of four, then the text: for
        each organ label, name, colour, and counts of points and faces. After it for each organ the
        points, float32 ``(x, y, z)`` mm LPS, and the faces, uint32, counter-clockwise from outside.
    """
    box_zyx = labels.box("box_zyx")
    organs: list[dict[str, Any]] = []
    blocks: list[bytes] = []
    for number, (name, colour) in labels.organs.items():
        found = _surface(box_zyx == number, labels)
        if found is None:
            continue
        points, faces = found
        organs.append(
            {
                "label": number,
                "name": name,
                "colour": colour,
                "points": len(points),
                "faces": len(faces),
            }
        )
        blocks += [points.astype("<f4").tobytes(), faces.astype("<u4").tobytes()]
    head = json.dumps(organs).encode()
    head += b" " * (-len(head) % 4)
    return b"".join((struct.pack("<I", len(head)), head, *blocks))


def _surface(
    mask_zyx: npt.NDArray[np.bool_], labels: ShownLabels
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]] | None:
    """The surface of an organ in the labels' box; None if it has no voxel there."""
    inner = occupied_box(mask_zyx)
    if inner[0].stop == 0:
        return None
    mask_zyx = mask_zyx[inner]
    z, y, x = (
        slice(low + span.start, low + span.stop)
        for low, span in zip(labels.low_zyx, inner, strict=True)
    )
    part: Grid = labels.grid.part((z, y, x))
    step = max(1, round(max(mask_zyx.shape) / MOST_VOXELS))
    try:
        return surface_of(mask_zyx, part, step)
    except (RuntimeError, ValueError):
        # So thin that a coarse step overlooks it.
        return surface_of(mask_zyx, part)
