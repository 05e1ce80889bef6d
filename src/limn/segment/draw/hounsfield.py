"""Finds air and soft tissue in a coarse picture, and brings a scan to HU by them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from limn.domain.errors import RefusedSeries
from limn.segment.draw.neighbours import shrunk

CalibrateRule = Literal["auto", "refuse", "never"]
Picture = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Where the peaks of a scan in HU lie.
AIR_HU, TISSUE_HU = -1000.0, 40.0
# The networks learn with shifts of up to 200 HU and densities of 0.8 to 1.25 (`lab.train.patches`).
# A scan within these is left as it is.
AIR_WITHIN_HU, TISSUE_WITHIN_HU = 250.0, 300.0
# A value that a corner of the field has, and so large a share of its voxels, is padding.
PADDING_SHARE = 0.005
BINS, SMOOTH_BINS = 400, 3.0
# Air's peak is clear if it is no wider than this share of its distance to soft tissue (lung is),
# and if this share of the field's border shows it (lung does not surround an animal).
AIR_WIDTH, AIR_BORDER = 0.12, 0.15
# Smaller peaks than this share of the largest are noise, or an organ.
LEAST_PEAK = 0.3
# Soft tissue's peak is not clear if another one, at least so high, lies so far away as a share of
# air's distance. A contrast agent makes such peaks.
RIVAL_PEAK, RIVAL_DISTANCE = 0.6, 0.25
# Fat's peak may be the highest of an obese animal; so far above it soft tissue has its own.
FAT_DISTANCE = 0.22
# Beds and limbs are thinner than twice so many coarse voxels.
DEEP_VOXELS = 2
# Everything denser than this counts as animal or bed, lung (-620 HU) included; foam does not.
BODY_HU = -750.0
# Of a scan in HU, at most so many voxels are denser than soft tissue for each one of it, and this
# share at most is below air. The second figures are for a field without air to compare with.
MOST_DENSER, MOST_DENSER_ALONE = 2.0, 1.0
MOST_BELOW_AIR, MOST_BELOW_ALONE = 0.05, 0.01
# The numbers of a field without air span so much at least, from lung to bone, and few lie below
# lung.
LEAST_SPAN_HU, LUNGS_ABOVE_HU, MOST_BELOW_LUNGS = 800.0, -850.0, 0.1
# Where lung has its peak; one there is air of another calibration if more of the border shows it.
LUNG_HU, AIR_ALL_AROUND = (-720.0, -250.0), 0.4
# Where lung's peak is the highest, at least this share of the numbers is soft tissue.
LEAST_SOFT = 0.35


@dataclass(frozen=True, slots=True)
class Peak:
    """One mode of a histogram.

    Attributes
    ----------
    at, width : its place and its full width at half maximum, in the scan's numbers
    height : as a share of the highest
    clear : whether a scan may be brought to HU by it
    """

    at: float
    width: float
    height: float
    clear: bool = True


@dataclass(frozen=True, slots=True)
class Peaks:
    """What stands for air and soft tissue in a scan; None where there is none.

    Attributes
    ----------
    in_hu : whether both lie where HU have them, as far as the field shows them
    """

    air: Peak | None
    tissue: Peak | None
    in_hu: bool

    @property
    def clear(self) -> bool:
        """Whether a scan may be brought to HU by them."""
        return all(peak is not None and peak.clear for peak in (self.air, self.tissue))

    @property
    def words(self) -> str:
        """Both peaks in a message."""
        air, tissue = (
            "not clear" if peak is None else f"{peak.at:.0f}{'' if peak.clear else ' (not clear)'}"
            for peak in (self.air, self.tissue)
        )
        return f"air's peak {air} (HU have {AIR_HU:.0f}), soft tissue's {tissue} ({TISSUE_HU:.0f})"


@dataclass(frozen=True, slots=True)
class Calibration:
    """HU = ``slope`` * number + ``intercept``, by the peaks of air and soft tissue."""

    slope: float
    intercept: float
    air: float
    tissue: float

    @property
    def flag(self) -> str:
        """For the record."""
        return f"calibrated:{self.air:.0f}..{self.tissue:.0f}"

    @property
    def note(self) -> str:
        """For the reader of the structure set."""
        return f"pixels were not HU: brought to HU by air {self.air:.0f}, tissue {self.tissue:.0f}"

    def apply(self, numbers: Picture, out: Picture | None = None) -> Picture:
        """The numbers in HU."""
        hu = np.multiply(numbers, np.float32(self.slope), out=out, dtype=np.float32)
        hu += np.float32(self.intercept)
        return hu


def calibration(peaks: Peaks, rule: CalibrateRule) -> Calibration | None:
    """How to bring a scan to HU; None if it is to be taken as it is.

    Raises
    ------
    RefusedSeries
        If the scan is not in HU, and the rule or a peak that is not clear forbids to mend it.
    """
    if rule == "never" or peaks.in_hu:
        return None
    if rule == "refuse" or not peaks.clear or peaks.air is None or peaks.tissue is None:
        mend = "" if rule == "auto" else ", or set model.calibrate to 'auto'"
        msg = (
            f"the pixels are not in HU: {peaks.words}. The scanner's calibration or the export's "
            "RescaleSlope and RescaleIntercept must be mended by the person who looks after the "
            f"scanner; then export the scan again{mend}"
        )
        raise RefusedSeries(msg)
    air, tissue = peaks.air.at, peaks.tissue.at
    slope = (TISSUE_HU - AIR_HU) / (tissue - air)
    return Calibration(slope, AIR_HU - slope * air, air, tissue)


def find_peaks(picture: Picture) -> Peaks:
    """Where air and soft tissue lie in the numbers of a scan. Padding does not count."""
    shown = ~padding(picture, margin=1)
    numbers = picture[shown]
    if numbers.size == 0 or float(np.ptp(numbers)) == 0.0:
        return Peaks(None, None, in_hu=True)
    border = picture[shown & ~shrunk(shown)]
    in_hu = _is_in_hu(picture, shown, border)
    lowest = _peaks(numbers, 0.1, 99.5, least=0.03)[0]
    deep = _deep(shown & (picture > lowest.at + 3.0 * lowest.width))
    rest = picture[deep] if deep.any() else numbers
    tissue = _tissue(rest, lowest.at)
    share = float((np.abs(border - lowest.at) <= lowest.width).mean())
    narrow = lowest.width <= AIR_WIDTH * (tissue.at - lowest.at)
    is_lung = (
        LUNG_HU[0] <= lowest.at <= LUNG_HU[1]
        and share < AIR_ALL_AROUND
        and _holds_tissue(rest, tissue, with_lung=False)
    )
    if in_hu or (share >= AIR_BORDER and narrow and not is_lung):
        return Peaks(replace(lowest, clear=narrow), tissue, in_hu)
    # The lowest peak is lung, or soft tissue itself.
    inner = _deep(shown)
    rest = picture[inner] if inner.any() else numbers
    tissue = _tissue(rest, None)
    return Peaks(None, tissue, _spans_hu(numbers) and _holds_tissue(rest, tissue, with_lung=True))


def _is_in_hu(picture: Picture, shown: Mask, border: Picture) -> bool:
    """Whether air is seen where HU have it, and all that is thick there is soft tissue in HU."""
    if (np.abs(border - AIR_HU) <= AIR_WITHIN_HU).mean() < AIR_BORDER:
        return False
    if (picture[shown] < AIR_HU - AIR_WITHIN_HU).mean() > MOST_BELOW_AIR:
        return False
    body = picture[_deep(shown & (picture > BODY_HU))]
    return body.size == 0 or _holds_tissue(body, _tissue(body, AIR_HU), with_lung=False)


def _spans_hu(numbers: Picture) -> bool:
    """Whether the numbers of a field without air reach from lung to bone, and not below lung."""
    low, high = np.percentile(numbers, (0.1, 99.9))
    return bool(
        high - low >= LEAST_SPAN_HU
        and (numbers < AIR_HU - AIR_WITHIN_HU).mean() <= MOST_BELOW_ALONE
        and (numbers < LUNGS_ABOVE_HU).mean() <= MOST_BELOW_LUNGS
    )


def _holds_tissue(rest: Picture, tissue: Peak, *, with_lung: bool) -> bool:
    """Whether soft tissue lies where HU have it.

    Parameters
    ----------
    rest : numbers that are no air
    with_lung : the highest peak may be that of lung
    """
    low, high = TISSUE_HU - TISSUE_WITHIN_HU, TISSUE_HU + TISSUE_WITHIN_HU
    soft, denser = float(((rest >= low) & (rest <= high)).mean()), float((rest > high).mean())
    if denser > (MOST_DENSER_ALONE if with_lung else MOST_DENSER) * soft:
        return False
    if low <= tissue.at <= high:
        return True
    is_lung = with_lung and LUNG_HU[0] <= tissue.at <= LUNG_HU[1] and soft >= LEAST_SOFT
    if tissue.at < low and not is_lung:
        return False
    # Beside much lung or much contrast agent soft tissue has a peak too.
    return any(low <= peak.at <= high for peak in _peaks(rest, 0.5, 99.5, LEAST_PEAK))


def in_hu(numbers: Picture, to_hu: Calibration | None) -> Picture:
    """A coarse picture in HU, in which padding is never tissue."""
    hu = numbers if to_hu is None else to_hu.apply(numbers)
    dense = padding(numbers) & (hu > BODY_HU)
    return np.where(dense, np.float32(AIR_HU), hu) if dense.any() else hu


def padding(picture: Picture, margin: int = 0) -> Mask:
    """Voxels of a value that a corner of the field has and many others have exactly.

    Parameters
    ----------
    margin : so many voxels around padding count as padding: they are mixtures with it
    """
    found = np.zeros(picture.shape, dtype=np.bool_)
    ends = tuple(slice(None, None, max(1, n - 1)) for n in picture.shape)
    sample = picture[::2, ::2, ::2]
    for value in {float(number) for number in picture[ends].flat}:
        if _same(sample, value).mean() <= PADDING_SHARE / 2:
            continue
        same = _same(picture, value)
        if same.mean() > PADDING_SHARE:
            found |= same
    return ndimage.binary_dilation(found, iterations=margin) if margin and found.any() else found


def _same(picture: Picture, value: float) -> Mask:
    return np.asarray(np.abs(picture - np.float32(value)) <= 1e-6 * abs(value) + 1e-3)


def _deep(mask: Mask) -> Mask:
    """What lies deeper than beds and limbs do; beyond the field it goes on."""
    return shrunk(mask, DEEP_VOXELS, beyond=True)


def _tissue(rest: Picture, air: float | None) -> Peak:
    """The highest peak among what is no air."""
    peaks = _peaks(rest, 0.5, 99.5, least=LEAST_PEAK)
    best = max(peaks, key=lambda peak: peak.height)
    if air is None or best.at <= air:
        return best
    reach = FAT_DISTANCE * (best.at - air)
    above = [peak for peak in peaks if best.at <= peak.at <= best.at + reach]
    best = max(above, key=lambda peak: peak.at)
    rivals = [
        peak
        for peak in peaks
        if peak.height >= RIVAL_PEAK and abs(peak.at - best.at) > RIVAL_DISTANCE * (best.at - air)
    ]
    return Peak(best.at, best.width, best.height, clear=not rivals)


def _peaks(numbers: Picture, first: float, last: float, least: float) -> list[Peak]:
    """The modes of a smoothed histogram between two percentiles, ascending."""
    low, high = (float(v) for v in np.percentile(numbers, (first, last)))
    # Bins must be wider than a float32 of such numbers can tell apart.
    margin = 0.05 * (high - low) + 1e-3 * max(1.0, abs(low), abs(high))
    low, high = low - margin, high + margin
    counts = np.histogram(numbers, BINS, (low, high))[0]
    curve = ndimage.gaussian_filter1d(counts.astype(np.float64), SMOOTH_BINS, mode="constant")
    top, bin_width = float(curve.max()), (high - low) / BINS
    rising, falling = np.diff(curve, prepend=-1.0) > 0, np.diff(curve, append=-1.0) <= 0
    found = []
    for k in np.flatnonzero(rising & falling & (curve >= least * top)):
        below = np.flatnonzero(curve < curve[k] / 2)
        before = below[below < k].max(initial=0)
        after = below[below > k].min(initial=BINS - 1)
        at, width = float(low + (k + 0.5) * bin_width), float((after - before) * bin_width)
        found.append(Peak(at, width, float(curve[k]) / top))
    return found
