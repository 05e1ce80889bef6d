"""From a volume to clean labels: find the animal, turn it straight, label it, turn it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from limn.domain.errors import RefusedSeries
from limn.domain.scan import Labels, Organ, Volume
from limn.domain.timing import Stopwatch
from limn.segment.draw.clean import clean
from limn.segment.draw.locate import ChoiceRule, keep_one_animal
from limn.segment.engine.ensemble import Ensemble, Inferred, Prepared
from limn.segment.engine.orient import AS_IN_HEADER, Lie, contradictions


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
    """

    labels: Labels
    removed_voxels: Mapping[Organ, int]
    animals: int
    lie: Lie
    contradictions: tuple[str, ...]
    fold_dsc: Mapping[Organ, float]
    disagreement_zyx: npt.NDArray[np.uint8]
    flags: tuple[str, ...]


def delineate(
    volume: Volume,
    ensemble: Ensemble,
    two_animals: ChoiceRule,
    stopwatch: Stopwatch,
    progress: Callable[[int, int], None],
) -> Delineated:
    """Label the organs of one animal.

    Parameters
    ----------
    volume : (z, y, x) HU on an evenly spaced grid of any orientation

    Raises
    ------
    RefusedSeries
        If there is no animal, or there are several and the rule is to refuse.
    """
    with stopwatch.stage("preprocess_s"):
        located = keep_one_animal(volume, two_animals)
        if not located.animals:
            raise RefusedSeries(
                "no animal in the field: nothing denser than lung is 6 mm thick; is the bed "
                "empty, or are the pixels not in HU (RescaleSlope, RescaleIntercept)?"
            )
        lie = ensemble.finder.find(located.volume) if ensemble.finder else AS_IN_HEADER
        straight = lie.straighten(located.volume)

    def drawn() -> tuple[Prepared, Inferred, Labels]:
        with stopwatch.stage("preprocess_s"):
            prepared = ensemble.prepare(straight)
        with stopwatch.stage("inference_s"):
            inferred = ensemble.infer(prepared, progress)
            return prepared, inferred, ensemble.label(prepared, inferred)

    prepared, inferred, raw = ensemble.despite_gpu(drawn)
    with stopwatch.stage("clean_s"):
        cleaned = clean(raw, ensemble.bundle.clean)
        contradicting = contradictions(cleaned.labels)
        labels = lie.back(cleaned.labels, volume)
        disagreement = lie.turned_back(ensemble.disagreement(prepared, inferred), volume)
    return Delineated(
        labels,
        cleaned.removed_voxels,
        located.animals,
        lie,
        tuple(contradicting),
        {organ: inferred.agreement[label] for label, organ in labels.organs.items()},
        disagreement,
        inferred.flags,
    )
