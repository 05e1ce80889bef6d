"""From a volume to clean labels: find the animal, turn it straight, label it, turn it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from limn.domain.errors import RefusedSeries
from limn.domain.scan import Labels, Organ, Volume
from limn.domain.timing import Stopwatch
from limn.segment.bundle.species import Species
from limn.segment.draw.animals.chest import ChestBox, box_around_chest, chest_stretches, find_chest
from limn.segment.draw.animals.choose import ChoiceRule, keep_one_animal, whole_animals
from limn.segment.draw.animals.field import survey
from limn.segment.draw.animals.located import Located, Place
from limn.segment.draw.animals.size import Thickness, refuse_far_too_large, refuse_other_size
from limn.segment.draw.clean import Cleaned, clean
from limn.segment.draw.hounsfield import CalibrateRule, Calibration, Peaks
from limn.segment.draw.sides import Sides, weigh_sides
from limn.segment.engine.certainty import Certainty
from limn.segment.engine.ensemble import MOST_GROWTHS, Ensemble, Inferred
from limn.segment.engine.localisation.orient import AS_IN_HEADER, Lie, Shares, contradictions
from limn.segment.engine.localisation.region import LEAST_MM3, Region, grown

NO_ANIMAL = (
    "no animal in the field: nothing denser than lung is 6 mm thick; is the bed empty, is the "
    "voxel size too small (PixelSpacing, ImagePositionPatient), or are the pixels not in HU "
    "(RescaleSlope, RescaleIntercept)?"
)
# Windows of a long scan in which a chest is looked for before every stretch of it is.
MOST_STRETCHES = 3


@dataclass(frozen=True, slots=True, eq=False)
class Delineated:
    """One animal's organs.

    Attributes
    ----------
    labels : on the volume's own grid
    removed_voxels : voxels of islands removed from each organ
    animals : how many were in the field
    lie : how the animal lies, by the image
    contradictions : positions of the organs that contradict it
    fold_dsc : agreement of the folds on each organ: mean DSC over all pairs
    disagreement_zyx : (z, y, x) uint8 on the volume's grid: share of the folds that contradict
        the ensemble, 255 for all of them
    flags : what the ensemble did differently from the settings
    sides : the signs that left is left
    certainty : of the networks about each organ
    peaks : of air and soft tissue in the volume's numbers; None if they were not sought
    calibration : how the volume's numbers became HU; None if they were HU
    thickness : of the animal; None if it was not measured
    located : the animal among the others
    """

    labels: Labels
    removed_voxels: Mapping[Organ, int]
    animals: int
    lie: Lie
    contradictions: tuple[str, ...]
    fold_dsc: Mapping[Organ, float]
    disagreement_zyx: npt.NDArray[np.uint8]
    flags: tuple[str, ...]
    sides: Sides
    certainty: Mapping[Organ, Certainty] = field(default_factory=dict)
    peaks: Peaks | None = None
    calibration: Calibration | None = None
    thickness: Thickness | None = None
    located: Located | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Animal:
    """The animal of a scan that counts, before any network has seen it."""

    located: Located
    thickness: Thickness


def find_animal(
    volume: Volume, species: Species, two_animals: ChoiceRule, calibrate: CalibrateRule = "auto"
) -> Animal:
    """Find the animal that counts, and measure it. No network is needed.

    Parameters
    ----------
    volume : (z, y, x) HU on an evenly spaced grid of any orientation; numbers that are not HU are
        brought to HU in place
    calibrate : what to do with a volume that is not in HU

    Raises
    ------
    RefusedSeries
        If there is no animal, or none of the species, or there are several and the rule is to
        refuse; or if the volume is not in HU and can't or must not be brought to HU.
    """
    refuse_far_too_large(volume, species, calibrate)
    located = keep_one_animal(volume, two_animals, calibrate)
    if not located.animals:
        raise RefusedSeries(NO_ANIMAL)
    return Animal(located, refuse_other_size(located, species))


def delineate(
    volume: Volume,
    ensemble: Ensemble,
    two_animals: ChoiceRule,
    stopwatch: Stopwatch,
    progress: Callable[[int, int], None],
    calibrate: CalibrateRule = "auto",
) -> Delineated:
    """Label the organs of one animal; parameters and errors as of `find_animal`."""
    with stopwatch.stage("preprocess_s"):
        animal = find_animal(volume, ensemble.bundle.species, two_animals, calibrate)
    return delineate_animal(animal, ensemble, stopwatch, progress)


def delineate_animal(
    animal: Animal,
    ensemble: Ensemble,
    stopwatch: Stopwatch,
    progress: Callable[[int, int], None],
) -> Delineated:
    """Label the organs of an animal that was found."""
    with stopwatch.stage("preprocess_s"):
        placed = _place(animal.located, ensemble)
    return _delineated(animal.located, animal.thickness, placed, ensemble, stopwatch, progress)


def delineate_each(
    volume: Volume,
    ensemble: Ensemble,
    stopwatch: Stopwatch,
    progress: Callable[[int, int], None],
    calibrate: CalibrateRule = "auto",
    only: int | None = None,
) -> Iterator[tuple[Place, Delineated | RefusedSeries]]:
    """Label the organs of each animal that lies in the field as a whole, one after the other.

    Parameters
    ----------
    volume, calibrate : as in `delineate`
    only : number of the one animal that is wanted; None for all

    Yields
    ------
    place : which animal it is
    drawn : its organs, or why it has none

    Raises
    ------
    RefusedSeries
        As `delineate`, of the scan as a whole; or if it has more animals than limn contours, or not
        the one that is wanted.
    """
    with stopwatch.stage("preprocess_s"):
        refuse_far_too_large(volume, ensemble.bundle.species, calibrate)
        field_of_view = survey(volume, calibrate)
        chest_of = partial(_place_one, ensemble=ensemble) if ensemble.localiser else None
        animals = whole_animals(field_of_view, chest_of)
    if not animals:
        raise RefusedSeries(NO_ANIMAL)
    if only is not None and only > len(animals):
        msg = f"animal {only} is not in the field any more: {len(animals)} are whole"
        raise RefusedSeries(msg)
    for each in animals:
        place = each.located.place
        if place is None or place.number != (only or place.number):
            continue
        try:
            thickness = refuse_other_size(each.located, ensemble.bundle.species)
        except RefusedSeries as error:
            yield place, error
            continue
        yield (
            place,
            _delineated(each.located, thickness, each.chest, ensemble, stopwatch, progress),
        )


def _place_one(located: Located, ensemble: Ensemble) -> _Placed | None:
    """As `_place`; no network looks at what is no animal of the bundle's species."""
    try:
        refuse_other_size(located, ensemble.bundle.species)
    except RefusedSeries:
        return None
    return _place(located, ensemble)


