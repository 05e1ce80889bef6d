"""Contours spoilt scans on every core; a run that was killed goes on."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

from limn.domain.errors import StageFailed
from limn.domain.folders import writable
from limn.domain.timing import in_words
from limn.lab.measure.evaluate import refuse_other_scores
from limn.lab.process.folder_lock import folder_lock
from limn.lab.process.isolated import cores, end_with_parent
from limn.lab.trust.trial import try_scan
from limn.lab.trust.trial_row import TrialRow, append, read_rows
from limn.phantom.faults import FAULTS, UNSEEN, SpoiltScan, spoilt_scan
from limn.segment.bundle.bundle import Bundle, open_bundle
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

    def make(self) -> SpoiltScan:
        """Paint it."""
        return spoilt_scan(self.fault, self.seed)


def phantom_set(name: SetName, count: int) -> tuple[SpoiltPhantom, ...]:
    """The first scans of a set: every fourth is a good one, the others go round all faults.

    Kinds that no judge may be taught (`phantom.faults.UNSEEN`) stand in the "try" set only.
    """
    spoilt = [
        fault for fault in FAULTS if fault not in GOOD and (name == "try" or fault not in UNSEEN)
    ]
    scans = []
    for k in range(count):
        kinds, turn = spoilt, k - k // GOOD_EVERY - 1
        if k % GOOD_EVERY == 0:
            kinds, turn = list(GOOD), k // GOOD_EVERY
        scans.append(SpoiltPhantom(kinds[turn % len(kinds)], FIRST_SEED[name] + k))
    return tuple(scans)


def contour_set(
    bundle_folder: Path,
    path: Path,
    scans: Sequence[Spoilt],
    report: Callable[[str], None],
    workers: int | None = None,
) -> list[TrialRow]:
    """Contour every scan of a set that the file of rows lacks.

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
        refuse_other_scores(path.parent, f"spoilt scans by {_weights(bundle)}\n")
        done = {(row.fault, row.seed) for row in read_rows(path)}
        waiting = [scan for scan in scans if (scan.fault, scan.seed) not in done]
        before, began = len(scans) - len(waiting), time.monotonic()
        for k, row in enumerate(_rows(bundle_folder, waiting, workers or cores()), start=1):
            append(path, row)
            left_s = (time.monotonic() - began) / k * (len(waiting) - k)
            report(f"{before + k}/{len(scans)} {_words(row)}; {in_words(left_s)} left")
    wanted = {(scan.fault, scan.seed) for scan in scans}
    return [row for row in read_rows(path) if (row.fault, row.seed) in wanted]


def _weights(bundle: Bundle) -> str:
    """The bundle without its judge, which does not change what is contoured."""
    return f"{bundle.label}, folds {' '.join(map(str, bundle.folds))}"


def _rows(bundle: Path, scans: Sequence[Spoilt], workers: int) -> Iterator[TrialRow]:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(max(1, min(workers, len(scans))), context, end_with_parent)
    try:
        for job in as_completed([pool.submit(_row, bundle, scan) for scan in scans]):
            yield job.result()
    except BrokenProcessPool as error:
        msg = (
            "a process that contours phantoms was killed, most likely for lack of memory: give "
            "fewer --workers, and the run resumes where it stopped"
        )
        raise StageFailed(msg) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _row(bundle: Path, scan: Spoilt) -> TrialRow:
    return try_scan(scan.make(), _warm(bundle))


@lru_cache(maxsize=1)
def _warm(folder: Path) -> Ensemble:
    """The ensemble of this process."""
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
