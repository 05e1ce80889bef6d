"""The product: a series in, a proven structure set out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from limn.dicom import rtstruct
from limn.dicom.ct import CtIdentity, ct_instances
from limn.dicom.series import Instance, Series, assemble
from limn.dicom.volume import Stored, read_volume
from limn.domain.buffer import GrowingBuffer
from limn.domain.errors import LimnError, RefusedSeries, StageFailed
from limn.domain.geometry import SpacingMm, axial_grid, even_grid
from limn.domain.light import Light
from limn.domain.roi_rules import RoiRule
from limn.domain.scan import Contour, Labels, Organ, Volume
from limn.domain.timing import Stopwatch
from limn.node.contour.field_size import refuse_field
from limn.node.contour.picture_words import banner, legend
from limn.segment.draw.animals.choose import ChoiceRule
from limn.segment.draw.animals.located import Place
from limn.segment.draw.delineate import Delineated, delineate, delineate_each
from limn.segment.draw.derived import Scene
from limn.segment.draw.gaps import organs_in_gaps, unbridge
from limn.segment.draw.hounsfield import CalibrateRule
from limn.segment.draw.picture.legend import Banner
from limn.segment.draw.picture.sheet import draw_contours
from limn.segment.draw.rasterise import rasterised_slices
from limn.segment.draw.roi_set import RoiSet
from limn.segment.draw.trace import Traced, trace
from limn.segment.engine.memory import refuse_unread
from limn.segment.judge.judge_of_bundle import judge_of
from limn.segment.judge.signs import measure
from limn.segment.judge.verdict import Concern, HoldRule, Verdict, judge_scan

if TYPE_CHECKING:
    from limn.segment.bundle.bundle import Bundle
    from limn.segment.bundle.species import Species
    from limn.segment.engine.ensemble import Ensemble

# Every n-th voxel along each axis is enough to see whether a scan is in Hounsfield units.
HU_SAMPLE = 7
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Options:
    """What the site decides about contouring.

    Attributes
    ----------
    hold : which light holds a scan for release
    rois : what to derive from the organs
    delivered : whether the structure set is for a planning system; one for a folder is never held
    """

    two_animals: ChoiceRule
    assume_hu: bool
    style: rtstruct.Style
    max_points: int | None
    calibrate: CalibrateRule = "auto"
    hold: HoldRule = "red"
    delivered: bool = True
    rois: tuple[RoiRule, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """Everything that comes out of a scan.

    Attributes
    ----------
    structure_set : an RTSTRUCT file
    picture : a PNG file
    rois : organs and derived ROIs, on the slices that exist
    volumes_mm3 : of the organs
    mean_hu : of the organs and ROIs that have a voxel
    roi_names : in the structure set
    fold_dsc, disagreement_zyx : see `segment.draw.delineate.Delineated`
    verdict : how far the contours may be trusted
    held : why a person must look before the structure set is delivered; None if nobody must
    series, identity : of the scan, for what else is written of it
    """

    structure_set: bytes
    picture: bytes
    rois: RoiSet
    volumes_mm3: Mapping[Organ, float]
    mean_hu: Mapping[Organ, float]
    roi_names: Mapping[Organ, str]
    removed_voxels: Mapping[Organ, int]
    fold_dsc: Mapping[Organ, float]
    disagreement_zyx: npt.NDArray[np.uint8]
    flags: tuple[str, ...]
    verdict: Verdict
    held: str | None
    series: Series
    identity: rtstruct.Identity

    @property
    def labels(self) -> Labels:
        """Of the organs."""
        return self.rois.labels


@dataclass(frozen=True, slots=True, eq=False)
class OpenScan:
    """A series with its pixels; contouring may change these."""

    series: Series
    volume: Volume


def open_scan(
    instances: Sequence[Instance],
    species: Species,
    *,
    assume_hu: bool,
    pixels: dict[Path, Stored] | None = None,
    buffer: GrowingBuffer | None = None,
) -> OpenScan:
    """The pixels of a series of a field that a scan of such an animal may have.

    Parameters
    ----------
    assume_hu, pixels, buffer : see `assemble`, `read_volume`

    Raises
    ------
    RefusedSeries
        If the series can't be contoured, or does not fit into memory.
    """
    series = assemble(instances, assume_hu=assume_hu)
    refuse_field(series.grid, species)
    refuse_unread(even_grid(series.grid, series.rungs).shape_zyx)
    return OpenScan(series, read_volume(series, bridged=True, pixels=pixels, buffer=buffer))


def contour(
    source: Sequence[Instance] | OpenScan,
    ensemble: Ensemble,
    identity: rtstruct.Identity,
    options: Options,
    stopwatch: Stopwatch,
    progress: Callable[[int, int], None],
    name: str = "",
) -> Product:
    """Contour one animal of a series.

    Parameters
    ----------
    source : the instances of the series, or the series that was opened from them
    progress : called with the tiles that are done and their total
    name : of the scan, for its picture; empty if it has none

    Raises
    ------
    RefusedSeries
        If the series can't be contoured.
    StageFailed
        If no organ was found, or the structure set differs from the labels.
    """
    series, volume = _opened(source, ensemble, options, stopwatch)
    drawn = delineate(volume, ensemble, options.two_animals, stopwatch, progress, options.calibrate)
    return _product(series, volume, drawn, ensemble, identity, options, stopwatch, name)


def contour_each(
    source: Sequence[Instance] | OpenScan,
    ensemble: Ensemble,
    named: Callable[[Place], tuple[rtstruct.Identity, str]],
    options: Options,
    stopwatch: Stopwatch,
    progress: Callable[[int, int], None],
    only: int | None = None,
) -> Iterator[tuple[Place, Product | LimnError]]:
    """Contour each animal of a series, one after the other.

    Parameters
    ----------
    source : see `contour`
    named : gives identity and name of an animal's scan
    only : number of the one animal that is wanted; None for all

    Yields
    ------
    place : which animal it is
    product : what came of it, or why nothing did

    Raises
    ------
    RefusedSeries
        If no animal of the series can be contoured.
    """
    series, volume = _opened(source, ensemble, options, stopwatch)
    for place, drawn in delineate_each(
        volume, ensemble, stopwatch, progress, options.calibrate, only
    ):
        if isinstance(drawn, LimnError):
            yield place, drawn
            continue
        identity, name = named(place)
        try:
            product = _product(series, volume, drawn, ensemble, identity, options, stopwatch, name)
        except LimnError as error:
            yield place, error
        else:
            yield place, product


def _opened(
    source: Sequence[Instance] | OpenScan,
    ensemble: Ensemble,
    options: Options,
    stopwatch: Stopwatch,
) -> tuple[Series, Volume]:
    with stopwatch.stage("read_s"):
        if not isinstance(source, OpenScan):
            source = open_scan(source, ensemble.bundle.species, assume_hu=options.assume_hu)
        return source.series, source.volume


def _product(
    series: Series,
    volume: Volume,
    drawn: Delineated,
    ensemble: Ensemble,
    identity: rtstruct.Identity,
    options: Options,
    stopwatch: Stopwatch,
    name: str,
) -> Product:
    """What comes out of an animal's organs; parameters and errors as of `contour`."""
    with stopwatch.stage("clean_s"):
        rois = _rois(_on_slices(drawn, series), drawn, series, options)
        volumes_mm3 = rois.labels.volumes_mm3()
    with stopwatch.stage("judge_s"):
        verdict = _judged(drawn, volume, volumes_mm3, ensemble)
    holding = verdict.holding(options.hold) if options.delivered else ()
    with stopwatch.stage("trace_s"):
        traced = rois.trace(options.style.holes, options.max_points)
    structure_set = _proven(
        series, rois, traced, (verdict, holding), identity, options.style, stopwatch
    )
    flags = _flags(series, drawn, verdict, (traced.dropped, rois.flags), volume, ensemble.bundle)
    with stopwatch.stage("picture_s"):
        header = banner(name, series, identity, verdict, held=bool(holding))
        words = legend(series, identity, volumes_mm3, verdict, flags)
        picture = draw_contours(volume, drawn.labels, options.style.colours, header, words)
    return Product(
        structure_set,
        picture,
        rois,
        volumes_mm3,
        rois.mean_hu(_of_slices(volume.hu_zyx, series)),
        options.style.roi_names,
        drawn.removed_voxels,
        drawn.fold_dsc,
        _of_slices(drawn.disagreement_zyx, series),
        flags,
        verdict,
        verdict.hold_reason(options.hold),
        series,
        identity,
    )


