"""A bundle's sample: tiles of a chest with a known truth, on which precisions are compared."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from limn.domain.errors import BundleUnfit
from limn.segment.bundle.bundle import Bundle, add_part

SAMPLE_FILE = "sample.npz"


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Tiles of the network's patch, on its grid and with its axes.

    Attributes
    ----------
    hu : (tile, z, y, x) int16
    truth : (tile, z, y, x) uint8, the bundle's labels; 0 for an organ whose truth is not known
    """

    hu: npt.NDArray[np.int16]
    truth: npt.NDArray[np.uint8]


def read_sample(bundle: Bundle, patch: tuple[int, int, int]) -> Sample | None:
    """The sample of a bundle; None if it has none.

    Raises
    ------
    BundleUnfit
        If the file holds anything but tiles of this patch with their truth.
    """
    if bundle.sample is None:
        return None
    try:
        with np.load(bundle.folder / bundle.sample, allow_pickle=False) as kept:
            sample = Sample(kept["hu"], kept["truth"])
        fits = (
            sample.hu.dtype == np.int16
            and sample.truth.dtype == np.uint8
            and sample.hu.shape == sample.truth.shape == (len(sample.hu), *patch)
            and len(sample.hu) > 0
        )
    except (EOFError, LookupError, OSError, TypeError, ValueError, BadZipFile, zlib.error) as error:
        msg = f"bundle {bundle.label}: {bundle.sample} is no sample: {error!r}"
        raise BundleUnfit(msg) from error
    if not fits:
        msg = (
            f"bundle {bundle.label}: {bundle.sample} holds {sample.hu.dtype} {sample.hu.shape} and "
            f"{sample.truth.dtype} {sample.truth.shape}; int16 and uint8 tiles of {patch} expected"
        )
        raise BundleUnfit(msg)
    return sample


def add_sample(folder: Path, sample: Sample) -> Bundle:
    """Write a sample into a sealed bundle, name it in the manifest, and seal the bundle again."""
    np.savez_compressed(folder / SAMPLE_FILE, hu=sample.hu, truth=sample.truth)
    return add_part(folder, "sample", SAMPLE_FILE)
