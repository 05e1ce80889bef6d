"""Contours a scan of the journal again with another bundle, in a process of its own (D-278).

The warm worker keeps its one model and its memory: a second one beside it could make the next scan
of a sleeping animal too large for this machine. So the other bundle is loaded by a process of the
lowest priority, which ends as soon as a live scan is there and begins anew after it.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

from limn.domain.errors import BundleUnfit, ConfigWrong, StageFailed
from limn.domain.shipped import EMBEDDED_BUNDLE, models_dir
from limn.node.config import Config
from limn.node.contour.job import Job, Result
from limn.node.contour.site_bundle import deliverable_bundle, label_of, look_at
from limn.node.contour.work.warm import warm_up
from limn.node.contour.work.worker import contour_here
from limn.node.host.doorbell import engine_runs
from limn.node.host.step_back import step_back
from limn.node.store.journal.rows import Arrived, ScanRow
from limn.segment.bundle.bundle import Bundle
from limn.segment.bundle.shelf import folders

# Beside a worker, on what it leaves of the processor, a whole ensemble may take so long.
LONGEST_S = 3600.0
LOOK_S = 0.5


def allowed_bundles(config: Config) -> dict[str, Path]:
    """Folders of the bundles that this site may deliver with, by name and version; unverified.

    Those beside its own bundle, the installed ones and the embedded one. A demonstration bundle
    only if the site allows it.
    """
    found: dict[str, Path] = {}
    for folder in _candidates(config):
        try:
            bundle = look_at(folder)
        except (BundleUnfit, OSError):
            continue
        if config.model.allow_demo_bundle or not bundle.demonstration:
            found.setdefault(bundle.label, folder)
    return found


def _candidates(config: Config) -> Iterator[Path]:
    yield config.model.bundle
    for shelf in (config.model.bundle.parent, models_dir()):
        try:
            yield from folders(shelf)
        except BundleUnfit:
            # This account can't read it.
            continue
    yield EMBEDDED_BUNDLE


def sha256_of_bundle(folder: Path) -> str:
    """By which the journal knows a bundle."""
    return look_at(folder).sha256


def with_verified_bundle(config: Config, folder: Path) -> tuple[Config, Bundle]:
    """The site's config with another bundle, which is verified.

    Raises
    ------
    BundleUnfit, ConfigWrong
        If the site may not deliver with it, or its ROIs don't fit the site's settings.
    """
    model = config.model.model_copy(update={"bundle": folder})
    if engine_runs(config):
        # The GPU is the workers'.
        model = model.model_copy(update={"device": "cpu"})
    other = config.model_copy(update={"model": model})
    return other, deliverable_bundle(other)


def job_of(config: Config, arrived: Arrived, uids: tuple[str, str], replaces: str) -> Job:
    """The job of a scan with one animal in its field, for `contour_when_idle`.

    Parameters
    ----------
    uids : SOP and Series Instance UID of the structure set
    replaces : SOP Instance UID of the one before; empty if there is none
    """
    return Job(
        scan=0,
        animal=arrived.animal,
        paths=tuple(str(Path(arrived.folder) / name) for name in arrived.files),
        model=config.model,
        planning_system=config.planning_system,
        sop_instance_uid=uids[0],
        series_instance_uid=uids[1],
        date=arrived.date,
        time=arrived.time,
        predecessor_uid=replaces,
        deadline_s=LONGEST_S,
        judge=config.judge,
        roi=config.roi,
        forms=config.forms,
        input_digest=arrived.input_digest,
        received_at=arrived.last_slice_at + arrived.settle_s,
    )


def arrival_of(row: ScanRow, bundle_sha256: str, date: str, time_of_day: str) -> Arrived:
    """The series of a scan as if it had come for another bundle.

    Parameters
    ----------
    date, time_of_day : of its structure set
    """
    return Arrived(
        series_instance_uid=row.series_instance_uid,
        input_digest=row.input_digest,
        bundle_sha256=bundle_sha256,
        profile=row.profile,
        study_instance_uid=row.study_instance_uid,
        animal=row.animal,
        sender=row.sender,
        folder=row.folder,
        files=row.files,
        receive_s=row.receive_s,
        settle_s=row.settle_s,
        last_slice_at=row.last_slice_at,
        ready_at=row.ready_at,
        date=date,
        time=time_of_day,
        priority=row.priority,
    )


def contour_when_idle(
    config: Config,
    bundle: Bundle,
    job: Job,
    is_busy: Callable[[], bool],
    told: Callable[[str], None],
) -> Result:
    """Contour a scan while no live scan is there.

    Parameters
    ----------
    config, bundle : of `with_verified_bundle`
    is_busy : whether slices come in, or a live scan waits or runs
    told : gets how far it is, in words, twice a second

    Raises
    ------
    StageFailed
        If its process ends without a result, or takes longer than `LONGEST_S`.
    """
    while True:
        while is_busy():
            told("waits until no live scan comes in or runs")
            time.sleep(LOOK_S)
        began_s = time.monotonic()
        result = _contour_apart(config, bundle, job, is_busy, told)
        if result is not None:
            return result
        told(f"made way for a live scan after {time.monotonic() - began_s:.0f} s, begins anew")


def _contour_apart(
    config: Config,
    bundle: Bundle,
    job: Job,
    is_busy: Callable[[], bool],
    told: Callable[[str], None],
) -> Result | None:
    """The result of a process of its own; None if it made way for a live scan."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    work = (config, job, label_of(config, bundle), there)
    process = context.Process(target=_contour, args=work, daemon=True)
    began_s = time.monotonic()
    process.start()
    there.close()
    try:
        while not here.poll(LOOK_S):
            if is_busy():
                return None
            passed_s = time.monotonic() - began_s
            told(f"is contoured with {bundle.label} since {passed_s:.0f} s")
            if passed_s > LONGEST_S:
                msg = f"it took longer than {LONGEST_S:.0f} s"
                raise StageFailed(msg)
        result: Result = here.recv()
    except EOFError as error:
        process.join()
        msg = f"its process ended with code {process.exitcode}; is there memory for a second model?"
        raise StageFailed(msg) from error
    finally:
        process.kill()
        process.join()
        here.close()
    return result


def _contour(config: Config, job: Job, label: str, to: Connection) -> None:
    """In the process of its own."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    step_back()
    try:
        result = contour_here(job, label, warm_up(config, [config.verdicts_dir]))
    except (BundleUnfit, ConfigWrong) as error:
        result = Result(scan=0, started_at=time.time(), ended="failed", reason=str(error))
    to.send(replace(result, others=()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(3)