def _proven(
    series: Series,
    rois: RoiSet,
    traced: Traced,
    judged: tuple[Verdict, Collection[Concern]],
    identity: rtstruct.Identity,
    style: rtstruct.Style,
    stopwatch: Stopwatch,
) -> bytes:
    """The structure set, built and read back.

    Parameters
    ----------
    judged : the verdict, and the concerns that hold the structure set
    """
    verdict, holding = judged
    with stopwatch.stage("rtstruct_s"):
        structure_set = rtstruct.build(
            series,
            traced.contours,
            rois.volumes_mm3(),
            identity,
            style,
            notes=verdict.notes(holding),
            organ_notes=verdict.organ_words(holding),
            derived=_how(rois, verdict),
        )
    with stopwatch.stage("prove_s"):
        prove(structure_set, series, rois, style)
    return structure_set


def _judged(
    drawn: Delineated, volume: Volume, volumes_mm3: Mapping[Organ, float], ensemble: Ensemble
) -> Verdict:
    bundle = ensemble.bundle
    return judge_scan(drawn, measure(drawn, volume), judge_of(bundle), volumes_mm3, bundle.species)


def _on_slices(drawn: Delineated, series: Series) -> Labels:
    """The labels on the slices that exist; refused where they can't be a mouse's."""
    if cut := organs_in_gaps(drawn.labels, series.rungs):
        raise RefusedSeries(_gap_refusal(series, cut))
    labels = unbridge(drawn.labels, series.rungs, series.grid)
    if not labels.labels_zyx.any():
        raise StageFailed("no organ was found; is there a mouse thorax in this scan?")
    if drawn.contradictions:
        raise RefusedSeries(_contradiction(series, drawn.contradictions))
    return labels


