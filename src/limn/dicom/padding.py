"""Turns padding, the pixels outside of the reconstructed field, into air."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

AIR_HU = -1000.0
# A declared padding value between these can be tissue or metal, and headers declare 0 wrongly: then
# it stays. Air that lies elsewhere than at -1000 HU must still be seen.
MEASURED_HU = (-900.0, 5000.0)
# Nothing was measured beyond these, whatever the header declares. Noise reaches far below air,
# but no two of its lowest values are alike; metal reaches high, but not into a corner.
LOWEST_HU = -2500.0
HIGHEST_HU = 10000.0
# Part of a slice that has one value, if that value is padding; and if all corners have it.
LEAST_SHARE, LEAST_SHARE_IN_CORNERS = 0.01, 0.0005
# A field within a field has two such values; limn looks for so many.
MOST_VALUES = 4


def fill_with_air(
    stored_yx: npt.NDArray[Any],
    hu_yx: npt.NDArray[np.float32],
    header: Dataset,
    rescale: tuple[float, float],
) -> None:
    """Set the padding of a slice to -1000 HU (PS3.3 C.7.5.1.1.2).

    Parameters
    ----------
    stored_yx : values before the rescale, to which PixelPaddingValue refers
    hu_yx : changed in place
    rescale : slope and intercept
    """
    limits = declared(header)
    if limits is not None:
        slope, intercept = rescale
        low_hu, high_hu = sorted(slope * limit + intercept for limit in limits)
        if high_hu <= MEASURED_HU[0] or low_hu >= MEASURED_HU[1]:
            hu_yx[(stored_yx >= limits[0]) & (stored_yx <= limits[1])] = AIR_HU
    least = LEAST_SHARE * hu_yx.size
    lowest, highest = hu_yx.min(), hu_yx.max()
    if lowest < LOWEST_HU:
        _fill_lowest(hu_yx, least)
    if highest > HIGHEST_HU:
        padding = hu_yx == highest
        if _corners(padding).any() and np.count_nonzero(padding) >= least:
            hu_yx[padding] = AIR_HU


def _fill_lowest(hu_yx: npt.NDArray[np.float32], least: float) -> None:
    """Set the lowest value to -1000 HU as long as it is padding."""
    for _ in range(MOST_VALUES):
        lowest = hu_yx.min()
        padding = hu_yx == lowest
        count = np.count_nonzero(padding)
        corners = _corners(padding).all() and count >= LEAST_SHARE_IN_CORNERS * hu_yx.size
        if lowest >= LOWEST_HU or not (count >= least or corners):
            return
        hu_yx[padding] = AIR_HU


def _corners(mask_yx: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    rows, columns = mask_yx.shape
    return mask_yx[:: rows - 1 or 1, :: columns - 1 or 1]


def declared(header: Dataset) -> tuple[int, int] | None:
    """PixelPaddingValue and PixelPaddingRangeLimit as stored values, the lower one first."""
    first = _stored(header, "PixelPaddingValue")
    if first is None:
        return None
    last = _stored(header, "PixelPaddingRangeLimit")
    return (first, first) if last is None else (min(first, last), max(first, last))


def _stored(header: Dataset, keyword: str) -> int | None:
    """An element in the sign of the pixels: writers mix up US and SS."""
    bits = int(header.BitsAllocated)
    value: Any = header.get(keyword)
    number: int
    try:
        number = int.from_bytes(value, "little") if isinstance(value, bytes) else int(value)
    except (TypeError, ValueError):
        return None
    number %= 2**bits
    signed = int(header.get("PixelRepresentation") or 0) == 1
    return number - 2**bits if signed and number >= 2 ** (bits - 1) else number
