"""What limn says of a real scan, true and mirrored, and with other numbers: a light for each.

python bench/real_mouse.py scan.npz

The file has ``hu`` (z, y, x) and ``spacing`` (3,) in mm. The animal's head lies at the end of the
first axis, its back at the beginning of the second, its left at the end of the third.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from limn.domain.errors import LimnError
from limn.domain.geometry import SpacingMm, axial_grid
from limn.domain.scan import Volume
from limn.domain.shipped import EMBEDDED_BUNDLE
from limn.domain.timing import Stopwatch
from limn.segment.bundle.bundle import open_bundle
from limn.segment.draw.delineate import delineate
from limn.segment.engine.ensemble import Ensemble
from limn.segment.engine.int8 import with_int8
from limn.segment.judge.judge_of_bundle import judge_of
from limn.segment.judge.signs import measure
from limn.segment.judge.verdict import judge_scan

Hu = npt.NDArray[np.float32]
# The chest of the scan in ../shared/data/deepmlast.
CHEST_ZYX = (slice(60, 237), slice(0, 164), slice(20, 228))


def variants(stored: Hu) -> Iterator[tuple[str, bool, Hu]]:
    """Name of a variant, whether it is a mirror image, and its array."""
    as_in_header = stored[:, ::-1]
    for name, mirrored, hu in (
        ("true", False, as_in_header),
        ("mirrored along x", True, as_in_header[:, :, ::-1]),
        ("mirrored along y", True, as_in_header[:, ::-1]),
        ("mirrored along z", True, as_in_header[::-1]),
        ("supine instead of prone", False, as_in_header[:, ::-1, ::-1]),
        ("feet first", False, as_in_header[::-1, :, ::-1]),
    ):
        yield name, mirrored, hu
        if name not in ("true", "mirrored along x"):
            continue
        yield f"{name}, + 100 HU", mirrored, hu + 100
        yield f"{name}, - 100 HU", mirrored, hu - 100
        yield f"{name}, density x 0.8", mirrored, (hu + 1000) * 0.8 - 1000
        yield f"{name}, density x 1.2", mirrored, (hu + 1000) * 1.2 - 1000
        yield f"{name}, cropped to the chest", mirrored, hu[CHEST_ZYX]


def said(hu_zyx: Hu, mm: float, ensemble: Ensemble) -> str:
    """The lights and concerns of one scan, or why it is refused."""
    grid = axial_grid(hu_zyx.shape, SpacingMm(mm, mm, mm), np.zeros(3))
    volume = Volume(np.ascontiguousarray(hu_zyx), grid)
    try:
        drawn = delineate(volume, ensemble, "largest", Stopwatch(), lambda done, total: None)
    except LimnError as error:
        return f"refused: {error}"
    if drawn.contradictions:
        return f"refused: {'; '.join(drawn.contradictions)}"
    signs, volumes_mm3 = measure(drawn, volume), drawn.labels.volumes_mm3()
    judge = judge_of(ensemble.bundle)
    verdict = judge_scan(drawn, signs, judge, volumes_mm3, ensemble.bundle.species)
    held = "held" if verdict.holding("red") else "goes out"
    quality = " ".join(f"{organ} {each.dsc.middle:.2f}" for organ, each in verdict.quality.items())
    return f"{verdict.light}, {held}; {', '.join(verdict.flags)}; {drawn.sides.words}; {quality}"


def main() -> None:
    """Print a line for each variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    asked = parser.parse_args()
    with np.load(asked.scan) as kept:
        mm, hu = float(kept["spacing"][0]), kept["hu"].astype(np.float32)
    bundle = with_int8(open_bundle(EMBEDDED_BUNDLE), lambda line: None)
    ensemble = Ensemble.load(bundle, "cpu", "fast")
    for name, mirrored, changed in variants(hu):
        kind = "MIRROR IMAGE" if mirrored else "true"
        print(f"{name} ({kind}): {said(changed, mm, ensemble)}", flush=True)


if __name__ == "__main__":
    main()