def _of_slices(array_zyx: npt.NDArray[_Number], series: Series) -> npt.NDArray[_Number]:
    """The slices that exist; not copied if no slice is missing."""
    return array_zyx if len(series.rungs) == len(array_zyx) else array_zyx[series.rungs]


def _rois(labels: Labels, drawn: Delineated, series: Series, options: Options) -> RoiSet:
    """The organs, and what the site derives from them."""
    if not options.rois or drawn.located is None:
        return RoiSet(labels)
    scene = Scene(drawn.located.part, drawn.labels, drawn.lie)
    form = options.style.holes, options.max_points
    return RoiSet.made(labels, options.rois, scene, series.rungs, form)


def _how(rois: RoiSet, verdict: Verdict) -> dict[Organ, str]:
    """How each derived ROI was made, and what is to be minded of the organs in it."""
    told = {}
    volumes_mm3 = rois.labels.volumes_mm3()
    for roi in rois.derived:
        doubts = [
            f"{organ} was not found" if volumes_mm3[organ] == 0 else f"{organ} has light {light}"
            for organ in roi.organs
            if (light := verdict.light_of(organ)) in (Light.AMBER, Light.RED)
        ]
        told[roi.name] = "; ".join((roi.how, *doubts))
    return told


def rehearse(ensemble: Ensemble, options: Options) -> None:
    """Run every stage once on a ball as thick as a mouse, so that no animal waits for imports."""
    n = 48
    spacing = SpacingMm(0.3, 0.3, 0.3)
    grid = axial_grid((n, n, n), spacing, np.zeros(3))
    z, y, x = np.ogrid[:n, :n, :n]
    ball = ((z - n / 2) ** 2 + (y - n / 2) ** 2 + (x - n / 2) ** 2) < (n / 2.3) ** 2
    volume = Volume(np.where(ball, 40.0, -1000.0).astype(np.float32), grid)
    delineate(volume, ensemble, options.two_animals, Stopwatch(), lambda done, total: None)
    label = next(iter(ensemble.bundle.organs))
    voxels = (ball * label).astype(np.uint8)
    labels = Labels(voxels, grid, ensemble.bundle.organs, ensemble.bundle.roles)
    headers = ct_instances(volume, CtIdentity("rehearsal", "2.25.1", ("20260101", "000000")))
    series = assemble([Instance(header, Path()) for header in headers])
    identity = rtstruct.Identity("2.25.2", "2.25.3", "20260101", "000000", "rehearsal", "", "")
    contours = trace(labels).contours
    structure_set = rtstruct.build(series, contours, labels.volumes_mm3(), identity, options.style)
    prove(structure_set, series, RoiSet(labels), options.style)
    draw_contours(volume, labels, options.style.colours, Banner("rehearsal"))


