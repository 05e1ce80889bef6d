"""What runs beside the GPU: a warm ensemble that contours one scan at a time.

Loaded by ``dask worker --preload limn.node.contour.work.worker CONFIG``; the model is warm before
the worker takes its first job. The engine imports `run_job` from here and stays free of torch, so
nothing heavy is imported at the top.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from distributed import get_worker

from limn.domain.errors import LimnError, StageFailed
from limn.domain.files import may_pass
from limn.domain.timing import Stopwatch
from limn.node import oplog
from limn.node.config import load_config
from limn.node.contour.allocation import KIND, TOPIC
from limn.node.contour.job import UNFIT, Job, Result
from limn.node.contour.work.contour_job import contour_job, failed
from limn.node.contour.work.progress import Progress, Told
from limn.node.contour.work.warm import Warm, warm_up
from limn.node.heartbeat import HEART, LIMIT_S
from limn.node.host import lifetime

log = logging.getLogger(__name__)

# Exit code of a worker that could not load its ensemble.
NOT_WARM = 5
# What `contour_job` imports within its functions, the pipeline aside.
IMPORTED_BY_JOBS = (
    "limn.node.contour.work.content",
    "limn.node.contour.work.forms",
    "limn.node.contour.animal_names",
)


class _Unfit(Exception):
    """A host that can't take the scan; another one may."""


@click.command()
@click.argument("config_path", type=click.Path(path_type=Path))
def dask_setup(worker: Any, config_path: Path) -> None:
    """Load and warm the ensemble before the worker registers."""
    from limn.node.contour.pipeline import rehearse  # noqa: PLC0415

    config = load_config(config_path)
    oplog.set_up(config.data_dir, "worker", config.log)
    logging.getLogger("distributed.worker").addFilter(_without_stack)
    lifetime.end_with_supervisor()
    try:
        warm = warm_up(config, [config.verdicts_dir])
        rehearse(warm.ensemble, warm.options)
    except Exception:
        # Dask would go on without an ensemble; after this exit the supervisor starts a new worker.
        log.exception("this worker can't warm up its model; it ends and is started again")
        logging.shutdown()
        os._exit(NOT_WARM)
    load_for_good()
    offer(worker, warm)


def load_for_good() -> None:
    """Import what the first scan would wait for, and collect garbage for the last time.

    What is loaded by now stays until the process ends. The headers of a scan bring on one or two
    collections, and each took 0.14 s when it looked through all of it.
    """
    for module in IMPORTED_BY_JOBS:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()


def _without_stack(record: logging.LogRecord) -> bool:
    """Drop the stack: forty lines of Dask's own when a scheduler or a link is gone."""
    record.exc_info = None
    return True


def offer(worker: Any, warm: Warm) -> None:
    """Give the Dask worker its ensemble; its heartbeat names the kind to every node."""
    worker.extensions[KIND] = warm
    worker.metrics[KIND] = lambda _: warm.kind
    lifetime.beat_in(worker.loop)
    log.info("warm on %s", warm.ensemble.description)


def ready() -> str:
    """What this worker computes on; the engine's first call opens every connection."""
    return _warm_here().ensemble.description


def _warm_here() -> Warm:
    """The ensemble of the Dask worker that runs this task."""
    warm: Warm = get_worker().extensions[KIND]
    return warm


def read_ahead(folder: str, dask_worker: Any) -> None:
    """Read a series that comes in, if no job runs on this worker; `Client.run` calls it."""
    warm: Warm = dask_worker.extensions[KIND]
    warm.read_ahead(Path(folder))


def run_job(job: Job, label: str, pixels: bytes | None = None) -> Result:
    """Contour one scan on this worker's warm ensemble.

    If it takes longer than the deadline the process ends, even while native code holds the
    interpreter lock; Dask then reports the worker's death.

    Parameters
    ----------
    label : StructureSetLabel
    pixels : the bytes of all files in a row; None to open the files under the job's paths
    """
    worker = get_worker()
    worker.log_event(TOPIC, {"started": worker.get_current_task()})
    faulthandler.dump_traceback_later(job.deadline_s, exit=True)
    try:
        with (
            # Native code may hold the interpreter lock, and with it the event loop, until then.
            HEART.allowing(job.deadline_s + LIMIT_S),
            oplog.about(scan=f"scan-{job.scan:05d}", animal=job.animal),
        ):
            # Log the start, so that after a crash the last line names the scan.
            log.info("begins%s, %d files", " PREVIEW" if job.preview else "", len(job.paths))
            return _result_or_failure(
                job, lambda began: _contour_sent(job, label, began, pixels, _progress())
            )
    finally:
        faulthandler.cancel_dump_traceback_later()
        worker.log_event(TOPIC, {"ended": worker.get_current_task()})


