"""Two to four phantoms in a bed: each animal's contours with the others and without, and the time.

``python bench/beds.py [ARRANGEMENT...]``, such as "side by side"; all five by default. Of each
whole animal the DSC of its organs is printed in the bed with the others, and alone in the same
place of the same field. Beside wall time it prints the process's CPU seconds, for a machine that is
shared.
"""

from __future__ import annotations

import sys
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


def contoured(
    volume: Volume, ensemble: Ensemble
) -> tuple[list[tuple[Place, Delineated]], np.ndarray]:
    """Every animal of a field, and the wall and CPU seconds that they took."""
    began_s = _clocks_s()
    found = []
    for place, drawn in delineate_each(volume, ensemble, Stopwatch(), lambda *_: None):
        if not isinstance(drawn, Delineated):
            raise drawn
        found.append((place, drawn))
    return found, _clocks_s() - began_s


def _clocks_s() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


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
    for name in sys.argv[1:] or BEDS:
        layout, shape = BEDS[name]
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
        wall_s, cpu_s = together_s
        one_wall_s, one_cpu_s = np.mean(alone_s, axis=0)
        print(
            f"{name:16} {wall_s:.1f} s (CPU {cpu_s:.1f} s), one alone on average "
            f"{one_wall_s:.1f} s (CPU {one_cpu_s:.1f} s), CPU together by the sum of each alone: "
            f"{cpu_s / np.sum(alone_s, axis=0)[1]:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