def prove(structure_set: bytes, series: Series, rois: RoiSet, style: rtstruct.Style) -> None:
    """Read the file back: valid for a planning system, and its contours reproduce the voxels.

    Raises
    ------
    StageFailed
        Names the first faults; the structure set must not be sent.
    """
    ds = rtstruct.read(structure_set)
    if faults := rtstruct.faults(ds, series):
        msg = f"the structure set is unsound: {'; '.join(faults[:3])}"
        raise StageFailed(msg)
    contours: list[Contour] = rtstruct.contours_of(ds, series, style)
    for roi, slices, in_slice in rois.slices():
        drawn = rasterised_slices(contours, series.grid, roi, xor=style.holes == "xor")
        nothing = np.zeros((series.grid.rows, series.grid.columns), dtype=np.bool_)
        # In any other slice there is neither a voxel nor a contour.
        wrong = sum(
            int(np.count_nonzero(drawn.get(k, nothing) != in_slice(k)))
            for k in drawn.keys() | set(slices)
        )
        if wrong:
            msg = f"the contours of {roi} miss it in {wrong} voxels"
            raise StageFailed(msg)


def _gap_refusal(series: Series, cut: list[Organ]) -> str:
    steps = np.diff(series.rungs)
    after = int(np.flatnonzero(steps > 1)[0])
    first, second = (series.slices[after + i] for i in (0, 1))
    return (
        f"{int(steps[after]) - 1} slices missing between slices {after + 1} and {after + 2}, "
        f"{first.name} and {second.name} (ImagePositionPatient "
        f"{first.plane.ImagePositionPatient} and {second.plane.ImagePositionPatient}), in "
        f"{', '.join(cut)}; send the missing slices or scan again"
    )


def _contradiction(series: Series, contradictions: Sequence[str]) -> str:
    return (
        f"the header contradicts the anatomy: {'; '.join(contradictions)}. Check how the "
        f"animal lies against PatientPosition "
        f"{series.first.get('PatientPosition', 'absent')} and ImageOrientationPatient "
        f"{series.slices[0].plane.ImageOrientationPatient}: left and right may be swapped"
    )


def _flags(
    series: Series,
    drawn: Delineated,
    verdict: Verdict,
    of_rois: tuple[Mapping[Organ, int], Sequence[str]],
    volume: Volume,
    bundle: Bundle,
) -> tuple[str, ...]:
    """Every flag of a scan, once.

    Parameters
    ----------
    of_rois : contours that were dropped, and flags of derived ROIs
    """
    dropped, failed = of_rois
    found = (
        *series.flags,
        *verdict.flags,
        *drawn.flags,
        *failed,
        *(f"dropped:{organ}:{n}" for organ, n in dropped.items() if n),
        *_scan_flags(volume, bundle),
    )
    return tuple(dict.fromkeys(found))


def _scan_flags(volume: Volume, bundle: Bundle) -> list[str]:
    """The flags of its HU and of the bundle."""
    expected_hu = bundle.expected_hu
    sample = volume.hu_zyx[::HU_SAMPLE, ::HU_SAMPLE, ::HU_SAMPLE]
    low, high = (float(v) for v in np.percentile(sample, (5, 95)))
    outside = low < expected_hu[0] or high > expected_hu[1]
    return [
        *([f"hu-range:{low:.0f}..{high:.0f}"] if outside else []),
        *(["demo-bundle"] if bundle.demonstration else []),
    ]
