"""What runs beside the GPU: the warm ensemble, one scan at a time.

Loaded by ``dask worker --preload limn.node.contour.worker CONFIG``; the model is warm before the
worker takes its first job. The engine imports this module for its job and results, so
nothing heavy is imported at the top.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click
from distributed import get_worker

from limn import __version__
from limn.domain.errors import LimnError, RefusedSeries, StageFailed
from limn.domain.scan import Organ, pack_labels
from limn.domain.timing import RUNTIME_STAGES, Stopwatch
from limn.node import oplog
from limn.node.config import Config, load_config
from limn.node.contour.allocation import KIND, TOPIC
from limn.node.contour.job import UNFIT, Job, Result
from limn.node.contour.site_bundle import algorithm_of, kind_of
from limn.node.host import lifetime

if TYPE_CHECKING:
    from limn.node.contour.pipeline import Options
    from limn.segment.engine.ensemble import Ensemble

log = logging.getLogger(__name__)

# What a worker without an ensemble ends with.
NOT_WARM = 5

_COLUMN = {
    Organ.HEART: "heart",
    Organ.CORD: "cord",
    Organ.LUNG_R: "lung_r",
    Organ.LUNG_L: "lung_l",
}


@dataclass(frozen=True, slots=True)
class Warm:
    """A loaded ensemble with the options of this host's config."""

    ensemble: Ensemble
    options: Options

    @property
    def kind(self) -> str:
        """What a node must expect of its scans' worker."""
        return kind_of(__version__, self.ensemble.bundle.sha256)


class _Unfit(Exception):
    """It is this host that can't, not the scan."""


_warm: dict[str, Warm] = {}


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
        warm = warm_up(config)
        rehearse(warm.ensemble, warm.options)
    except Exception:
        # Dask would go on without an ensemble; the supervisor starts one that ends anew.
        log.exception("this worker can't warm up its model; it ends and is started again")
        logging.shutdown()
        os._exit(NOT_WARM)
    offer(worker, warm)


def _without_stack(record: logging.LogRecord) -> bool:
    """When a scheduler or a link is gone, Dask's stack adds forty lines to its message."""
    record.exc_info = None
    return True


def offer(worker: Any, warm: Warm) -> None:
    """Give the worker its ensemble, and say to every node what it is."""
    _warm["model"] = warm
    worker.metrics[KIND] = lambda _: warm.kind
    log.info("warm on %s", warm.ensemble.description)


def warm_up(config: Config) -> Warm:
    """Verify the bundle, load every fold, run each once."""
    import torch  # noqa: PLC0415

    from limn.segment.bundle.bundle import open_bundle  # noqa: PLC0415
    from limn.segment.engine.ensemble import Ensemble  # noqa: PLC0415

    device = config.model.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    bundle = open_bundle(config.model.bundle)
    ensemble = Ensemble.load(
        bundle, device, config.model.profile or bundle.profile, mirroring=config.model.mirroring
    )
    ensemble.warm_up()
    return Warm(ensemble, options_of(config))


def options_of(site: Config | Job) -> Options:
    """A site's options for the pipeline."""
    from limn.node.contour.pipeline import Options  # noqa: PLC0415

    return Options(
        two_animals=site.model.two_animals,
        assume_hu=site.model.assume_hu,
        style=site.planning_system.style,
        max_points=site.planning_system.max_points,
    )


def ready() -> str:
    """Say what this worker computes on; the engine's first call opens every connection."""
    return _warm["model"].ensemble.description


def run_job(job: Job, label: str, pixels: bytes | None = None) -> Result:
    """Contour one scan on this worker's warm ensemble.

    ``pixels`` are the bytes of all its files in a row; without them they are opened where they
    lie.

    If it takes longer than the deadline the process ends, even while native code holds the
    interpreter lock; Dask then reports the worker's death.
    """
    worker = get_worker()
    worker.log_event(TOPIC, {"started": worker.get_current_task()})
    faulthandler.dump_traceback_later(job.deadline_s, exit=True)
    try:
        with oplog.about(scan=f"scan-{job.scan:05d}", animal=job.animal):
            # Whatever ends this process in the middle, the log's last line tells with which scan.
            log.info("begins, %d files", len(job.paths))
            return _result_or_failure(job, lambda began: _contour(job, label, began, pixels))
    finally:
        faulthandler.cancel_dump_traceback_later()
        worker.log_event(TOPIC, {"ended": worker.get_current_task()})


def contour_here(job: Job, label: str, warm: Warm) -> Result:
    """Contour one scan in this process, as a worker would, on an ensemble that is warm."""
    _warm["model"] = warm
    paths = [Path(path) for path in job.paths]
    return _result_or_failure(
        job, lambda began: _contour_files(job, label, began, paths, Stopwatch())
    )