def contour_here(job: Job, label: str, warm: Warm) -> Result:
    """Contour one scan in this process, as a worker would, on an ensemble that is warm."""
    paths = [Path(path) for path in job.paths]
    progress = Progress()
    return _result_or_failure(
        job,
        lambda began: contour_job(job, label, warm, began, paths, Stopwatch(), progress),
    )


def _progress() -> Progress:
    """Passes on how far this worker's task is, to every node; only its own listens."""
    worker = get_worker()
    key = worker.get_current_task()

    def tell(told: Told) -> None:
        with suppress(Exception):
            # Nobody waits for it.
            worker.log_event(TOPIC, {"progress": key, **asdict(told)})

    return Progress(tell)


def _result_or_failure(job: Job, work: Callable[[float], Result]) -> Result:
    """The result of ``work``, called with its start (UTC s), or the reason why there is none."""
    started_at = time.time()
    try:
        return work(started_at)
    except LimnError as error:
        return failed(job, started_at, error)
    except _Unfit as error:
        return Result(scan=job.scan, started_at=started_at, ended=UNFIT, reason=str(error))
    except Exception as error:  # noqa: BLE001 - any error ends this scan, none ends the worker
        if isinstance(error, OSError) and may_pass(error):
            reason = f"{error.filename or 'a file'}: {error.strerror}"
            return Result(scan=job.scan, started_at=started_at, ended=UNFIT, reason=reason)
        reason = traceback.format_exc()
        return Result(scan=job.scan, started_at=started_at, ended="failed", reason=reason)


@contextmanager
def _files(job: Job, pixels: bytes | None, stopwatch: Stopwatch) -> Iterator[list[Path]]:
    """The scan's files where this host can open them.

    Raises
    ------
    StageFailed
        If this host can't open the job's paths.
    _Unfit
        If the bytes can't be written to this host's disk.
    """
    paths = [Path(path) for path in job.paths]
    if pixels is None:
        if not paths[0].exists():
            msg = (
                f"{paths[0]} can't be opened on worker {get_worker().address}; share the "
                'folder with that host under the same path, or set engine.pixels = "bytes"'
            )
            raise StageFailed(msg)
        yield paths
        return
    # The decoders read files only.
    with ExitStack() as temporary:
        try:
            with stopwatch.stage("transfer_s"):
                here = _written(job, pixels, temporary)
        except OSError as error:
            msg = (
                f"the scan's files can't be written to {get_worker().local_directory} "
                f"({error.strerror}); make room on the disk of that host"
            )
            raise _Unfit(msg) from error
        yield here


def _written(job: Job, pixels: bytes, temporary: ExitStack) -> list[Path]:
    """Write the files that came as bytes, into a folder that ``temporary`` removes."""
    folder = temporary.enter_context(
        TemporaryDirectory(
            dir=get_worker().local_directory, prefix="scan-", ignore_cleanup_errors=True
        )
    )
    # Files of a cohort may have one name in several folders.
    here = [Path(folder, f"{number}-{Path(path).name}") for number, path in enumerate(job.paths)]
    start = 0
    for path, size in zip(here, job.sizes, strict=True):
        path.write_bytes(memoryview(pixels)[start : start + size])
        start += size
    return here


def _contour_sent(
    job: Job, label: str, started_at: float, pixels: bytes | None, progress: Progress
) -> Result:
    stopwatch = Stopwatch(began=progress.stage)
    with _files(job, pixels, stopwatch) as paths, ExitStack() as reading:
        warm = _warm_here()
        with stopwatch.stage("read_s"):
            read = reading.enter_context(warm.ahead.job(paths))
        return contour_job(job, label, warm, started_at, paths, stopwatch, progress, read)
