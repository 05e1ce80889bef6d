"""Two to four phantoms in a bed: each animal's contours with the others and without, and the time.

Five arrangements; of each whole animal the DSC of its organs is printed in the bed with the others,
and alone in the same place of the same field.
"""

from __future__ import annotations

import time

import numpy as np

from limn.domain.scan import Volume, dice
from limn.domain.shipped import EMBEDDED_BUNDLE
from limn.domain.timing import Stopwatch
from limn.phantom.anatomy import TRUTH_LABELS
from limn.segment.bundle.bundle import open_bundle
from limn.segment.draw.animals.located import Place
from limn.segment.draw.delineate import Delineated, delineate_each
from limn.segment.engine.ensemble import Ensemble
from tests.support.segment.beds import BEDS, bed


def contoured(volume: Volume, ensemble: Ensemble) -> tuple[list[tuple[Place, Delineated]], float]:
    """Every animal of a field, and the seconds that they took."""
    began_s = time.perf_counter()
    found = []
    for place, drawn in delineate_each(volume, ensemble, Stopwatch(), lambda *_: None):
        if not isinstance(drawn, Delineated):
            raise drawn
        found.append((place, drawn))
    return found, time.perf_counter() - began_s


def overlaps(drawn: Delineated, truth_zyx: np.ndarray) -> np.ndarray:
    """DSC of each organ."""
    found = drawn.labels.labels_zyx
    return np.array([dice(found == label, truth_zyx == label) for label in TRUTH_LABELS])


def main() -> None:
    """Print a row for each animal and the time of each arrangement."""
    bundle = open_bundle(EMBEDDED_BUNDLE)
    ensemble = Ensemble.load(bundle, "cpu", bundle.profile)
    ensemble.warm_up()
    print(f"{'arrangement':16} animal  {'  '.join(TRUTH_LABELS.values())}   (alone)")
    for name, (layout, shape) in BEDS.items():
        laid = bed(layout, shape)
        together, together_s = contoured(laid.volume, ensemble)
        alone_s = []
        for (place, drawn), seed, truth_zyx in zip(together, layout, laid.truths_zyx, strict=False):
            one = bed({seed: layout[seed]}, shape)
            ((_, single),), took_s = contoured(one.volume, ensemble)
            alone_s.append(took_s)
            own, lone = overlaps(drawn, truth_zyx), overlaps(single, one.truths_zyx[0])
            strangers = sum(
                int((other[drawn.labels.labels_zyx > 0] > 0).sum())
                for other in laid.truths_zyx
                if other is not truth_zyx
            )
            print(
                f"{name:16} {place.number}/{place.of}-{place.cut}  {np.round(own, 3)} "
                f"({np.round(lone, 3)}), {strangers} voxels in others",
                flush=True,
            )
        print(f"{name:16} {together_s:.1f} s, one alone {np.mean(alone_s):.1f} s", flush=True)


if __name__ == "__main__":
    main()