def _delineated(
    located: Located,
    thickness: Thickness,
    placed: _Placed | None,
    ensemble: Ensemble,
    stopwatch: Stopwatch,
    progress: Callable[[int, int], None],
) -> Delineated:
    """The organs of an animal that was found."""
    volume = located.scan
    seen = ensemble.despite_gpu(
        lambda: _see_own_sides(located, placed, ensemble, stopwatch, progress)
    )
    organs = ensemble.bundle.organs
    with stopwatch.stage("clean_s"):
        return Delineated(
            seen.cleaned.labels.on_voxels(
                _in_whole(seen.labels_zyx, seen.region, volume), volume.grid
            ),
            seen.cleaned.removed_voxels,
            located.animals,
            seen.lie,
            tuple(contradictions(seen.cleaned.labels)),
            {organ: seen.inferred.agreement[label] for label, organ in organs.items()},
            _in_whole(seen.disagreement_zyx, seen.region, volume),
            (*seen.inferred.flags, *_chest_flags(seen, ensemble), *_place_flags(located)),
            seen.sides,
            {organ: seen.inferred.certainty[label] for label, organ in organs.items()},
            located.peaks,
            located.calibration,
            thickness,
            located,
        )


@dataclass(frozen=True, slots=True)
class _Placed:
    """How the animal lies, the box of its chest, and that of the organs on the coarse grid."""

    lie: Lie
    chest: ChestBox
    coarse: Region


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What the folds saw in a box of the scan; both arrays are on the scan's voxels there.

    Attributes
    ----------
    organs : where they were expected in the box; None if every fold saw the whole scan
    """

    region: Region
    lie: Lie
    organs: Shares | None
    sides: Sides
    inferred: Inferred
    cleaned: Cleaned
    labels_zyx: npt.NDArray[np.uint8]
    disagreement_zyx: npt.NDArray[np.uint8]


def _place(located: Located, ensemble: Ensemble) -> _Placed | None:
    """How the animal lies and where its chest is; None if the localiser sees no whole chest."""
    localiser, grid, whole = ensemble.localiser, located.scan.grid, located.coarse_spl
    if localiser is None:
        return None
    # Beds and other animals beside this one are neither looked at nor paid for.
    animal = np.ascontiguousarray(whole[located.around.slices])
    for stretch in chest_stretches(animal, localiser)[:MOST_STRETCHES]:
        lie = ensemble.finder.find(animal, stretch) if ensemble.finder else AS_IN_HEADER
        chest = find_chest(animal, lie, stretch, localiser)
        if chest is not None:
            chest = chest.moved(located.around.low)
            box = box_around_chest(chest, whole.shape, grid, lie, ensemble.tile_mm)
            return _Placed(lie, box, chest)
    return None


def _see_own_sides(
    located: Located,
    placed: _Placed | None,
    ensemble: Ensemble,
    stopwatch: Stopwatch,
    progress: Callable[[int, int], None],
) -> _Seen:
    """The whole chest, with the animal's own left lung called the left one.

    If the drawn organs are those of a mirror image, they overrule the header, and the folds see
    the mirror image's image.
    """
    seen = _see_all(located, placed, ensemble, stopwatch, progress)
    if seen.lie.mirrored or not seen.sides.exchanged:
        return seen
    lie = seen.lie.mirror_image(1.0 - seen.sides.probability)
    return _see(located, seen.region, lie, ensemble, stopwatch, progress, seen.organs)


def _see_all(
    located: Located,
    placed: _Placed | None,
    ensemble: Ensemble,
    stopwatch: Stopwatch,
    progress: Callable[[int, int], None],
) -> _Seen:
    """The whole chest; the box grows where it cuts an organ.

    If an organ is missing there, or the box has grown too often, the folds see the whole scan, and
    every stretch of it decides how the animal lies. They see the whole scan of a bundle whose
    organs lie beyond the chest too; then the chest decides how the animal lies.
    """
    grid = located.scan.grid
    everything = Region.whole(grid.shape_zyx)
    if placed is not None and not ensemble.bundle.within_chest:
        return _see(located, everything, placed.lie, ensemble, stopwatch, progress, None)
    if placed is not None:
        region = placed.chest.outer
        organs: Shares | None = placed.chest.organs
        for _ in range(MOST_GROWTHS):
            seen = _see(located, region, placed.lie, ensemble, stopwatch, progress, organs)
            if not _has_every_organ(seen):
                break
            larger = grown(region, seen.labels_zyx, grid.shape_zyx, grid.spacing_mm.zyx)
            if larger == region:
                return seen
            region, organs = larger, ((0.0, 1.0),) * 3
    with stopwatch.stage("preprocess_s"):
        lie = ensemble.finder.find(located.coarse_spl) if ensemble.finder else AS_IN_HEADER
    return _see(located, everything, lie, ensemble, stopwatch, progress, None)


def _has_every_organ(seen: _Seen) -> bool:
    """Whether there is more than a speck of each."""
    return all(mm3 >= LEAST_MM3 for mm3 in seen.cleaned.labels.volumes_mm3().values())


def _see(
    located: Located,
    region: Region,
    lie: Lie,
    ensemble: Ensemble,
    stopwatch: Stopwatch,
    progress: Callable[[int, int], None],
    organs: Shares | None,
) -> _Seen:
    """What the folds see in a box; of the whole scan if it is not known where the organs are."""
    part = located.part(region.slices)
    with stopwatch.stage("preprocess_s"):
        prepared = ensemble.prepare(lie.straighten(part))
    with stopwatch.stage("inference_s"):
        straight = lie.turned_shares(organs, part) if organs else None
        inferred = ensemble.infer(prepared, progress, straight)
        raw = ensemble.label(prepared, inferred)
    with stopwatch.stage("clean_s"):
        cleaned = clean(raw, ensemble.bundle.clean)
        return _Seen(
            region,
            lie,
            organs,
            weigh_sides(cleaned.labels, lie),
            inferred,
            cleaned,
            lie.turned_back(cleaned.labels.labels_zyx, part),
            lie.turned_back(ensemble.disagreement(prepared, inferred), part),
        )


def _in_whole(
    part_zyx: npt.NDArray[np.uint8], region: Region, volume: Volume
) -> npt.NDArray[np.uint8]:
    """A map of a box of the scan as a map of the scan, 0 elsewhere."""
    if part_zyx.shape == volume.hu_zyx.shape:
        return part_zyx
    whole = np.zeros(volume.hu_zyx.shape, dtype=np.uint8)
    whole[region.slices] = part_zyx
    return whole


def _place_flags(located: Located) -> list[str]:
    """Which of several animals it is, and where; and how many the field cuts off."""
    place = located.place
    if place is None or place.of + place.cut < 2:
        return []
    x, y, z = place.middle_xyz_mm
    at = f"animal:{place.number}/{place.of}:x{x:+.0f}y{y:+.0f}z{z:+.0f}mm"
    return [at, *([f"neighbour-cut:{place.cut}"] if place.cut else [])]


def _chest_flags(seen: _Seen, ensemble: Ensemble) -> list[str]:
    """Say so if the localiser found no chest, and every fold saw the whole scan."""
    sought = ensemble.localiser is not None and ensemble.bundle.within_chest
    return ["chest-unsure"] if sought and seen.organs is None else []
