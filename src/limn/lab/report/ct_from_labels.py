"""Makes a CT-like image from organ labels whose CT is not available.

Labels of a real animal have real shapes, which no phantom has. The image lacks everything without
a label: trachea, vessels, fat, skin. The outline of the body is estimated around the labels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.domain.geometry import SpacingMm
from limn.phantom.canvas import Field

AIR_HU = -1000.0
# Soft tissue around the labels: bones lie this deep under the skin.
FLESH_MM = 2.4
COARSE_MM = 0.56


def ct_from_labels(
    labels_zyx: npt.NDArray[np.integer],
    spacing_mm: SpacingMm,
    tissue_hu: Mapping[int, float],
    *,
    soft_hu: float = 40.0,
    blur_mm: float = 0.12,
    noise_hu: float = 45.0,
    seed: int = 0,
) -> tuple[Field, npt.NDArray[np.bool_]]:
    """HU of a body around the labelled organs, with blur and noise.

    Parameters
    ----------
    labels_zyx : (z, y, x) integers, 0 without a label
    tissue_hu : HU of each label

    Returns
    -------
    hu_zyx : (z, y, x) float32
    body : (z, y, x) bool, the estimated inside of the animal
    """
    body = _body(labels_zyx > 0, spacing_mm)
    hu = np.where(body, np.float32(soft_hu), np.float32(AIR_HU)).astype(np.float32)
    for label, value in tissue_hu.items():
        hu[labels_zyx == label] = value
    sigma = [blur_mm / mm for mm in spacing_mm.zyx]
    ndimage.gaussian_filter(hu, sigma, output=hu)
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), 0.6)
    hu += noise * np.float32(noise_hu / float(noise.std()))
    return hu, body


def _body(labelled: npt.NDArray[np.bool_], spacing_mm: SpacingMm) -> npt.NDArray[np.bool_]:
    """The labelled voxels with their gaps filled and soft tissue around them."""
    factors = [max(1, round(COARSE_MM / mm)) for mm in spacing_mm.zyx]
    padding = [(0, -n % f) for n, f in zip(labelled.shape, factors, strict=True)]
    padded = np.pad(labelled, padding)
    z, y, x = (n // f for n, f in zip(padded.shape, factors, strict=True))
    coarse = padded.reshape(z, factors[0], y, factors[1], x, factors[2]).any(axis=(1, 3, 5))
    coarse_mm = [mm * f for mm, f in zip(spacing_mm.zyx, factors, strict=True)]
    margin = 16
    wide = np.pad(coarse, margin)
    # A closing by a ball as wide as the chest joins ribs, spine and limbs to one body.
    near = ndimage.distance_transform_edt(~wide, sampling=coarse_mm) < 6.0
    joined = ndimage.distance_transform_edt(near, sampling=coarse_mm) > 6.0
    flesh = ndimage.distance_transform_edt(~(joined | wide), sampling=coarse_mm) < FLESH_MM
    inner = flesh[margin:-margin, margin:-margin, margin:-margin]
    smooth = ndimage.zoom(
        inner.astype(np.float32), factors, order=1, grid_mode=True, mode="nearest"
    )
    return np.asarray(smooth[: labelled.shape[0], : labelled.shape[1], : labelled.shape[2]] > 0.5)
