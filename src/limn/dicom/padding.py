"""Turns padding, the pixels outside of the reconstructed field, into air."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

AIR_HU = -1000.0
# A declared padding value between these can be tissue or metal too, and headers declare 0 wrongly:
# then it counts as padding only around the field. Air that lies elsewhere than at -1000 HU must
# still be seen.
MEASURED_HU = (-900.0, 5000.0)
# Nothing was measured beyond these, whatever the header declares. Noise reaches far below air,
# but no two of its lowest values are alike; metal reaches high, but not into a corner.
LOWEST_HU = -2500.0
HIGHEST_HU = 10000.0
# Part of a slice that has one value, if that value is padding; and if all corners have it.
LEAST_SHARE, LEAST_SHARE_IN_CORNERS = 0.01, 0.0005
# A field within a field has two such values; limn looks for so many.
MOST_VALUES = 4
# Between `LOWEST_HU` and air, padding is one exact value in all corners of most slices. It lies at
# the same place in them, but for such a share of a slice: an animal's outline moves. And air that
# was measured lies beside it: so near to -1000 HU, so large a share of what is beside it, and so
# many times as much as what lies lower.
SAME_PLACE = 0.002
AIR_WITHIN_HU, AIR_BESIDE, AIR_TO_LOWER = 250.0, 0.15, 3.0
# Where an image was resampled, voxels so near to padding are mixtures with it.
MIXED_VOXELS = 2
# More than noise has; so large a share of those next to padding is lower than air where it was.
LEAST_MIXED = 0.25
# So many slices say whether it is padding.
MOST_LOOKED_AT = 15

_SQUARE = np.ones((3, 3), dtype=np.bool_)
HuArray: TypeAlias = npt.NDArray[np.float32]
Mask: TypeAlias = npt.NDArray[np.bool_]
# The header of a slice, and its rescale: slope and intercept.
PlaneHeader: TypeAlias = tuple[Dataset, tuple[float, float]]


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


def fill_around_field(hu_zyx: Sequence[HuArray], headers: Sequence[PlaneHeader]) -> None:
    """Set padding around the field to -1000 HU that no single slice shows to be padding (D-259).

    A value that is declared, or lies between `LOWEST_HU` and air, is padding if all corners of most
    slices have it exactly, it fills the same place in them, and air lies beside it. Shifted air has
    noise; where it is cut off to one value, it ends at the animal, and at another place in each
    slice. A declared value stays where it does not reach a corner, as metal at the largest number
    that a scanner writes.

    Parameters
    ----------
    hu_zyx : the slices, changed in place
    headers : with the rescale of each
    """
    found = [_corner_value(hu, *each) for hu, each in zip(hu_zyx, headers, strict=True)]
    value, count = Counter(found).most_common(1)[0]
    if value is None or 2 * count <= len(found):
        return
    slices = [hu_yx for hu_yx, own in zip(hu_zyx, found, strict=True) if own == value]
    looked_at = slices[:: -(-len(slices) // MOST_LOOKED_AT)]
    around = [_around(hu_yx, value) for hu_yx in looked_at]
    usual = np.mean(around, axis=0) >= 0.5
    next_to = np.concatenate([hu_yx[_ring(usual, 1)] for hu_yx in looked_at])
    beside = np.concatenate([hu_yx[_ring(usual, MIXED_VOXELS + 1)] for hu_yx in looked_at])
    if not beside.size or np.median([(own ^ usual).mean() for own in around]) > SAME_PLACE:
        return
    air = (np.abs(beside - AIR_HU) <= AIR_WITHIN_HU).mean()
    if air < AIR_BESIDE or air < AIR_TO_LOWER * _share_lower(beside):
        return
    mixed = value < AIR_HU and _share_lower(next_to) > LEAST_MIXED
    for hu_yx in hu_zyx:
        # Nothing of an animal is so much lower than air; joining costs milliseconds a slice.
        padding = hu_yx == np.float32(value) if value < AIR_HU else _around(hu_yx, value)
        if mixed:
            from scipy import ndimage  # noqa: PLC0415

            margin = ndimage.binary_dilation(padding, _SQUARE, MIXED_VOXELS)
            padding |= margin & (hu_yx < AIR_HU - AIR_WITHIN_HU)
        hu_yx[padding] = AIR_HU


def _corner_value(hu_yx: HuArray, header: Dataset, rescale: tuple[float, float]) -> float | None:
    """The value in all four corners, if it may be padding."""
    value = hu_yx[0, 0]
    if not (_corners(hu_yx) == value).all():
        return None
    limits = declared(header)
    if limits is not None:
        low_hu, high_hu = sorted(rescale[0] * limit + rescale[1] for limit in limits)
        if np.float32(low_hu) <= value <= np.float32(high_hu) and value != AIR_HU:
            return float(value)
    return float(value) if LOWEST_HU <= value < AIR_HU - AIR_WITHIN_HU else None


def _around(hu_yx: HuArray, value: float) -> Mask:
    """Where a slice has a value and is joined to a corner by it."""
    # Imported here: it takes 0.1 s, and few series have such padding.
    from scipy import ndimage  # noqa: PLC0415

    parts, _ = ndimage.label(hu_yx == np.float32(value))
    cornered = np.unique(_corners(parts))
    return np.isin(parts, cornered[cornered > 0])


def _ring(around: Mask, voxels: int) -> Mask:
    """What lies so many voxels away from a mask."""
    from scipy import ndimage  # noqa: PLC0415

    outer = ndimage.binary_dilation(around, _SQUARE, voxels)
    inner = ndimage.binary_dilation(around, _SQUARE, voxels - 1) if voxels > 1 else around
    return np.asarray(outer & ~inner)


def _share_lower(hu: HuArray) -> float:
    return float((hu < AIR_HU - AIR_WITHIN_HU).mean()) if hu.size else 0.0


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


def _corners(array_yx: npt.NDArray[Any]) -> npt.NDArray[Any]:
    rows, columns = array_yx.shape
    return array_yx[:: rows - 1 or 1, :: columns - 1 or 1]


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
