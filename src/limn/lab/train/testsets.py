"""Test sets of phantoms that no network has seen, and the evaluation of a bundle on them.

`cohort_trials` are the paper's two test sets, 35 native and 35 contrast-enhanced scans.
`stress_trials` are hard conditions for a node: voxel sizes, wrong HU, objects and animals beside
the mouse, wrong headers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from limn.domain.errors import ConfigWrong
from limn.domain.files import write_durably
from limn.domain.geometry import SpacingMm
from limn.domain.scan import Labels, Organ, Volume
from limn.lab.measure.evaluate import (
    ScanWithTruth,
    Trial,
    draw_comparison,
    evaluate,
    markdown_table,
    read_rows,
    refuse_other_scores,
    worst_scans,
)
from limn.lab.phantoms.orientation import mirror_pixels, turn_pixels
from limn.lab.train.nnunet_folder import note_measured
from limn.phantom.anatomy import TRUTH_LABELS, WHOLE_LABELS, Mouse, conceive
from limn.phantom.body import inside, labels_of
from limn.phantom.cohort import Cohort, CohortSplit, Visit, mouse_of, scanner_of
from limn.phantom.scanner import Scanner, expose
from limn.segment.bundle.bundle import Bundle, open_bundle
from limn.segment.bundle.profile import ProfileName
from limn.segment.engine.ensemble import Ensemble

Organs: TypeAlias = Mapping[int, Organ]
# No training and no cohort has seeds from here on.
FIRST_SEED = 9000
FIELD_MM = (32.0, 28.0, 30.0)
SPACINGS_MM = (0.08, 0.1, 0.14, 0.2, 0.28)
OFFSETS_HU = (-200.0, 200.0)
PLAIN_MM = 0.2
WIDE_MM = 56.0


def _scanner(spacing_mm: float, offset_hu: float = 0.0) -> Scanner:
    z, y, x = (round(mm / spacing_mm) for mm in FIELD_MM)
    spacing = SpacingMm(spacing_mm, spacing_mm, spacing_mm)
    return Scanner(spacing, (z, y, x), (0.0, 0.0, -1.0), offset_hu=offset_hu)


def _known(mouse: Mouse, scanner: Scanner, organs: Organs) -> ScanWithTruth:
    beyond = not set(organs) <= set(TRUTH_LABELS)
    painted = len(WHOLE_LABELS if beyond else TRUTH_LABELS)
    volume, shares = expose(mouse, scanner, mouse.seed, organs=painted)
    return ScanWithTruth(volume, _truth(shares, volume, organs), inside(mouse, volume.grid))


def _truth(shares: npt.NDArray[np.uint8], volume: Volume, organs: Organs) -> Labels:
    """Of these organs alone."""
    every = labels_of(shares)
    every[~np.isin(every, list(organs))] = 0
    return Labels(every, volume.grid, organs)


def _spaced(spacing_mm: float, organs: Organs, seed: int) -> ScanWithTruth:
    return _known(conceive(seed), _scanner(spacing_mm), organs)


def _off(offset_hu: float, organs: Organs, seed: int) -> ScanWithTruth:
    return _known(conceive(seed), _scanner(PLAIN_MM, offset_hu), organs)


def _crowded(organs: Organs, seed: int) -> ScanWithTruth:
    mouse = conceive(seed, neighbour=True)
    around = replace(mouse.around, tubes=6, wires=2, nozzle=True)
    plain = _scanner(PLAIN_MM)
    z, y, _ = plain.shape_zyx
    beside_mm = mouse.around.neighbour_xyz_mm[0] if mouse.around.neighbour_xyz_mm else 0.0
    # Both animals are in the field, and the labelled one is nearer to its middle.
    wide = replace(
        plain,
        shape_zyx=(z, y, round(WIDE_MM / PLAIN_MM)),
        centre_xyz_mm=(0.4 * beside_mm, 0.0, plain.centre_xyz_mm[2]),
    )
    return _known(replace(mouse, around=around), wide, organs)


def _lying(how: str, axis: str, organs: Organs, seed: int) -> ScanWithTruth:
    known = _known(conceive(seed), _scanner(PLAIN_MM), organs)
    change = turn_pixels if how == "turned" else mirror_pixels
    return ScanWithTruth(*change(known.volume, known.truth, axis))


def stress_trials(mice: int, organs: Organs = TRUTH_LABELS) -> list[Trial]:
    """Every condition, each on so many mice.

    Parameters
    ----------
    organs : those of `phantom.anatomy.WHOLE_LABELS` whose truth is wanted
    """
    conditions: dict[str, Callable[[Organs, int], ScanWithTruth]] = {}
    conditions |= {f"{mm} mm": partial(_spaced, mm) for mm in SPACINGS_MM}
    conditions |= {f"{hu:+.0f} HU": partial(_off, hu) for hu in OFFSETS_HU}
    conditions["tubes, wires, neighbour"] = _crowded
    conditions |= {
        f"{how} {axis}": partial(_lying, how, axis)
        for how in ("turned", "mirrored")
        for axis in "xyz"
    }
    return [
        Trial(name, str(seed), partial(make, organs, seed), len(organs))
        for name, make in conditions.items()
        for seed in range(FIRST_SEED, FIRST_SEED + mice)
    ]


def cohort_trials(*, wide: bool, organs: Organs = TRUTH_LABELS) -> list[Trial]:
    """The test scans of the paper's two sets.

    Parameters
    ----------
    wide : scanners, beds and calibration differ from scan to scan; else all are of one facility
    organs : as in `stress_trials`
    """
    cohort = Cohort(wide=wide)
    sets = {CohortSplit.TEST1: "native", CohortSplit.TEST2: "contrast"}
    return [
        Trial(
            sets[visit.animal.split],
            visit.name,
            partial(_visit, cohort, visit, organs),
            len(organs),
        )
        for visit in cohort.visits
        if visit.animal.split in sets
    ]


def _visit(cohort: Cohort, visit: Visit, organs: Organs) -> ScanWithTruth:
    # The seed of a scan is that of the visit, not of the animal.
    mouse = replace(mouse_of(cohort, visit), seed=visit.seed)
    return _known(mouse, scanner_of(cohort, visit), organs)


def _taught(bundle: Bundle) -> Organs:
    """The organs of a bundle whose truth phantoms have, by their label there.

    Raises
    ------
    ConfigWrong
        If there is none.
    """
    own = set(bundle.organs.values())
    if found := {label: organ for label, organ in WHOLE_LABELS.items() if organ in own}:
        return found
    msg = (
        f"bundle {bundle.label} draws {', '.join(bundle.organs.values())}; the phantoms have "
        f"{', '.join(WHOLE_LABELS.values())}: nothing can be scored"
    )
    raise ConfigWrong(msg)


def try_bundle(
    bundle: Path,
    name: str,
    profile: ProfileName | None,
    folder: Path,
    report: Callable[[str], None],
    *,
    note: bool,
) -> None:
    """Evaluate a bundle, write ``table.md`` and draw the worst scan of each group.

    Parameters
    ----------
    name : of the test set: "cohort", "wide" or "stress"
    profile : of the ensemble; None for the bundle's own
    note : whether the means are written into the bundle's manifest
    """
    opened = open_bundle(bundle)
    organs = _taught(opened)
    trials = (
        stress_trials(3, organs)
        if name == "stress"
        else cohort_trials(wide=name == "wide", organs=organs)
    )
    run = profile or opened.profile
    refuse_other_scores(
        folder, f"bundle {opened.label} {opened.sha256[:12]} profile {run} on {name}"
    )
    ensemble = Ensemble.load(opened, "cpu", run)
    rows = read_rows(evaluate(trials, ensemble, folder, report))
    write_durably(folder / "table.md", markdown_table(rows).encode())
    if note:
        note_measured(bundle, rows, f"limn lab try, phantoms, set {name}, profile {run}")
    of_name = {(trial.group, trial.scan): trial for trial in trials}
    for group in dict.fromkeys(trial.group for trial in trials):
        for scan in worst_scans(rows, group, 1):
            draw_comparison(
                of_name[group, scan], ensemble, folder / "worst" / f"{group} {scan}.png"
            )
    report(f"{folder / 'table.md'} written, the worst cases drawn beside it")
