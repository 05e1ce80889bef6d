"""Contours spoilt scans on every core; a run that was killed goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, Protocol

import torch

from limn.domain.folders import writable
from limn.domain.timing import in_words
from limn.lab.measure.evaluate import refuse_other_scores
from limn.lab.process.folder_lock import folder_lock
from limn.lab.process.isolated import cores
from limn.lab.process.pool import in_processes
from limn.lab.trust.trial import try_scan
from limn.lab.trust.trial_row import TrialRow, append, read_rows
from limn.phantom.anatomy import TRUTH_LABELS
from limn.phantom.faults import FAULTS, UNSEEN, SpoiltScan, spoilt_scan
from limn.segment.bundle.bundle import Bundle, open_bundle, sha256_of
from limn.segment.engine.ensemble import Ensemble
from limn.segment.engine.int8 import with_int8

SetName = Literal["teach", "try"]

# No network learnt from these animals, and the two sets share none.
FIRST_SEED: dict[SetName, int] = {"teach": 5_000_000, "try": 6_000_000}
# Scans that nothing spoilt: one in four.
GOOD = ("none", "wide")
GOOD_EVERY = 4


class Spoilt(Protocol):
    """A scan of a set, which a process makes when its turn comes."""

    @property
    def fault(self) -> str:
        """What spoils it."""

    @property
    def seed(self) -> int:
        """Number of the scan in its set."""

    def make(self) -> SpoiltScan:
        """Paint or read it, and spoil it."""


@dataclass(frozen=True, slots=True)
class SpoiltPhantom:
    """A phantom with a fault."""

    fault: str
    seed: int
    whole_body: bool = False

    def make(self) -> SpoiltScan:
        """Paint it."""
        return spoilt_scan(self.fault, self.seed, whole_body=self.whole_body)


def beyond_chest(bundle: Bundle) -> bool:
    """Whether a bundle has organs of which only whole phantoms have a truth."""
    return not set(bundle.organs.values()) <= set(TRUTH_LABELS.values())


def phantom_set(
    name: SetName, count: int, *, whole_body: bool = False
) -> tuple[SpoiltPhantom, ...]:
    """The first scans of a set: every fourth is a good one, the others go round all faults.

    Kinds that no judge may be taught (`phantom.faults.UNSEEN`) stand in the "try" set only.

    Parameters
    ----------
    whole_body : with the truth of every organ that the phantoms have, in long fields
    """
    spoilt = [
        fault for fault in FAULTS if fault not in GOOD and (name == "try" or fault not in UNSEEN)
    ]
    scans = []
    for k in range(count):
        kinds, turn = spoilt, k - k // GOOD_EVERY - 1
        if k % GOOD_EVERY == 0:
            kinds, turn = list(GOOD), k // GOOD_EVERY
        kind = kinds[turn % len(kinds)]
        scans.append(SpoiltPhantom(kind, FIRST_SEED[name] + k, whole_body))
    return tuple(scans)


def contour_set(
    bundle_folder: Path,
    path: Path,
    scans: Sequence[Spoilt],
    source: str,
    report: Callable[[str], None],
    workers: int | None = None,
) -> list[TrialRow]:
    """Contour every scan of a set that the file of rows lacks.

    Parameters
    ----------
    path : the file of rows; its folder is for one bundle and one source only
    source : whose scans these are: "phantoms", or the path of a data set

    Returns
    -------
    The rows of these scans, those of earlier runs included.

    Raises
    ------
    BundleUnfit
        If the bundle can't be used.
    StageFailed
        If a process was killed.
    """
    bundle = with_int8(open_bundle(bundle_folder), report)
    writable(path.parent)
    with folder_lock(path.parent, "run is writing there"):
        refuse_other_scores(path.parent, _told(bundle, source))
        done = {(row.fault, row.seed) for row in read_rows(path)}
        waiting = [scan for scan in scans if (scan.fault, scan.seed) not in done]
        before, began = len(scans) - len(waiting), time.monotonic()
        many = max(1, min(workers or cores(), len(waiting)))
        work = partial(_row, bundle_folder, max(1, cores() // many))
        rows = in_processes(work, waiting, many, "contours scans")
        for k, row in enumerate(rows, start=1):
            append(path, row)
            left_s = (time.monotonic() - began) / k * (len(waiting) - k)
            report(f"{before + k}/{len(scans)} {_words(row)}; {in_words(left_s)} left")
    wanted = {(scan.fault, scan.seed) for scan in scans}
    return [row for row in read_rows(path) if (row.fault, row.seed) in wanted]


def _told(bundle: Bundle, source: str) -> str:
    """Which weights contour which scans; the judge of a bundle changes no contour."""
    weights = " ".join(sha256_of(bundle.checkpoint(fold))[:12] for fold in bundle.folds)
    return f"spoilt scans of {source} by {bundle.label} (weights {weights})"


def _row(bundle: Path, threads: int, scan: Spoilt) -> TrialRow:
    ensemble = _warm(bundle, threads)
    return try_scan(scan.make(), ensemble)


@lru_cache(maxsize=1)
def _warm(folder: Path, threads: int) -> Ensemble:
    """The ensemble of this process, which shares the cores with its siblings."""
    torch.set_num_threads(threads)
    bundle = with_int8(open_bundle(folder), lambda line: None)
    ensemble = Ensemble.load(bundle, "cpu", bundle.profile)
    ensemble.warm_up()
    return ensemble


def _words(row: TrialRow) -> str:
    found = (
        f"refused: {row.refused[:70]}"
        if row.refused
        else " ".join(f"{organ} {dsc:.2f}" for organ, dsc in row.dsc.items())
    )
    swapped = " EXCHANGED" if row.exchanged else ""
    return f"{row.fault} {row.severity:.2f}: {found}{swapped}, {row.seconds:.0f} s"