def _result_or_failure(job: Job, work: Callable[[float], Result]) -> Result:
    """The result of some work, which is told when it began (UTC s), or why there is none."""
    started_at = time.time()
    try:
        return work(started_at)
    except LimnError as error:
        ended = "refused" if isinstance(error, RefusedSeries) else "failed"
        return Result(scan=job.scan, started_at=started_at, ended=ended, reason=str(error))
    except _Unfit as error:
        return Result(scan=job.scan, started_at=started_at, ended=UNFIT, reason=str(error))
    except Exception:  # noqa: BLE001 - the one broad except: whatever it was, park the scan
        reason = traceback.format_exc()
        return Result(scan=job.scan, started_at=started_at, ended="failed", reason=reason)


@contextmanager
def _files(job: Job, pixels: bytes | None, stopwatch: Stopwatch) -> Iterator[list[Path]]:
    """The scan's files as this host can open them.

    Raises
    ------
    StageFailed
        If it can't.
    _Unfit
        If this host's disk is full.
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
    # The decoders want files.
    with ExitStack() as kept:
        try:
            with stopwatch.stage("transfer_s"):
                here = _written(job, pixels, kept)
        except OSError as error:
            msg = (
                f"the scan's files can't be written to {get_worker().local_directory} "
                f"({error.strerror}); make room on the disk of that host"
            )
            raise _Unfit(msg) from error
        yield here


def _written(job: Job, pixels: bytes, kept: ExitStack) -> list[Path]:
    """The files that came as bytes, in a folder that goes with ``kept``."""
    folder = kept.enter_context(
        TemporaryDirectory(
            dir=get_worker().local_directory, prefix="scan-", ignore_cleanup_errors=True
        )
    )
    here = [Path(folder) / Path(path).name for path in job.paths]
    start = 0
    for path, size in zip(here, job.sizes, strict=True):
        path.write_bytes(memoryview(pixels)[start : start + size])
        start += size
    return here


def _contour(job: Job, label: str, started_at: float, pixels: bytes | None) -> Result:
    stopwatch = Stopwatch()
    with _files(job, pixels, stopwatch) as paths:
        return _contour_files(job, label, started_at, paths, stopwatch)


def _contour_files(
    job: Job, label: str, started_at: float, paths: list[Path], stopwatch: Stopwatch
) -> Result:
    from limn.dicom.rtstruct import Identity  # noqa: PLC0415
    from limn.dicom.volume import read_headers  # noqa: PLC0415
    from limn.node.contour.pipeline import contour  # noqa: PLC0415

    warm = _warm["model"]
    bundle = warm.ensemble.bundle
    with stopwatch.stage("read_s"):
        instances = read_headers(paths)
    product = contour(
        instances,
        warm.ensemble,
        Identity(
            sop_instance_uid=job.sop_instance_uid,
            series_instance_uid=job.series_instance_uid,
            date=job.date,
            time=job.time,
            label=label,
            software=__version__,
            algorithm=algorithm_of(bundle),
            algorithm_version=bundle.sha256,
            predecessor_uid=job.predecessor_uid,
        ),
        options_of(job),
        stopwatch,
        lambda done, total: None,
    )
    # Packing the labels is paid with the picture: both are for people, not for the peer.
    with stopwatch.stage("picture_s"):
        labels = pack_labels(product.labels.labels_zyx, product.disagreement_zyx)
    z, y, x = product.labels.grid.shape_zyx
    mm = product.labels.grid.spacing_mm
    record: dict[str, Any] = {
        "started_at": started_at,
        **stopwatch.elapsed_s,
        "runtime_s": sum(stopwatch.elapsed_s.get(stage, 0.0) for stage in RUNTIME_STAGES),
        "limn_version": __version__,
        "bundle": bundle.label,
        "bundle_sha256": bundle.sha256,
        "device": warm.ensemble.description,
        "ensemble_profile": warm.ensemble.profile.name,
        "grid": f"{x}x{y}x{z} {mm.x:.4f}x{mm.y:.4f}x{mm.z:.4f} mm",
        "flags": " ".join(product.flags),
        **{f"{_COLUMN[organ]}_mm3": mm3 for organ, mm3 in product.volumes_mm3.items()},
        **{
            f"{_COLUMN[organ]}_removed_voxels": count
            for organ, count in product.removed_voxels.items()
        },
        **{f"{_COLUMN[organ]}_fold_dsc": dsc for organ, dsc in product.fold_dsc.items()},
        "finished_at": time.time(),
    }
    return Result(
        scan=job.scan,
        started_at=started_at,
        structure_set=product.structure_set,
        picture=product.picture,
        labels=labels,
        record=record,
        held=product.held,
    )
